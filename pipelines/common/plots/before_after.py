"""An image before and after, side by side, with a part of it enlarged."""

from __future__ import annotations

import os

import cv2
import numpy as np

from n3match.datasets.denoising.clean_images import eight_bit
from n3match.files.whole import check_target, write_whole

_LONGEST = 900  # of each half, pixels
_PART = 6  # the enlarged part is a sixth of the image's sides, 32 pixels at least
_GAP = 8


def plot_before_after(path: str | os.PathLike, before: np.ndarray, after: np.ndarray) -> None:
    """Writes a PNG: both images above, the same detail of both below, enlarged without smoothing.

    Args:
        before, after: (H, W) or (H, W, 3); uint8, uint16, or floats with white at 1.

    Raises:
        ValueError: another ending than .png. OSError: no file can be written there.
    """
    check_target(path, ".png")
    halves = [_half(eight_bit(image, channels=3)) for image in (before, after)]
    gap = np.full((halves[0].shape[0], _GAP, 3), 255, np.uint8)
    picture = np.concatenate([halves[0], gap, halves[1]], 1)
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: OpenCV can't write this picture")
    write_whole(path, data.tobytes())


def _half(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST / max(height, width))
    whole = image
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        whole = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    part = _middle(image)
    wide = whole.shape[1]
    high = max(1, round(part.shape[0] * wide / part.shape[1]))
    enlarged = cv2.resize(part, (wide, high), interpolation=cv2.INTER_NEAREST)
    gap = np.full((_GAP, wide, 3), 255, np.uint8)
    return np.concatenate([whole, gap, enlarged])


def _middle(image: np.ndarray) -> np.ndarray:
    """The part that is enlarged."""
    high, wide = (min(n, max(32, n // _PART)) for n in image.shape[:2])
    top, left = (image.shape[0] - high) // 2, (image.shape[1] - wide) // 2
    return image[top : top + high, left : left + wide]
