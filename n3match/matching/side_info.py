"""What is known of a match beside its points: what descriptors say, and keypoints' change.

Side information are columns by name, of which a filter asks for some:

=========== ==================================================================== ==================
column      what it holds                                                        where not known
=========== ==================================================================== ==================
ratio       nearest / second nearest descriptor distance, in [0, 1]; of second   1
            nearest neighbours their distance / the nearest's, in [1, 2]
mutual      1 where nearest in both directions, else 0; for filters that look at 0
            second nearest neighbours: 1 where among the two nearest in both
back_ratio  the ratio the other way round, in [0, 2], see `nearest_neighbors`    1
distance    descriptor distance / its mean over the pair's putative matches − 1  0
apart       how far the second nearest lies from the nearest in image 1, from −1 0
            (beside it: one keypoint found twice) to 1 (elsewhere: it repeats)
=========== ==================================================================== ==================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from n3match.arguments import finite_array, number_array, positive, real_array, sequence

# The columns of side information, and what they hold where nothing is known of a match.
NEUTRAL = {"ratio": 1.0, "mutual": 0.0, "back_ratio": 1.0, "distance": 0.0, "apart": 0.0}
SIDE_INFO = tuple(NEUTRAL)
_LARGEST_DISTANCE = 3.0  # times the mean: beyond it is a mistake in the input
_NEAREST, _FARTHEST = 1e-3, 1.0  # calibrated units that stand for −1 and 1, on a log scale
# Cosine, sine and log scale of `keypoint_change`; zeros where nothing is known.
CHANGE_COLUMNS = 3
LARGEST_LOG_SCALE = 3.0  # SIFT's octaves span less; beyond it is a mistake in the input


def side_info_columns(
    names: Sequence[str],
    ratio: np.ndarray,
    mutual: np.ndarray,
    *,
    back_ratio: np.ndarray | None = None,
    distance: np.ndarray | None = None,
    apart: np.ndarray | None = None,
    focal1: float = 1.0,
) -> np.ndarray | None:
    """(N, S) columns in the order of `names`; None where the filter asks for none.

    Args:
        names: a filter's `side_info`.
        ratio: (N,) nearest / second nearest descriptor distance, 1 where it says nothing.
        mutual: (N,) bool, nearest in both directions, or among the two nearest, see above.
        back_ratio, distance, apart: (N,) of all putative matches of the pair, as
            `PutativeMatches` has them; None where not known: the column is then neutral.
        focal1: focal length of image 1 in pixels, which `apart` is measured by.

    Raises:
        ValueError: a name that is no column; columns of several lengths, a focal length that isn't
            positive. TypeError: no numbers.
    """
    check_names(names)
    if not len(names):
        return None
    given = {
        "ratio": ratio, "mutual": mutual, "back_ratio": back_ratio, "distance": distance,
        "apart": apart,
    }
    count = len(finite_array("ratio", ratio, 1, None, "(N,)"))
    known = {name: real_array(name, value) for name, value in given.items() if value is not None}
    for name, value in known.items():
        if value.shape != (count,):
            raise ValueError(f"{name} must have shape (N,) = {(count,)}, got {value.shape}")
    if distance is not None:
        known["distance"] = relative_distance(known["distance"])
    if apart is not None:
        known["apart"] = relative_apart(known["apart"], positive("focal1", focal1))
    return np.stack([known.get(n, np.full(count, NEUTRAL[n])) for n in names], axis=1)


def check_names(names: Sequence[str]) -> None:
    """Require names of columns.

    Raises:
        ValueError: one that is no column. TypeError: no sequence of names.
    """
    unknown = [
        name for name in sequence("names", names, "columns of side information")
        if not isinstance(name, str) or name not in NEUTRAL
    ]
    if unknown:
        raise ValueError(
            f"names: the filter wants side information {unknown}, known here are {[*NEUTRAL]}"
        )


def relative_distance(distance: np.ndarray) -> np.ndarray:
    """The column `distance` from the descriptor distances of one pair.

    Args:
        distance: (N,) of all its putative matches: a choice of them has another mean. Not finite:
            not known.

    Returns:
        (N,) float64; zeros where not known.
    """
    distance = np.asarray(distance, dtype=np.float64)
    known = np.isfinite(distance)
    mean = distance[known].mean() if known.any() else 0.0
    if mean <= 0:
        return np.zeros(len(distance))
    relative = np.where(known, distance, mean) / mean - 1
    return np.minimum(relative, _LARGEST_DISTANCE)


def relative_apart(apart: np.ndarray, focal: float) -> np.ndarray:
    """The column `apart` from the distances between nearest and second nearest.

    Args:
        apart: (N,) pixels; not finite where there is no second nearest.
        focal: focal length of image 1 in pixels.

    Returns:
        (N,) float64 in [−1, 1]; zeros where there is no second.
    """
    apart = np.asarray(apart, dtype=np.float64)
    known = np.isfinite(apart)
    calibrated = np.clip(np.where(known, apart, 1.0) / focal, _NEAREST, _FARTHEST)
    low, high = np.log10(_NEAREST), np.log10(_FARTHEST)
    return np.where(known, 2 * (np.log10(calibrated) - low) / (high - low) - 1, 0.0)


def is_gradient_histogram(descriptors: np.ndarray) -> bool:
    """Whether descriptors look like SIFT's or RootSIFT's: 128 numbers, none of them negative.

    The shipped filters learnt what a ratio means from those. Learned descriptors (SuperPoint,
    DISK, …) have both signs, and their ratios lie elsewhere.

    Args:
        descriptors: (N, D), of any real type.
    """
    descriptors = number_array("descriptors", descriptors)
    if descriptors.ndim != 2 or descriptors.shape[1] != 128 or not len(descriptors):
        return False
    return bool(np.isfinite(descriptors).all() and descriptors.min() >= 0)


def keypoint_change(
    sizes_angles0: np.ndarray,
    sizes_angles1: np.ndarray,
    focal0: float = 1.0,
    focal1: float = 1.0,
) -> np.ndarray:
    """Turn and change of size of every match, from the keypoints' own orientations and sizes.

    Right matches of two photographs agree on both, up to perspective: the turn is about that of
    the camera around its axis, the scale the ratio of the depths.

    Args:
        sizes_angles0, sizes_angles1: (N, 2) keypoint size in pixels (any measure of extent, the
            same in both images) and angle in degrees, from x towards y, as `cv2.KeyPoint.size` and
            `.angle`. A size of 0 or less, or a negative angle, means that it isn't known (OpenCV
            uses −1).
        focal0, focal1: focal lengths in pixels, which make sizes comparable between cameras.

    Returns:
        (N, 3) float64: cosine and sine of angle1 − angle0, natural logarithm of the ratio of the
        angular sizes; (0, 0) and 0 where not known.

    Raises:
        ValueError: a shape that doesn't fit, NaN or infinite numbers, a focal length that isn't
            positive; names the argument.
    """
    checked = []
    for name, given in (("sizes_angles0", sizes_angles0), ("sizes_angles1", sizes_angles1)):
        checked.append(finite_array(name, given, 2, 2, "(N, 2): size, angle"))
    (size0, angle0), (size1, angle1) = (array.T for array in checked)
    if len(size0) != len(size1):
        raise ValueError(
            f"sizes_angles0 and sizes_angles1 must have one length, got {len(size0)} and "
            f"{len(size1)}"
        )
    focal0, focal1 = positive("focal0", focal0), positive("focal1", focal1)
    turn = np.radians(angle1 - angle0)
    turn_known = (angle0 >= 0) & (angle1 >= 0)
    size_known = (size0 > 0) & (size1 > 0)
    ratio = np.where(size_known, size1, 1.0) / np.where(size_known, size0, 1.0)
    log_scale = np.clip(np.log(ratio * (focal0 / focal1)), -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
    return np.stack(
        [np.cos(turn) * turn_known, np.sin(turn) * turn_known, log_scale * size_known], axis=1
    )
