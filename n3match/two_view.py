"""From putative matches of two images to a filter's logits, a pose or a fundamental matrix.

Numpy in, numpy out. Of a match three numbers are told apart: its logit (keep above 0), its
probability (the logit's sigmoid), its weight in least squares (relu(tanh(logit))).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch

from n3match.arguments import MODERATE, computing_device, found, real_array
from n3match.geometry import (
    FundamentalMatrix,
    PoseStatus,
    RelativePose,
    estimate_fundamental_from_matches,
    estimate_relative_pose_from_matches,
    guess_intrinsics,
    pose_error_deg,
)
from n3match.geometry.camera import undistort_checked
from n3match.geometry.checks import check_distortion, check_intrinsics, check_matches
from n3match.geometry.verification.planarity import DOMINANT_SHARE
from n3match.geometry.verification.rivals import FAR_DEG
from n3match.matching import keypoint_change
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn import MatchFilter

# A second try on all matches, should the kept ones give no pose, has to end in a moment too.
_SECOND_TRY_ITERATIONS = 2000

_Found = TypeVar("_Found", RelativePose, FundamentalMatrix)


@functools.lru_cache(maxsize=4)
def _loaded(name: str, device: torch.device) -> MatchFilter:
    return MatchFilter.from_pretrained(name).to(device)


def as_filter(
    value: MatchFilter | str | os.PathLike, device: str | torch.device | None = None
) -> MatchFilter:
    """A filter from itself, a shipped name or a path; filters loaded by name are kept.

    Args:
        value: the filter, its name or its path.
        device: for one that is loaded; None: the CPU.

    Raises:
        FileNotFoundError, ValueError, TypeError: there is no such filter.
    """
    if isinstance(value, MatchFilter):
        return value
    if isinstance(value, (str, os.PathLike)):
        where = torch.device("cpu") if device is None else computing_device("device", device)
        try:
            return _loaded(os.fspath(value), where)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise type(error)(str(error).replace("name_or_path", "filter")) from error
    raise TypeError(f"filter must be a MatchFilter, a name or a path, got {found(value)}")


def probability(logits: np.ndarray) -> np.ndarray:
    """The sigmoid of logits, without overflow: above ½ where the logit is above 0.

    Args:
        logits: of any shape.
    """
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def match_logits(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    side_info: np.ndarray | None = None,
    sizes_angles0: np.ndarray | None = None,
    sizes_angles1: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "sift",
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
) -> np.ndarray:
    """The filter's logit of every match: keep those above 0.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        K0, K1: (3, 3) camera matrices.
        side_info: (N, S) what descriptors say of each match, columns named by the filter's
            `side_info`, or the first of them (ratio of nearest to second nearest descriptor
            distance in [0, 1], and 1 where the match is mutual, else 0); None where nothing is
            known. For what they hold of second nearest neighbours see `n3match.matching.side_info`.
            `n3match.matching.side_info_columns` makes them all.
        sizes_angles0, sizes_angles1: (N, 2) keypoint size (pixels) and angle (degrees) of each
            match, as OpenCV's; both or None. See `n3match.matching.keypoint_change`.
        filter: a `MatchFilter`, a shipped name, or a path.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.

    Returns:
        (N,) float64 logits; `probability` makes probabilities of them, under the filter's training
        data.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    net = as_filter(filter)
    points0, points1 = check_matches(points0, points1)
    K0, K1 = check_intrinsics("K0", K0), check_intrinsics("K1", K1)
    x0 = undistort_checked(points0, K0, check_distortion("distortion0", distortion0))
    x1 = undistort_checked(points1, K1, check_distortion("distortion1", distortion1))
    if side_info is not None:
        side_info = real_array("side_info", side_info)
        if not _is_side_info(side_info, net, len(x0)):
            raise ValueError(
                f"side_info must have shape (N, S) = {(len(x0), len(net.side_info))} with columns "
                f"{net.side_info} or the first of them, got {side_info.shape}"
            )
        if not np.isfinite(side_info).all():
            raise ValueError("side_info holds NaN or infinite numbers: finite numbers wanted")
    # Of focal lengths that undistort_points has checked above.
    change = change_between(sizes_angles0, sizes_angles1, K0, K1)
    if change is not None:
        if len(change) != len(x0):
            raise ValueError(
                f"sizes_angles0 must hold a row per match, {len(x0)}, got {len(change)}"
            )
    elif sizes_angles0 is not None or sizes_angles1 is not None:
        raise ValueError("sizes_angles0 and sizes_angles1: found one of them, wanted both or none")
    return logits_of_many(net, [PairMatches(x0, x1, side_info, change)])[0]


def change_between(
    sizes_angles0: np.ndarray | None,
    sizes_angles1: np.ndarray | None,
    K0: np.ndarray,
    K1: np.ndarray,
) -> np.ndarray | None:
    """(N, 3) `keypoint_change` of matches between two cameras; None where either isn't known.

    Args:
        sizes_angles0, sizes_angles1: (N, 2) or None, as there.
        K0, K1: (3, 3) of the cameras, for their focal lengths; the identity: in pixels.
    """
    if sizes_angles0 is None or sizes_angles1 is None:
        return None
    return keypoint_change(sizes_angles0, sizes_angles1, *(_mean_focal(K) for K in (K0, K1)))


def _mean_focal(K: np.ndarray) -> float:
    return float(K[0, 0] + K[1, 1]) / 2


def estimate_relative_pose(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    side_info: np.ndarray | None = None,
    sizes_angles0: np.ndarray | None = None,
    sizes_angles1: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike | None = "sift",
    estimator: str = "auto",
    threshold: float = 1.0,
    distortion0: np.ndarray | None = None,
    distortion1: np.ndarray | None = None,
    seed: int = 0,
) -> RelativePose:
    """The pose of camera 1 relative to camera 0 from putative matches, most of them wrong.

    Convention: x1 ~ R x0 + t with ‖t‖ = 1 (the scale is unknown), E = [t]× R, x1ᵀ E x0 = 0 in
    calibrated coordinates.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        K0, K1: (3, 3) camera matrices.
        side_info: (N, S) side information for the filter, see `match_logits`; None if unknown.
        sizes_angles0, sizes_angles1: (N, 2) keypoint sizes and angles for the filter, likewise.
        filter: "sift" (shipped), another name, a path or a `MatchFilter`; None for no filter.
        estimator: "poselib", "opencv_usac", "opencv_ransac", "kornia", "eight_point", or "auto":
            PoseLib where installed, else OpenCV.
        threshold: inlier threshold in pixels.
        distortion0, distortion1: lens coefficients in OpenCV's order, or None.
        seed: same seed, same result.

    Returns:
        `RelativePose` over all N matches: R, t, E (None unless status is "ok"), inliers (N,) bool,
        probability (N,) in [0, 1] (above ½: kept by the filter; None without filter), status.
        Where the kept matches give neither a trusted pose, a rotation nor a plane, all matches are
        tried once more, as if there were no filter, and `detail` says so; a pose that the kept ones
        contradict is none. Too few matches and scenes without an answer are told by `status`.

    Raises:
        ValueError, TypeError: for malformed input, naming the argument.
    """
    lenses = {"distortion0": distortion0, "distortion1": distortion1}
    logits = None
    if filter is not None:
        logits = match_logits(
            points0, points1, K0, K1,
            side_info=side_info, sizes_angles0=sizes_angles0, sizes_angles1=sizes_angles1,
            filter=filter, **lenses,
        )
        lenses["keypoint_change"] = change_between(sizes_angles0, sizes_angles1, K0, K1)
    return pose_from_logits(
        points0, points1, K0, K1, logits,
        estimator=estimator, threshold=threshold, seed=seed, **lenses,
    )


def pose_from_logits(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    logits: np.ndarray | None,
    *,
    keypoint_change: np.ndarray | None = None,
    **options: Any,
) -> RelativePose:
    """`estimate_relative_pose` for matches of which the filter's logits are known already.

    Args:
        points0, points1, K0, K1: as there.
        logits: (N,) of the N putative matches; those above 0 are kept. None: there is no filter.
        keypoint_change: (N, 3) of them, see `n3match.matching.keypoint_change`; None if unknown.
        options: `estimator`, `threshold`, `distortion0`, `distortion1`, `seed`, as there, and
            others of `n3match.geometry.estimate_relative_pose_from_matches`.

    Returns:
        `RelativePose` as there.
    """
    if logits is None:
        return estimate_relative_pose_from_matches(points0, points1, K0, K1, **options)

    def estimate(points0: np.ndarray, points1: np.ndarray, **more: Any) -> RelativePose:
        return estimate_relative_pose_from_matches(points0, points1, K0, K1, **options | more)

    points0, points1 = check_matches(points0, points1)
    weights, kept = np.tanh(logits), logits > 0
    pose = _estimate_from_kept(
        estimate, points0, points1, logits, keypoint_change, weights=weights[kept]
    )
    # A rotation that explains what the filter keeps is an answer, too, and so is a plane: what it
    # refuses leaves the plane's second pose by noise alone.
    flat = (pose.homography_support or 0.0) >= DOMINANT_SHARE
    if pose.R is not None or (pose.status is PoseStatus.DEGENERATE and flat) or kept.all():
        return pose
    most = min(options.get("max_iterations") or _SECOND_TRY_ITERATIONS, _SECOND_TRY_ITERATIONS)
    again = estimate(points0, points1, weights=np.maximum(weights, 0.0), max_iterations=most)
    if again.R is None:
        return pose
    if again.t is not None:
        # What the kept matches say counts against it, be it no pose to trust.
        first = estimate(
            points0[kept], points1[kept], weights=weights[kept], max_iterations=most, verify=False
        )
        if first.R is not None and first.t is not None and (
            pose_error_deg(first.R, first.t, again.R, again.t) > FAR_DEG
        ):
            return pose
    count = np.count_nonzero(kept)
    detail = f"the {count} kept matches gave no pose ({pose.status}); all were used"
    return replace(again, probability=pose.probability, detail=detail)


def estimate_fundamental(
    points0: np.ndarray,
    points1: np.ndarray,
    size0: tuple[int, int],
    size1: tuple[int, int],
    *,
    side_info: np.ndarray | None = None,
    sizes_angles0: np.ndarray | None = None,
    sizes_angles1: np.ndarray | None = None,
    filter: MatchFilter | str | os.PathLike = "sift",
    estimator: str = "auto",
    threshold: float = 1.0,
    seed: int = 0,
) -> FundamentalMatrix:
    """The epipolar geometry of two images whose cameras aren't known, from putative matches.

    The filter works in calibrated coordinates; it is given those of a guessed camera (focal length
    1.2 × the longer side, principal point at the centre). The estimator works in pixels.
    Convention: points1ᵀ F points0 = 0 for homogeneous pixels.

    Args:
        points0, points1: (N, 2) matched pixels; integers are pixel centres.
        size0, size1: (width, height) of the images in pixels.
        side_info: (N, S) side information for the filter, see `match_logits`; None if unknown.
        sizes_angles0, sizes_angles1: (N, 2) keypoint sizes and angles for the filter, likewise.
        filter: "sift" (shipped), another name, a path or a `MatchFilter`.
        estimator: "poselib", "opencv_usac", or "auto": PoseLib where installed, else OpenCV.
        threshold: inlier threshold in pixels.
        seed: same seed, same result.

    Returns:
        `FundamentalMatrix` over all N matches: F (None unless status is "ok"), inliers (N,) bool,
        probability (N,) in [0, 1] (above ½: kept by the filter), status, and the homography with
        its support. Planes, turns of the camera and too few matches are told by `status`.

    Raises:
        ValueError, TypeError: for malformed input, naming the argument.
    """
    logits = match_logits(
        points0, points1,
        guess_intrinsics(size0, name="size0"), guess_intrinsics(size1, name="size1"),
        side_info=side_info, sizes_angles0=sizes_angles0, sizes_angles1=sizes_angles1,
        filter=filter,
    )

    def estimate(points0: np.ndarray, points1: np.ndarray, **more: Any) -> FundamentalMatrix:
        return estimate_fundamental_from_matches(
            points0, points1, size0, size1,
            estimator=estimator, threshold=threshold, seed=seed, **more,
        )

    change = change_between(sizes_angles0, sizes_angles1, np.eye(3), np.eye(3))
    return _estimate_from_kept(estimate, *check_matches(points0, points1), logits, change)


def _estimate_from_kept(
    estimate: Callable[..., _Found],
    points0: np.ndarray,
    points1: np.ndarray,
    logits: np.ndarray,
    change: np.ndarray | None,
    **options: Any,
) -> _Found:
    """What an estimator finds from the kept matches, as a result over all of them."""
    kept = logits > 0
    found = estimate(
        points0[kept], points1[kept], num_putative=len(kept), logits=logits[kept],
        keypoint_change=None if change is None else change[kept], **options,
    )
    inliers = np.zeros(len(kept), dtype=bool)
    inliers[kept] = found.inliers
    return replace(found, inliers=inliers, probability=probability(logits))


@dataclass(frozen=True, eq=False)
class PairMatches:
    """N putative matches of one pair, as the network takes them.

    Attributes:
        points0, points1: (N, 2) calibrated coordinates; rows that aren't finite (rays that the lens
            model doesn't reach), or are beyond ±1e9 (no camera sees so far aside), are never kept.
        side_info: (N, S), columns named by the filter's `side_info`, or the first of them; None
            where unknown.
        keypoint_change: (N, 3), see `n3match.matching.keypoint_change`; None where unknown.
    """

    points0: np.ndarray
    points1: np.ndarray
    side_info: np.ndarray | None = None
    keypoint_change: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points0)


def _is_side_info(array: np.ndarray, net: MatchFilter, count: int) -> bool:
    """Whether it has a row for each match, and the columns that the filter wants or the first."""
    return array.ndim == 2 and len(array) == count and array.shape[1] <= len(net.side_info)


def logits_of_many(net: MatchFilter, pairs: Sequence[PairMatches]) -> list[np.ndarray]:
    """The logit of every match of every pair: keep those above 0.

    Up to rounding, a pair's logits don't depend on the others.

    Args:
        net: in eval mode.
        pairs: with any numbers of matches, 0 among them.

    Returns:
        (N,) float64 for each pair; −inf where a coordinate isn't finite, or beyond ±1e9.

    Raises:
        ValueError: a shape that doesn't fit; names the argument.
    """
    neutral = np.array(net.config.neutral_side_info)
    like = next(net.parameters())
    given: dict[str, list[torch.Tensor]] = {field.name: [] for field in fields(PairMatches)}
    logits, finite = [], []
    for i, pair in enumerate(pairs):
        n = len(pair)
        unknown = {
            "side_info": np.tile(neutral, (n, 1)), "keypoint_change": np.zeros((n, CHANGE_COLUMNS))
        }
        shapes = {"points1": (n, 2)} | {name: array.shape for name, array in unknown.items()}
        for name, wanted in shapes.items():
            found = getattr(pair, name)
            if found is None or found.shape == wanted:
                continue
            if name != "side_info" or not _is_side_info(found, net, n):
                raise ValueError(f"pairs[{i}].{name}: found shape {found.shape}, wanted {wanted}")
        rows = (np.abs(np.hstack([pair.points0, pair.points1])) <= MODERATE).all(axis=1)
        for name, tensors in given.items():
            found = getattr(pair, name)
            if found is None:
                found = unknown[name]
            elif name == "side_info":
                found = np.hstack([found, unknown[name][:, found.shape[1] :]])
            tensors.append(torch.from_numpy(found[rows]).to(like.device, net.dtype))
        logits.append(np.full(n, -np.inf))
        finite.append(rows)
    with torch.inference_mode():
        answers = net.logits_of_many(
            given["points0"], given["points1"], given["side_info"], given["keypoint_change"]
        )
    for out, rows, answer in zip(logits, finite, answers):
        out[rows] = answer.double().cpu().numpy()
    return logits
