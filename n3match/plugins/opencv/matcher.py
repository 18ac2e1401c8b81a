"""A descriptor matcher that knows the keypoints: OpenCV 5's `setPairInfo` and `match`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from n3match.arguments import flag, sequence, whole
from n3match.geometry.checks import check_distortion, check_points_array, check_size
from n3match.matching import one_to_one
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.opencv.information import mean_focal, points_of
from n3match.plugins.opencv.matches import keypoint_match_logits, pixel_cameras
from n3match.plugins.opencv.neighbours import Neighbours, find_neighbours
from n3match.two_view import as_filter
from n3match.weights import default_filter

_NORMS = (
    cv2.NORM_INF, cv2.NORM_L1, cv2.NORM_L2, cv2.NORM_L2SQR, cv2.NORM_HAMMING, cv2.NORM_HAMMING2,
)
Keypoints = Sequence[cv2.KeyPoint] | np.ndarray


@dataclass(frozen=True)
class _Pair:
    query: Keypoints
    train: Keypoints
    query_size: tuple[int, int] | None
    train_size: tuple[int, int] | None
    matrices: tuple[np.ndarray | None, np.ndarray | None]
    distortions: tuple[np.ndarray | None, np.ndarray | None]


class N3Matcher:
    """Brute-force matching and the learned filter in one, called as `cv2.LightGlueMatcher` is.

    First `setPairInfo`, then `match` or `knnMatch`. It stands beside OpenCV's matcher classes and
    is none of them (they can't be derived from in Python), so it works alike in OpenCV 4 and 5.

    Args:
        normType: as in `cv2.BFMatcher`; None: Hamming for uint8 descriptors, L2 for others.
        filter: a `MatchFilter`, a shipped name, or a path. "auto": "orb" for Hamming norms, else
            "sift". One that is trained on SIFT is told of binary descriptors (ORB, AKAZE, BRISK)
            which matches are mutual, but not the ratio of distances, which is spread otherwise
            there.
    """

    def __init__(
        self,
        normType: int | None = None,
        *,
        filter: MatchFilter | str | os.PathLike = "auto",
    ):
        self._norm = None if normType is None else whole("normType", normType)
        if self._norm not in (None, *_NORMS):
            raise ValueError(f"normType must be one of OpenCV's {_NORMS}, got {normType}")
        # Which one "auto" is, is known with the first descriptors.
        auto = isinstance(filter, str) and filter == "auto"
        self._filter = None if auto else as_filter(filter)
        self._pair: _Pair | None = None

    def setPairInfo(
        self,
        queryKpts: Keypoints,
        trainKpts: Keypoints,
        queryImageSize: tuple[int, int] | None = None,
        trainImageSize: tuple[int, int] | None = None,
        *,
        K1: np.ndarray | None = None,
        K2: np.ndarray | None = None,
        distortion1: np.ndarray | None = None,
        distortion2: np.ndarray | None = None,
    ) -> None:
        """The keypoints of the pair to be matched next; they hold until others are set.

        Args:
            queryKpts, trainKpts: `cv2.KeyPoint` objects, whose sizes and angles help, or (N, 2)
                pixels; a row for every descriptor.
            queryImageSize, trainImageSize: (width, height) in pixels; needed where the camera
                matrix isn't given.
            K1, K2: (3, 3) camera matrices of the query and the train image; None: focal length
                1.2 × the longer side, principal point at the centre.
            distortion1, distortion2: lens coefficients in OpenCV's order, or None.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        for name, distortion in (("distortion1", distortion1), ("distortion2", distortion2)):
            check_distortion(name, distortion)
        sizes = []
        for name, size, K_name, K in (
            ("queryImageSize", queryImageSize, "K1", K1),
            ("trainImageSize", trainImageSize, "K2", K2),
        ):
            if size is None and K is None:
                raise ValueError(f"{name} and {K_name}: found neither, wanted one of them")
            sizes.append(None if size is None else check_size(name, size))
        query, train = (
            check_points_array(name, keypoints) if _is_array(name, keypoints) else tuple(keypoints)
            for name, keypoints in (("queryKpts", queryKpts), ("trainKpts", trainKpts))
        )
        self._pair = _Pair(query, train, *sizes, (K1, K2), (distortion1, distortion2))

    def clearPairInfo(self) -> None:
        """Forgets the pair: the next `match` needs a `setPairInfo` first."""
        self._pair = None

    def isMaskSupported(self) -> bool:
        """True, as for `cv2.BFMatcher`."""
        return True

    def match(
        self,
        queryDescriptors: np.ndarray | None,
        trainDescriptors: np.ndarray | None,
        mask: np.ndarray | None = None,
    ) -> tuple[cv2.DMatch, ...]:
        """The nearest train descriptor of every query descriptor, where the filter keeps it, or the
        second nearest, where it keeps that, as filters that look at these may.

        Args:
            queryDescriptors, trainDescriptors: (N, D), (M, D), or None for an image without any.
            mask: (N, M) uint8, zero where a match isn't allowed.

        Returns:
            `cv2.DMatch` objects in the order of the query descriptors; distance is that of the
            descriptors, as in `cv2.BFMatcher`.

        Raises:
            RuntimeError: no `setPairInfo` yet. ValueError, TypeError: naming the argument.
        """
        near, place = self._search(queryDescriptors, trainDescriptors, 2, mask, True)
        return tuple(near.rows[i][place[i]] for i in np.flatnonzero(place >= 0))

    def knnMatch(
        self,
        queryDescriptors: np.ndarray | None,
        trainDescriptors: np.ndarray | None,
        k: int,
        mask: np.ndarray | None = None,
        compactResult: bool = True,
    ) -> tuple[tuple[cv2.DMatch, ...], ...]:
        """The k nearest train descriptors of the query descriptors whose nearest is kept.

        The filter judges the nearest of each; the others are there for tests that compare, such as
        the usual `for m, n in matcher.knnMatch(descriptors1, descriptors2, 2)`.

        Args:
            queryDescriptors, trainDescriptors, mask: as in `match`.
            k: most matches per query descriptor.
            compactResult: leave out empty rows; unlike OpenCV's, which are rarely empty, by
                default. False: a row for every query descriptor, empty where the filter rejects
                the nearest.

        Returns:
            Rows of at most k `cv2.DMatch`, nearest first, in the order of the query descriptors
            (`queryIdx` says which). A row has fewer than k only where there are no more train
            descriptors, or the mask forbids them.
        """
        compact = flag("compactResult", compactResult)
        near, place = self._search(queryDescriptors, trainDescriptors, k, mask, False)
        rows = (row if kept else () for row, kept in zip(near.rows, place == 0))
        return tuple(row for row in rows if row or not compact)

    def _search(
        self, query, train, k: int, mask, second_nearest: bool
    ) -> tuple[Neighbours, np.ndarray]:
        """The neighbours, and (N,) which of them is kept: 0 the nearest, 1 the second, −1 none.

        second_nearest: may be kept, too, where the filter looks at them.
        """
        pair = self._pair
        if pair is None:
            raise RuntimeError("setPairInfo must be called before match or knnMatch")
        for name, descriptors, keypoints in (
            ("queryDescriptors", query, pair.query),
            ("trainDescriptors", train, pair.train),
        ):
            found = 0 if descriptors is None else len(sequence(name, descriptors, "rows"))
            if found != len(keypoints):
                raise ValueError(
                    f"{name}: found {found} rows for the {len(keypoints)} keypoints of setPairInfo"
                )
        near = find_neighbours(query, train, k=k, norm=self._norm, mask=mask)
        net = self._filter or as_filter(default_filter(binary=near.binary))
        names = ("queryKpts", "trainKpts")
        points = [points_of(*found) for found in zip(names, (pair.query, pair.train))]
        second_nearest = second_nearest and net.config.wants_second(len(near.rows))
        found = near.putative(*points, second_nearest=second_nearest)
        cameras = pixel_cameras(
            (found.points0, found.points1), (pair.query_size, pair.train_size), pair.matrices,
            names=(*names, "queryImageSize", "trainImageSize"),
        )
        logits = keypoint_match_logits(
            _chosen(pair.query, found.index0),
            _chosen(pair.train, found.index1),
            cameras,
            pair.distortions,
            names=names,
            side_info=found.side_info(
                net.side_info, mean_focal(cameras[1]), binary=net.config.binary_descriptors,
                second_nearest=second_nearest,
            ),
            filter=net,
        )
        kept = logits > 0
        if second_nearest:
            kept = one_to_one(found.index0, found.index1, logits)
        place = np.full(len(near.rows), -1)
        is_second = near.forward.index[found.index0] != found.index1
        place[found.index0[kept]] = is_second[kept]
        return near, place


def _is_array(name: str, keypoints: Keypoints) -> bool:
    """Whether these are positions; anything but keypoint objects is taken for them."""
    if isinstance(keypoints, np.ndarray):
        return True
    return not all(hasattr(k, "pt") for k in sequence(name, keypoints, "cv2.KeyPoint"))


def _chosen(keypoints: Keypoints, index: np.ndarray) -> Keypoints:
    if isinstance(keypoints, np.ndarray):
        return keypoints[index]
    return [keypoints[i] for i in index]
