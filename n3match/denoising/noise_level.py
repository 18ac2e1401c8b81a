"""How strong the noise of an image is, from the image alone."""

from __future__ import annotations

import numpy as np

from n3match.arguments import number_array

# High-pass filter of Daubechies' wavelet with two vanishing moments.
_ROOT = np.sqrt(3.0)
_HIGH_PASS = np.array([1 - _ROOT, _ROOT - 3, 3 + _ROOT, -1 - _ROOT]) / (4 * np.sqrt(2.0))
_NORMAL_MAD = 0.6744897501960817  # median of |x| for standard normal x
_SMALLEST = 8
_LARGE = 1e100


def estimate_sigma(image: np.ndarray) -> float:
    """Standard deviation of white Gaussian noise, by the median of the finest diagonal wavelet
    details (Donoho & Johnstone, 1994); of several channels, their root mean square.

    Details that are exactly 0 are left out: clipped or synthetic areas say nothing of noise.
    Texture counts as noise, so that the estimate is too high where the noise is weak.

    Args:
        image: (H, W) or (H, W, C), at least 8×8 pixels, finite numbers.

    Returns:
        σ in the units of `image`, 0 or more.

    Raises:
        ValueError: too small an image, another shape, NaN or infinite numbers. TypeError: no
            numbers.
    """
    image = number_array("image", image)
    if image.ndim not in (2, 3):
        raise ValueError(f"image must have shape (H, W) or (H, W, C), got {image.shape}")
    if min(image.shape[:2]) < _SMALLEST:
        raise ValueError(
            f"image: {image.shape[0]}×{image.shape[1]} pixels are too few to estimate noise from, "
            f"at least {_SMALLEST}×{_SMALLEST} wanted: give sigma"
        )
    channels = np.atleast_3d(image).astype(np.float64, copy=False)
    # Of large images no copy is made for it.
    largest = float(np.maximum(channels.max(initial=0.0), -channels.min(initial=0.0)))
    if not largest < np.inf:
        raise ValueError("image holds NaN or infinite numbers: finite numbers wanted")
    if not channels.shape[2]:
        raise ValueError(f"image has no channels: found shape {image.shape}")
    # Squares of very large and very small numbers leave double precision.
    unit = largest if largest > _LARGE or largest < 1 / _LARGE else 1.0
    planes = (channels[..., c] for c in range(channels.shape[2]))
    variances = [_sigma(plane if unit == 1.0 else plane / (unit or 1.0)) ** 2 for plane in planes]
    return float(np.sqrt(np.mean(variances))) * unit


def _sigma(channel: np.ndarray) -> float:
    details = np.abs(_details(_details(channel).T))
    details = details[details > 0]
    return float(np.median(details)) / _NORMAL_MAD if details.size else 0.0


def _details(image: np.ndarray) -> np.ndarray:
    """High-pass along the first axis, every second one."""
    count = (len(image) - len(_HIGH_PASS)) // 2 + 1
    return sum(h * image[i : i + 2 * count - 1 : 2] for i, h in enumerate(_HIGH_PASS))
