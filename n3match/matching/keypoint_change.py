"""How a keypoint's orientation and size change from one image to the other."""

from __future__ import annotations

import numpy as np

#: Columns of a relative shape; zeros stand for what isn't known.
COLUMNS = ("cosine", "sine", "log_scale")
_LARGEST_LOG_SCALE = 3.0  # SIFT's octaves span less; beyond it is a mistake in the input


def keypoint_change(
    shapes0: np.ndarray, shapes1: np.ndarray, focal0: float = 1.0, focal1: float = 1.0
) -> np.ndarray:
    """Turn and change of size of every match, from the keypoints' own orientations and sizes.

    Right matches of two photographs agree on both, up to perspective: the turn is about that of
    the camera around its axis, the scale the ratio of the depths.

    Args:
        shapes0, shapes1: (N, 2) keypoint size in pixels (any measure of extent, the same in both
            images) and angle in degrees, from x towards y, as `cv2.KeyPoint.size` and `.angle`. A
            size of 0 or less, or a negative angle, means that it isn't known (OpenCV uses −1).
        focal0, focal1: focal lengths in pixels, which make sizes comparable between cameras.

    Returns:
        (N, 3) float64: cosine and sine of angle1 − angle0, natural logarithm of the ratio of the
        angular sizes; (0, 0) and 0 where not known.

    Raises:
        ValueError: a shape that doesn't fit, NaN or infinite numbers, a focal length that isn't
            positive; names the argument.
    """
    checked = []
    for name, shapes in (("shapes0", shapes0), ("shapes1", shapes1)):
        shapes = np.asarray(shapes, dtype=np.float64)
        if shapes.ndim != 2 or shapes.shape[1] != 2:
            raise ValueError(f"{name} must have shape (N, 2): size, angle; got {shapes.shape}")
        if not np.isfinite(shapes).all():
            raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
        checked.append(shapes)
    (size0, angle0), (size1, angle1) = (shapes.T for shapes in checked)
    if len(size0) != len(size1):
        raise ValueError(
            f"shapes0 and shapes1 must have one length, got {len(size0)} and {len(size1)}"
        )
    for name, focal in (("focal0", focal0), ("focal1", focal1)):
        if not 0 < focal < np.inf:
            raise ValueError(f"{name} must be positive, got {focal}")
    turn = np.radians(angle1 - angle0)
    turn_known = (angle0 >= 0) & (angle1 >= 0)
    size_known = (size0 > 0) & (size1 > 0)
    ratio = np.where(size_known, size1, 1.0) / np.where(size_known, size0, 1.0)
    log_scale = np.clip(np.log(ratio * (focal0 / focal1)), -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)
    return np.stack(
        [np.cos(turn) * turn_known, np.sin(turn) * turn_known, log_scale * size_known], axis=1
    )
