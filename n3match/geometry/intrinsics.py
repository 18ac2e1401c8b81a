"""A camera matrix for images of which only the size is known (numpy)."""

from __future__ import annotations

import numpy as np

from n3match.geometry.checks import check_size

# As COLMAP assumes: a horizontal field of view of 45°, between a phone's and a normal lens.
FOCAL_GUESS = 1.2


def guess_intrinsics(size: tuple[int, int], name: str = "size") -> np.ndarray:
    """(3, 3) K with focal length 1.2 × the longer side and the principal point at the centre.

    Args:
        size: (width, height) in pixels; the centre of the first pixel is (0, 0).
        name: of the argument, for the error.

    Raises:
        ValueError, TypeError: a size that isn't two positive numbers.
    """
    width, height = check_size(name, size)
    focal = FOCAL_GUESS * max(width, height)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
