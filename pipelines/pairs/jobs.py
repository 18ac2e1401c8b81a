"""The work behind a training store, in pieces that any process can do: keypoints, then matches."""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import binom

from n3match.datasets.images import ImageFile
from n3match.datasets.pairs.changed_photographs import change_photograph, shrink_photograph
from n3match.datasets.pairs.dump import read_dump_record
from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.datasets.pairs.store import PairRecord, open_store
from n3match.datasets.pairs.store_writer import PairStoreWriter
from n3match.datasets.scenes.source import ScenePair, View
from n3match.files.whole import write_whole
from n3match.geometry import (
    calibrated_points,
    essential_from_pose,
    symmetric_epipolar_distance,
)
from n3match.matching import extract_features, extract_sift, putative_matches
from n3match.matching.features import CONTRAST_THRESHOLD
from n3match.pipelines.pairs.plan import DumpPart, PhotoPart

#: Mutual matches with a ratio below this are mostly right, where the pose is.
RELIABLE_RATIO = 0.8
TURNED = "turned by their EXIF orientation"
LEFT_STORED = "with an EXIF orientation read as stored, as their cameras are"
_SURE = 0.01  # chance of leaving out a pair that has just the share wanted


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Keypoints of a view: pixels, calibrated coordinates (N, 2) float64, what is known of them."""

    keypoints: np.ndarray
    calibrated: np.ndarray
    descriptors: np.ndarray
    sizes_angles: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class DetectionOptions:
    """How keypoints are sought in a view.

    Attributes:
        max_keypoints: per view.
        feature: one of `n3match.matching.FEATURES`.
        contrast_threshold: of SIFT, see `extract_sift`.
        max_size: a larger photograph is reduced so that its longer side has so many pixels.
        changed: the photograph is changed on purpose first (`datasets.pairs.changed_photographs`).
        seed: of the changes.
    """

    max_keypoints: int
    feature: str = "sift"
    contrast_threshold: float = CONTRAST_THRESHOLD
    max_size: int | None = None
    changed: bool = False
    seed: int = 0


@dataclass(frozen=True)
class PairJobs:
    """Makes the parts of one store.

    Attributes:
        writer: of the store.
        detection: how keypoints are sought.
        min_consistent: see `inconsistency`; 0 keeps every pair.
        strict: raise at the first problem instead of noting it.
    """

    writer: PairStoreWriter
    detection: DetectionOptions
    min_consistent: float
    strict: bool

    def extract(self, view: View) -> str:
        """Detect the keypoints of a view and keep them beside the parts, or why there are none.

        Returns:
            What was done about an EXIF orientation: TURNED, LEFT_STORED; "": there is none, or the
            photograph wasn't read.

        Raises:
            OSError, ValueError: the photograph can't be used, where `strict`.
        """
        path = self._features_path(view)
        if path.exists():
            return ""
        turn = ""
        try:
            file = ImageFile(view.path)
            stored = view.is_stored_frame(file)
            image = file.gray(stored=stored)
            if file.orientation != 1:
                turn = LEFT_STORED if stored else TURNED
            fields = vars(features_of(image, view, self.detection))
        except (OSError, ValueError) as error:
            if self.strict:
                raise
            fields = {"problem": np.array(str(error))}
        buffer = io.BytesIO()
        np.savez(buffer, **fields)
        write_whole(path, buffer.getvalue())
        return turn

    def forget(self, view: View) -> None:
        self._features_path(view).unlink(missing_ok=True)

    def make_part(self, part: PhotoPart | DumpPart) -> None:
        """Match and label the pairs of a part and write it."""
        found = self._dump_records(part) if isinstance(part, DumpPart) else self._match(part)
        records, left_out, problems = [], [], []
        for what in found:
            if isinstance(what, str):
                problems.append(what)
                continue
            why = inconsistency(what, self.min_consistent)
            if why is None:
                records.append(what)
            else:
                left_out.append(f"{what.scene}: {what.name0}, {what.name1}: {why}")
        self.writer.write_part(part.name, records, left_out=left_out, problems=problems)

    def _match(self, part: PhotoPart):
        """Records, and lines about the views that can't be used."""
        features = {name: self._load(view) for name, view in part.views.items()}
        yield from (found for found in features.values() if isinstance(found, str))
        for pair in part.pairs:
            ends = [features[name] for name in (pair.view0, pair.view1)]
            if not any(isinstance(end, str) for end in ends):
                yield make_record(part, pair, *ends)

    def _dump_records(self, part: DumpPart):
        with open_store(part.path) as file:
            for row in part.rows:
                try:
                    yield read_dump_record(file, row, part.scene)
                except ValueError as error:
                    if self.strict:
                        raise
                    yield str(error)

    def _load(self, view: View) -> ViewFeatures | str:
        path = self._features_path(view)
        if not path.exists():  # the photograph was changed meanwhile
            self.extract(view)
        with np.load(path, allow_pickle=False) as found:
            if "problem" in found:
                return str(found["problem"])
            return ViewFeatures(**found)

    def _features_path(self, view: View) -> Path:
        """Named by all that the features depend on, so that a changed photograph is read again."""
        try:
            stat = view.path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = ()
        camera = (view.K.tolist(), view.distortion.tolist(), view.lens, view.size, view.stored)
        key = repr((str(view.path.absolute()), state, camera, self.detection))
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.writer.features_dir / f"{name}.npz"


def features_of(image: np.ndarray, view: View, detection: DetectionOptions) -> ViewFeatures:
    """Keypoints of a view in its photograph's pixels (H, W) uint8.

    Raises:
        ValueError: the camera isn't that of such an image.
    """
    height, width = image.shape
    if view.size is not None and view.size != (width, height):
        raise ValueError(
            f"{view.path}: {width} x {height} pixels, its camera has "
            f"{view.size[0]} x {view.size[1]}"
        )
    cx, cy = view.K[:2, 2]
    if not (-width < cx < 2 * width and -height < cy < 2 * height):
        raise ValueError(
            f"{view.path}: {width} x {height} pixels, its principal point is ({cx:g}, {cy:g})"
        )
    keypoints, sizes_angles, descriptors = _detect(image, view, detection)
    calibrated = calibrated_points(keypoints, view.K, view.distortion, view.lens)
    seen = np.isfinite(calibrated).all(axis=1)
    if view.lens != "opencv":
        keypoints = calibrated @ view.K[:2, :2].T + view.K[:2, 2]
    return ViewFeatures(
        keypoints=keypoints[seen],
        calibrated=calibrated[seen],
        descriptors=descriptors[seen],
        sizes_angles=sizes_angles[seen],
        size=np.array([width, height]),
    )


def _detect(
    image: np.ndarray, view: View, detection: DetectionOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints (N, 2), sizes and angles (N, 2) in the photograph's pixels, descriptors (N, D)."""
    scale = 1.0 if detection.max_size is None else detection.max_size / max(image.shape)
    changed = None
    if detection.changed:
        # A view's changes depend on its name, not on which others there are.
        rng = np.random.default_rng([detection.seed, zlib.crc32(view.name.encode())])
        changed = change_photograph(image, rng, min(scale, 1.0))
    elif scale < 1:
        changed = shrink_photograph(image, scale)
    seen, count = image if changed is None else changed.image, detection.max_keypoints
    if detection.feature == "sift":
        features = extract_sift(seen, count, contrast_threshold=detection.contrast_threshold)
    else:
        features = extract_features(seen, detection.feature, count)
    keypoints, sizes_angles = features.keypoints.astype(np.float64), features.sizes_angles
    if changed is not None:
        keypoints, sizes_angles = changed.points(keypoints), changed.sizes_angles(sizes_angles)
    return keypoints, sizes_angles, features.descriptors


def make_record(
    part: PhotoPart, pair: ScenePair, features0: ViewFeatures, features1: ViewFeatures
) -> PairRecord:
    """Putative matches of a pair with their labels from its true epipolar geometry."""
    view0, view1 = part.views[pair.view0], part.views[pair.view1]
    matches = putative_matches(
        features0.keypoints, features0.descriptors, features1.keypoints, features1.descriptors,
        binary=features0.descriptors.dtype == np.uint8, second_nearest=True,
    )
    x0 = features0.calibrated[matches.index0]
    x1 = features1.calibrated[matches.index1]
    t = pair.t / np.linalg.norm(pair.t)
    record = PairRecord(
        scene=part.scene,
        name0=view0.name,
        name1=view1.name,
        num_shared=pair.num_shared,
        points0=matches.points0,
        points1=matches.points1,
        xs=np.concatenate([x0, x1], axis=1),
        distances_squared=symmetric_epipolar_distance(x0, x1, essential_from_pose(pair.R, t)),
        R=pair.R,
        t=t,
        ratio=matches.ratio,
        mutual=matches.mutual,
        descriptor_distance=matches.distance,
        index0=matches.index0,
        index1=matches.index1,
        sizes_angles0=features0.sizes_angles[matches.index0],
        sizes_angles1=features1.sizes_angles[matches.index1],
        K0=view0.K,
        K1=view1.K,
        distortion0=view0.distortion,
        distortion1=view1.distortion,
        size0=tuple(features0.size.tolist()),
        size1=tuple(features1.size.tolist()),
        back_ratio=matches.back_ratio,
        apart=matches.apart,
        near_mutual=matches.near_mutual,
    )
    # Pixels of the other lenses are those of an ideal one already.
    if view0.lens != "opencv":
        record = replace(record, distortion0=np.zeros(4))
    if view1.lens != "opencv":
        record = replace(record, distortion1=np.zeros(4))
    # Rows of second nearest neighbours follow those of the nearest, one of each keypoint.
    return record.split(len(features0.keypoints))


def inconsistency(record: PairRecord, wanted: float) -> str | None:
    """Why the pose of a pair can't be that of its matches; None where it may.

    Of the reliable matches (mutual, ratio below RELIABLE_RATIO) a share of `wanted` should lie
    within the label's threshold of their epipolar lines. A pair is doubted only where the number
    that does is so low that it would be with a chance of 1 % or less: few matches prove nothing.
    """
    reliable = record.mutual.astype(bool) & (record.ratio < RELIABLE_RATIO)
    fit = int((record.distances_squared[reliable] < TRUE_MATCH_DISTANCE).sum())
    total = int(reliable.sum())
    if total == 0 or binom.cdf(fit, total, wanted) > _SURE:
        return None
    return (
        f"{fit} of {total} mutual matches with ratio < {RELIABLE_RATIO} fit its pose, "
        f"wanted a share of {wanted:g}"
    )
