"""How near a denoised image is to the clean one: PSNR and SSIM, on images in 0 … 1."""

from __future__ import annotations

import math

import cv2
import numpy as np

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def psnr(found: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal to noise ratio in dB over the whole image, peak 1; infinite where equal."""
    error = float(np.mean((found.astype(np.float64) - clean) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(found: np.ndarray, clean: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004): 11×11 Gaussian window of σ 1.5, population
    moments, mean over the windows that lie inside the image; of colours, the channels' mean.

    Raises:
        ValueError: images smaller than the window.
    """
    if min(clean.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM wants {_WINDOW}×{_WINDOW} pixels at least, got {clean.shape}")
    x, y = (np.atleast_3d(image).astype(np.float64) for image in (found, clean))
    return float(np.mean([_ssim(x[..., c], y[..., c]) for c in range(x.shape[2])]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    half = _WINDOW // 2

    def mean(image: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(image, (_WINDOW, _WINDOW), _SIGMA)
        return smooth[half:-half, half:-half]

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    top = (2 * mx * my + _C1) * (2 * cov + _C2)
    return float((top / ((mx**2 + my**2 + _C1) * (vx + vy + _C2))).mean())
