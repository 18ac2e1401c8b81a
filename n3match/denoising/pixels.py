"""Between images as users hold them (integers or floats, grey or colour) and 0 … 1 in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_WHITE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Depth:
    """How an image stores its pixels."""

    dtype: np.dtype

    def unit(self, image: np.ndarray) -> np.ndarray:
        """float32, white at 1."""
        white = _WHITE.get(self.dtype)
        unit = image.astype(np.float32)
        return unit if white is None else unit / np.float32(white)

    def stored(self, unit: np.ndarray) -> np.ndarray:
        """Back: integers rounded and clipped, floats as they are."""
        white = _WHITE.get(self.dtype)
        if white is None:
            return unit.astype(self.dtype)
        return np.clip(np.rint(unit * white), 0, white).astype(self.dtype)


def check_image(image: np.ndarray) -> Depth:
    """How the pixels of (H, W) or (H, W, C) are stored.

    Raises:
        TypeError: other types than uint8, uint16 and floats. ValueError: no pixels, another shape,
            NaN or infinite numbers.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a numpy array, got {type(image).__name__}")
    if image.dtype not in _WHITE and image.dtype not in _FLOATS:
        raise TypeError(
            f"image must be uint8, uint16 or floating point (0 … 1), got {image.dtype}"
        )
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"image must have shape (H, W) or (H, W, C), got {image.shape}")
    if image.dtype in _FLOATS and not np.isfinite(image).all():
        raise ValueError("image holds NaN or infinite numbers: finite numbers wanted")
    return Depth(image.dtype)
