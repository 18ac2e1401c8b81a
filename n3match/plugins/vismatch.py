"""vismatch: any of its matchers with the filter and a relative pose behind it.

A vismatch matcher is called with two images and returns a dictionary with `matched_kpts0/1`
(N, 2), and the inliers of a homography, `H`, `inlier_kpts0/1`, `num_inliers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from n3match.arguments import instance, number_array
from n3match.files.given import check_regular
from n3match.geometry import guess_intrinsics
from n3match.matching import is_gradient_histogram, putative_matches
from n3match.matching.side_info import NEUTRAL
from n3match.nn.match_filter import MatchFilter
from n3match.two_view import match_logits, pose_from_logits, probability


class FilteredMatcher(nn.Module):
    """Called like the matcher it wraps; its answer speaks of the kept matches and their pose.

    In the answer, `matched_kpts0/1` are the kept matches (`matched_confidences` the filter's
    probabilities of them, in (½, 1]), `inlier_kpts0/1` and `num_inliers` those of the relative
    pose. `H` is None: inliers are of an essential matrix, not of a homography. New are `E` (3, 3),
    `R` (3, 3), `t` (3,) (x1 ~ R x0 + t; None without a pose) and `status`. All else is the
    matcher's. Where the answer has SIFT's descriptors of all keypoints (`all_desc0/1`), the filter
    knows what they say of the matches.

    Attributes and methods that aren't its own are those of the matcher: `load_image`, `extract`,
    `device`, … .

    Args:
        matcher: of vismatch, or any callable with such an answer.
        K0, K1: (3, 3) camera matrices of the images as the matcher sees them; None for a focal
            length of 1.2 × the longer side.
        filter: a `MatchFilter`, a shipped name, or a path.
        threshold: of inliers, in pixels.
    """

    def __init__(
        self,
        matcher: Callable[..., dict],
        *,
        K0: np.ndarray | None = None,
        K1: np.ndarray | None = None,
        filter: MatchFilter | str | os.PathLike = "sift",
        threshold: float = 1.0,
    ):
        super().__init__()
        self.matcher, self.threshold = matcher, threshold
        # One loaded by name is this module's own: .to(device) must not move the filter of others.
        self.filter: MatchFilter = (
            filter if isinstance(filter, MatchFilter) else MatchFilter.from_pretrained(filter)
        )
        self.K0, self.K1 = K0, K1
        self.eval()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "matcher" or name.startswith("__"):  # not there yet, or Python's own
                raise
            return getattr(self.matcher, name)

    @property
    def name(self) -> str:
        """The matcher's, and that it is filtered."""
        inner = getattr(self.matcher, "name", None) or type(self.matcher).__name__
        return f"{inner} + N3"

    def forward(self, img0: Any, img1: Any) -> dict:
        """The matcher's answer for two images, filtered, with their relative pose.

        Args:
            img0, img1: as the matcher takes them; without K0 or K1, paths, Pillow's images, arrays
                or tensors (C, H, W).

        Raises:
            TypeError: an image whose size can't be told, without its camera matrix.
            ValueError: an answer without `matched_kpts0/1`.
        """
        # The size of a path is asked first: a file that isn't there should be said by its name.
        K0 = _camera("img0", img0) if self.K0 is None else self.K0
        K1 = _camera("img1", img1) if self.K1 is None else self.K1
        answer = dict(instance("answer of the matcher", self.matcher(img0, img1), Mapping))
        missing = [name for name in ("matched_kpts0", "matched_kpts1") if name not in answer]
        if missing:
            raise ValueError(
                f"matcher: answered with {sorted(answer)}, wanted {', '.join(missing)}, too"
            )
        found = [_points_in(answer, f"matched_kpts{i}") for i in (0, 1)]
        if len(found[0]) != len(found[1]):
            raise ValueError(
                f"matched_kpts0 and matched_kpts1 must hold the same number of points, got "
                f"{len(found[0])} and {len(found[1])}"
            )
        points = [array.astype(np.float64) for array in found]
        logits = match_logits(
            points[0], points[1], K0, K1,
            side_info=self._side_info(answer, found, K1), filter=self.filter,
        )
        kept = logits > 0
        pose = pose_from_logits(
            points[0], points[1], K0, K1, logits, threshold=self.threshold
        )
        for i in (0, 1):
            answer[f"matched_kpts{i}"] = found[i][kept]
            answer[f"inlier_kpts{i}"] = found[i][pose.inliers]
        answer["matched_confidences"] = probability(logits[kept])
        answer.update(
            num_inliers=pose.num_inliers, H=None, E=pose.E, R=pose.R, t=pose.t,
            status=str(pose.status),
        )
        return answer

    def _side_info(
        self, answer: dict, matched: list[np.ndarray], K1: np.ndarray
    ) -> np.ndarray | None:
        """(N, S) of the matches, from the descriptors of all keypoints; None where these aren't
        SIFT's, or aren't there."""
        known = [answer.get(f"{what}{i}") for i in (0, 1) for what in ("all_kpts", "all_desc")]
        if any(array is None for array in known):
            return None
        desc0, desc1 = (number_array(f"all_desc{i}", answer[f"all_desc{i}"]) for i in (0, 1))
        if not (is_gradient_histogram(desc0) and is_gradient_histogram(desc1)):
            return None
        keypoints0, keypoints1 = (_points_in(answer, f"all_kpts{i}") for i in (0, 1))
        for i, (desc, keypoints) in enumerate(((desc0, keypoints0), (desc1, keypoints1))):
            if len(desc) != len(keypoints):
                raise ValueError(
                    f"all_desc{i} must have a row for each of {len(keypoints)} keypoints in "
                    f"all_kpts{i}, got {len(desc)}"
                )
        K1 = np.asarray(K1, dtype=np.float64)
        all_found = putative_matches(keypoints0, desc0, keypoints1, desc1)
        names = self.filter.side_info
        columns = all_found.side_info(names, (K1[0, 0] + K1[1, 1]) / 2)
        if columns is None:
            return None
        # The answer says where its matches are, not which keypoints they are: several may lie in
        # one place, of which the pair with the most alike descriptors is meant.
        rows: dict[bytes, int] = {}
        places = np.hstack([all_found.points0, all_found.points1]).astype(np.float32)
        for row in np.argsort(-all_found.distance, kind="stable"):
            rows[places[row].tobytes()] = row
        unknown = np.array([NEUTRAL[name] for name in names])
        wanted = np.hstack(matched).astype(np.float32)
        chosen = [rows.get(place.tobytes()) for place in wanted]
        found = [unknown if row is None else columns[row] for row in chosen]
        return np.array(found).reshape(-1, len(names))


def _points_in(answer: Mapping[str, Any], name: str) -> np.ndarray:
    """(N, 2) of a matcher's answer.

    Raises:
        ValueError, TypeError: naming the entry.
    """
    array = number_array(name, answer[name])
    if array.size and (array.ndim != 2 or array.shape[1] != 2):
        raise ValueError(f"{name} must have shape (N, 2), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
    return array.reshape(-1, 2)


def _camera(name: str, image: Any) -> np.ndarray:
    if isinstance(image, (str, os.PathLike)):
        try:
            check_regular(image)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"img{name[-1]}: {error}") from error
        with Image.open(image) as file:  # as stored, which is how vismatch reads it
            size = file.size
    elif isinstance(image, Image.Image):
        size = image.size
    else:
        shape = getattr(image, "shape", None)
        if shape is None or len(shape) != 3:
            raise TypeError(
                f"{name} must be a path, an image of Pillow, an array or a tensor (C, H, W) for "
                f"its size to be known, got {type(image).__name__}; or give K{name[-1]}"
            )
        size = shape[2], shape[1]
    return guess_intrinsics(size, name=name)
