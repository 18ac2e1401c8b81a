"""Poses from photographs of scenes with noise added and taken out again.

What takes long, the denoised images, is kept in a folder as PNG files and used again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from n3match.datasets.denoising.clean_images import eight_bit
from n3match.datasets.denoising.image_files import encoded, read_image
from n3match.datasets.images import ImageFile
from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.datasets.scenes.formats import find_scenes
from n3match.datasets.scenes.source import ReadOptions, ScenePair, View
from n3match.files.whole import write_whole
from n3match.pipelines.common.fingerprints import hash_of, hash_of_files, versions
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.result_rows import ResultRows
from n3match.pipelines.denoising.arguments import DESCRIPTIONS
from n3match.pipelines.denoising.evaluation_noise import noisy_image
from n3match.pipelines.denoising.methods import Method, MethodSource
from n3match.pipelines.evaluation.choices import PROTOCOLS
from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.protocol import (
    count_kept,
    find_pose,
    pose_errors,
    undistorted_pixels,
)
from n3match.pipelines.evaluation.records import NoiseResult
from n3match.pipelines.evaluation.report import noise_difference_report, noise_table
from n3match.pipelines.pairs.jobs import (
    DetectionOptions,
    ViewFeatures,
    features_of,
    make_record,
)
from n3match.pipelines.pairs.plan import PhotoPart, PlanOptions, plan_scene
from n3match.pipelines.two_view.photograph import read_photograph


@dataclass(frozen=True)
class Treatment:
    """Noise of σ (8-bit units; 0: none) and what is done against it."""

    sigma: float
    method: MethodSource


class NoisyViews:
    """Features of views whose photographs are treated.

    The noise of a photograph depends on its scene, its name and σ alone. It is added to the
    reduced grey image; the sum is rounded and clipped to 8 bits, as a file would be.

    Args:
        folder: for the denoised images.
        max_size: photographs are reduced so that the longer side has so many pixels.
        max_keypoints: for each.
        memory_limit: of the networks, bytes.
    """

    def __init__(self, folder: Path, max_size: int, max_keypoints: int, memory_limit: int):
        self.folder, self.max_size = folder, max_size
        self.max_keypoints, self.memory_limit = max_keypoints, memory_limit
        self._methods: dict[MethodSource, Method] = {}

    def fingerprint(self, scene: str, view: View, treatment: Treatment) -> str:
        """Text that changes with anything the features depend on."""
        camera = (view.K.tolist(), view.distortion.tolist(), view.lens, view.size)
        return hash_of([self._image_key(scene, view, treatment), camera, self.max_keypoints])

    def features(self, scene: str, view: View, treatment: Treatment) -> tuple[View, ViewFeatures]:
        """The view at the size of the reduced photograph, and its keypoints.

        Raises:
            OSError, ValueError: naming the photograph that can't be used.
        """
        file = ImageFile(view.path)
        photo = read_photograph(
            file, K=view.K, max_size=self.max_size, stored=view.is_stored_frame(file)
        )
        if view.size is not None and view.size != photo.size:
            raise ValueError(
                f"{view.path}: {photo.size[0]} x {photo.size[1]} pixels, its camera has "
                f"{view.size[0]} x {view.size[1]}"
            )
        height, width = photo.image.shape
        reduced = replace(view, K=photo.K, size=(width, height))
        image = self._treated(scene, view, treatment, photo.image)
        return reduced, features_of(image, reduced, DetectionOptions(self.max_keypoints))

    def _treated(
        self, scene: str, view: View, treatment: Treatment, clean: np.ndarray
    ) -> np.ndarray:
        if treatment.sigma == 0:
            return clean
        index = zlib.crc32(f"{scene}/{view.name}".encode())
        noisy = noisy_image(clean.astype(np.float32) / np.float32(255), treatment.sigma, index)
        noisy = eight_bit(noisy, channels=1)
        if treatment.method.source == "noisy":
            return noisy
        key = self._image_key(scene, view, treatment)
        readable = f"{scene}-{Path(view.name).stem}-{treatment.sigma:g}-{treatment.method.label}"
        name = re.sub(r"[^\w.-]", "_", readable)
        path = self.folder / f"{name}-{key[:16]}.png"
        if path.exists():
            return read_image(path)
        run = self._methods.get(treatment.method)
        if run is None:
            run = self._methods[treatment.method] = treatment.method.load(self.memory_limit)
        image = run(noisy.astype(np.float32) / np.float32(255), treatment.sigma)
        image = eight_bit(image, channels=1)
        write_whole(path, encoded(image, path))
        return image

    def _image_key(self, scene: str, view: View, treatment: Treatment) -> str:
        photograph = hash_of_files(view.path)
        return hash_of([
            scene, view.name, photograph, self.max_size, treatment.sigma,
            treatment.method.fingerprint(), versions("n3match", "torch", "numpy"),
        ])


@dataclass(frozen=True)
class Estimation:
    """What finds the pose, the same for all."""

    filter: FilterSource
    estimator: str
    seed: int

    def settings(self, keys: Sequence[str], pair: ScenePair) -> str:
        """Fingerprint of a row: of its views' features, `keys`, and of all else."""
        protocol = PROTOCOLS[self.estimator]
        parts = [
            *keys, pair.R.tolist(), pair.t.tolist(), self.filter.fingerprint(), self.estimator,
            protocol.options, TRUE_MATCH_DISTANCE, self.seed,
            *versions("opencv", "n3match", protocol.package),
        ]
        return hash_of(parts)[:12]


def evaluate(
    parts: Sequence[PhotoPart],
    treatments: Sequence[Treatment],
    views: NoisyViews,
    estimation: Estimation,
    rows: ResultRows[NoiseResult],
) -> list[NoiseResult]:
    """A row for each pair and treatment, from `rows` where it is there already.

    Raises:
        OSError, ValueError: a photograph that can't be used, weights that don't fit.
    """
    run_filter = estimation.filter.load()
    found = []
    total = len(treatments) * sum(len(part) for part in parts)
    try:
        with Progress(total, "pair") as progress:
            for treatment in treatments:
                for part in parts:
                    found += _evaluate_part(
                        part, treatment, views, estimation, run_filter, rows, progress
                    )
    finally:
        rows.save()
    return found


def _evaluate_part(
    part, treatment, views, estimation, run_filter, rows, progress
) -> list[NoiseResult]:
    keys = {
        name: views.fingerprint(part.scene, view, treatment) for name, view in part.views.items()
    }
    seen = {}  # views are read where a pair needs them
    found = []
    for pair in part.pairs:
        ends = [part.views[name] for name in (pair.view0, pair.view1)]
        names = [view.name for view in ends]
        key = (part.scene, *names, float(treatment.sigma), treatment.method.label)
        settings = estimation.settings([keys[pair.view0], keys[pair.view1]], pair)
        row = rows.find(key, settings)
        if row is None:
            for name in (pair.view0, pair.view1):
                if name not in seen:
                    seen[name] = views.features(part.scene, part.views[name], treatment)
            (view0, features0), (view1, features1) = seen[pair.view0], seen[pair.view1]
            reduced = PhotoPart(
                part.name, part.scene, {pair.view0: view0, pair.view1: view1}, [pair]
            )
            record = make_record(reduced, pair, features0, features1)
            filtered = run_filter(record)()
            pose, _ = find_pose(
                record, undistorted_pixels(record), filtered, estimation.estimator, estimation.seed
            )
            kept, kept_right = count_kept(record, filtered)
            row = NoiseResult(
                *key,
                matches=len(record.ratio),
                right=int((record.distances_squared < TRUE_MATCH_DISTANCE).sum()),
                kept=kept,
                kept_right=kept_right,
                inliers=pose.num_inliers,
                status=pose.status.value,
                error_deg=pose_errors(record, pose)["error_deg"],
                settings=settings,
            )
            rows.add([row])
        found.append(row)
        progress.update()
    return found


def plan(scenes: Path, pairs: int | None, seed: int, reading: ReadOptions) -> list[PhotoPart]:
    """At most so many pairs of each scene, evenly over overlap and change of view; None: all.

    Raises:
        OSError, ValueError: no scenes, or one that can't be read.
    """
    options = PlanOptions(max_pairs=pairs, fixed_direction=True, seed=seed, strict=True)
    parts = []
    for scene in find_scenes(scenes):
        found, problems = plan_scene(scene, reading, options)
        if problems or not all(isinstance(part, PhotoPart) for part in found):
            raise ValueError(problems[0] if problems else f"{scene.path}: has no photographs")
        parts += found
    return parts


def make_report(
    rows: Sequence[NoiseResult], estimation: Estimation, views: NoisyViews,
    left_out: Sequence[str], against: Sequence[str] = (),
) -> str:
    """Markdown: the table, differences from the methods `against`, and how it was made."""
    pairs = {(r.scene, r.name0, r.name1) for r in rows}
    scenes = {scene for scene, *_ in pairs}
    used = dict.fromkeys(r.method for r in rows if r.method in DESCRIPTIONS)
    described = "; ".join(f"{name}: {DESCRIPTIONS[name]}" for name in used)
    lines = [
        f"{len(pairs)} pairs of {len(scenes)} scene{'s' * (len(scenes) != 1)}, photographs reduced "
        f"to {views.max_size} px, at most {views.max_keypoints} keypoints; filter "
        f"{estimation.filter.label}, {PROTOCOLS[estimation.estimator].title}, "
        f"seed {estimation.seed}.",
        noise_table(rows),
        *([noise_difference_report(rows, against, estimation.seed)] if against else []),
        "Means over pairs; mAP in % (pose error: max(rotation, translation direction), 180° "
        "without a pose; binned in steps of 5°), the interval is a bootstrap over pairs. A "
        "match is right where the squared symmetric epipolar distance is below "
        f"{TRUE_MATCH_DISTANCE:g} in calibrated units. {described}; "
        f"{', '.join(versions('opencv', 'torch'))}.",
    ]
    return "\n\n".join([*lines, *left_out]) + "\n"
