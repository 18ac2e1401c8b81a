"""From two images to matches, a filter's opinion of them, and a pose, in one call."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from n3match.arguments import flag, one_of
from n3match.geometry import RelativePose
from n3match.geometry.checks import check_intrinsics
from n3match.matching import (
    FEATURES,
    Features,
    PutativeMatches,
    exclusive_logits,
    extract_features,
    putative_matches,
)
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.two_view.photograph import (
    Photograph,
    photograph_of_array,
    read_photograph,
)
from n3match.two_view import (
    as_filter,
    change_between,
    match_logits,
    pose_from_logits,
    probability,
)
from n3match.weights import default_filter


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """Two images and all N putative matches between them, most of which are wrong.

    Attributes:
        photographs: image 0 and image 1, with their cameras.
        features: their keypoints, in pixels of `Photograph.image`.
        putative: the matches, from image 0 to image 1, in the same pixels.
        logits: (N,) the filter's, kept above 0; None where there is no filter. Of a filter that
            looks at second nearest neighbours below 0 where a likelier match has one of the
            keypoints; of others −inf at those neighbours.
        seconds: wall-clock seconds of each stage: "weights" (loading them), "read", the feature's
            name ("sift"), "matching" and "filter".
    """

    photographs: tuple[Photograph, Photograph]
    features: tuple[Features, Features]
    putative: PutativeMatches
    logits: np.ndarray | None
    seconds: dict[str, float]

    @property
    def points0(self) -> np.ndarray:
        """(N, 2) matched points in pixels of image 0 as given; integers are pixel centres."""
        return self.photographs[0].to_file(self.putative.points0)

    @property
    def points1(self) -> np.ndarray:
        """(N, 2) the same of image 1: row i is the match of row i of `points0`."""
        return self.photographs[1].to_file(self.putative.points1)

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: the filter's choice; all without a filter."""
        if self.logits is None:
            return np.ones(len(self.putative), dtype=bool)
        return self.logits > 0

    @property
    def probability(self) -> np.ndarray:
        """(N,) of being right, by the filter; above ½ where kept, 1 without a filter."""
        if self.logits is None:
            return np.ones(len(self.putative))
        return probability(self.logits)

    @functools.cached_property
    def pair_probability(self) -> float:
        """That both images show a common part of the scene, calibrated where as many pairs do as
        don't: that of `pose()`, which is estimated for it."""
        found = self.pose().pair_probability
        assert found is not None  # of verified poses it is known
        return found

    def filtered(self, filter: MatchFilter | str | os.PathLike) -> MatchedPair:
        """The same matches, with what another filter says of them.

        Args:
            filter: a shipped name, a path or a `MatchFilter`. Second nearest neighbours are there
                where the filter of `match_images` looked at them.

        Raises:
            FileNotFoundError, ValueError, TypeError: it can't be loaded, or wants to know more of a
                match than is known here.
        """
        net = as_filter(filter)
        photo0, photo1 = self.photographs
        second = net.config.wants_second(len(self.features[0].keypoints))
        putative = self.putative if second else self.putative.nearest()
        began = time.perf_counter()
        side_info = putative.side_info(
            net.side_info, (photo1.K[0, 0] + photo1.K[1, 1]) / 2,
            binary=net.config.binary_descriptors, second_nearest=second,
        )
        logits = np.full(len(self.putative), -np.inf)
        logits[: len(putative)] = match_logits(
            putative.points0,
            putative.points1,
            photo0.K,
            photo1.K,
            side_info=side_info,
            sizes_angles0=self.features[0].sizes_angles[putative.index0],
            sizes_angles1=self.features[1].sizes_angles[putative.index1],
            filter=net,
            distortion0=photo0.distortion,
            distortion1=photo1.distortion,
        )
        if second and putative.near_mutual is not None:
            logits = exclusive_logits(putative.index0, putative.index1, logits)
        seconds = {**self.seconds, "filter": time.perf_counter() - began}
        return replace(self, logits=logits, seconds=seconds)

    def pose(
        self, *, estimator: str = "auto", threshold: float = 1.0, seed: int = 0
    ) -> RelativePose:
        """The pose of camera 1 relative to camera 0: x1 ~ R x0 + t with ‖t‖ = 1.

        Args:
            estimator, seed: see `n3match.estimate_relative_pose`.
            threshold: inlier threshold in pixels of the images as they were matched, see
                `max_size` of `match_images`.

        Returns:
            `RelativePose` over all N matches; `status` says why where there is none.

        Raises:
            ValueError: an unknown estimator, a threshold that isn't positive.
        """
        photo0, photo1 = self.photographs
        change = change_between(
            self.features[0].sizes_angles[self.putative.index0],
            self.features[1].sizes_angles[self.putative.index1],
            photo0.K,
            photo1.K,
        )
        return pose_from_logits(
            self.putative.points0,
            self.putative.points1,
            photo0.K,
            photo1.K,
            self.logits,
            keypoint_change=change,
            estimator=estimator,
            threshold=threshold,
            seed=seed,
            distortion0=photo0.distortion,
            distortion1=photo1.distortion,
        )

    def plot(self, path: str | os.PathLike, pose: RelativePose | None = None) -> None:
        """Writes a PNG: the images side by side with all matches, and a histogram of probabilities.

        Args:
            path: of the picture, ends in .png; written to a temporary file and renamed.
            pose: of these matches: epipolar lines of some inliers, or why there are none, are
                drawn too.

        Raises:
            ValueError: another ending. OSError: an image can't be read again, the picture can't be
                written.
        """
        from n3match.pipelines.common.plots.matches import (
            plot_two_view,  # matplotlib takes a second
        )

        plot_two_view(path, self.photographs, self.putative, self.kept, self.logits, pose)


def match_images(
    image0: str | os.PathLike | np.ndarray | Photograph,
    image1: str | os.PathLike | np.ndarray | Photograph,
    *,
    K0: np.ndarray | None = None,
    K1: np.ndarray | None = None,
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    max_keypoints: int = 4000,
    max_size: int | None = 1600,
    feature: str = "sift",
    filter: MatchFilter | str | os.PathLike | None = "auto",
    device: str | torch.device | None = None,
    stored_pixels: bool = False,
) -> MatchedPair:
    """Keypoints of two images, nearest neighbours, the match filter.

    Args:
        image0, image1: of one scene: the path of a file, an array (H, W) grey or (H, W, 3) red,
            green, blue, uint8, or a `Photograph`. A file is read as `cv2.imread` does: turned by an
            EXIF orientation, as are all pixels here.
        K0, K1: (3, 3) camera matrices in pixels of the images as given; integers are pixel
            centres. None: focal length from the file's EXIF data, else 1.2 × the longer side.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.
        max_keypoints: per image, the strongest.
        max_size: a larger image is matched with its longer side reduced to so many pixels; None:
            as it is. All answers are in pixels of the image as given.
        feature: "sift", "orb", "akaze" or "brisk", see `n3match.matching.extract_features`.
        filter: a shipped name, a path or a `MatchFilter`; None for no filter. "auto": that for the
            feature, "sift" or, for the binary ones, "orb".
        device: where descriptors are compared and a filter given by name or path runs; None: the
            CPU. A `MatchFilter` runs where it is.
        stored_pixels: files are not turned.

    Returns:
        `MatchedPair` of all putative matches; none at all where an image shows no texture.

    Raises:
        FileNotFoundError, ValueError, TypeError: naming the file or the argument.
    """
    watch, stored_pixels = Stopwatch(), flag("stored_pixels", stored_pixels)
    net = None
    if filter is not None:
        with watch.stage("weights"):
            net = as_filter(filter_of(filter, feature), device)
    with watch.stage("read"):
        photo0 = _photograph("0", image0, K0, distortion0, max_size, stored_pixels)
        photo1 = _photograph("1", image1, K1, distortion1, max_size, stored_pixels)
    with watch.stage(feature):
        features0 = _features("0", photo0, feature, max_keypoints)
        features1 = _features("1", photo1, feature, max_keypoints)
    with watch.stage("matching"):
        putative = putative_matches(
            features0.keypoints,
            features0.descriptors,
            features1.keypoints,
            features1.descriptors,
            binary=features0.binary,
            second_nearest=net is not None
            and net.config.wants_second(len(features0.keypoints)),
            device=device,
        )
    features = features0, features1
    pair = MatchedPair((photo0, photo1), features, putative, None, watch.seconds)
    return pair if net is None else pair.filtered(net)


def filter_of(
    filter: MatchFilter | str | os.PathLike, feature: str
) -> MatchFilter | str | os.PathLike:
    """The filter given; of "auto" the shipped one for a feature.

    Raises:
        ValueError: an unknown feature.
    """
    one_of("feature", feature, FEATURES)
    if isinstance(filter, str) and filter == "auto":
        return default_filter(binary=feature != "sift")
    return filter


def _features(number: str, photo: Photograph, feature: str, max_keypoints: int) -> Features:
    try:
        return extract_features(photo.image, feature, max_keypoints)
    except ValueError as error:
        message = str(error)
        if not message.startswith("image: "):
            raise
        raise ValueError(f"image{number}: {message.removeprefix('image: ')}") from error


def _photograph(
    number: str,
    image: str | os.PathLike | np.ndarray | Photograph,
    K: np.ndarray | None,
    distortion: np.ndarray | None,
    max_size: int | None,
    stored: bool,
) -> Photograph:
    if isinstance(image, Photograph):
        if K is not None or distortion is not None:
            raise ValueError(
                f"K{number}, distortion{number}: the Photograph given as image{number} has its "
                "own, wanted None"
            )
        return image
    if K is not None:
        K = check_intrinsics(f"K{number}", K)
    options: dict[str, Any] = {"K": K, "distortion": distortion, "max_size": max_size}
    if isinstance(image, np.ndarray):
        return photograph_of_array(image, name=f"image{number}", **options)
    if isinstance(image, (str, os.PathLike)):
        if not os.fspath(image):
            raise ValueError(f"image{number} must be a path, a numpy array or a Photograph, got ''")
        return read_photograph(image, stored=stored, **options)
    raise TypeError(
        f"image{number} must be a path, a numpy array or a Photograph, got {type(image).__name__}"
    )
