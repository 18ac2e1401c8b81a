"""Denoisers of white noise on raw noise: the generalised Anscombe transform before, and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def stabilised(
    method: Callable[[np.ndarray, float], np.ndarray], noisy: np.ndarray, a: float, b: float
) -> np.ndarray:
    """Noise of variance a·x + b made white, denoised, and made intensities again.

    f(y) = 2/a·√(a·y + 3/8·a² + b) has noise of about unit variance; back with the closed form of
    the exact unbiased inverse (Mäkitalo & Foi, "Optimal inversion of the generalized Anscombe
    transformation", 2013).

    Args:
        method: (image in about 0 … 1, σ in 8-bit units) -> denoised.
        noisy: intensities in 0 … 1.
        a: above 0; b: 0 or more.

    Returns:
        float32 intensities, 0 or more.
    """
    darkest, brightest = (_forward(np.float64(x), a, b) for x in (0.0, 1.0))
    span = float(brightest - darkest)
    unit = (_forward(noisy.astype(np.float64), a, b) - darkest) / span
    done = method(unit.astype(np.float32), 255 / span)
    return _backward(done.astype(np.float64) * span + darkest, a, b).astype(np.float32)


def _forward(y: np.ndarray, a: float, b: float) -> np.ndarray:
    return 2 / a * np.sqrt(np.maximum(a * y + 0.375 * a * a + b, 0.0))


def _backward(d: np.ndarray, a: float, b: float) -> np.ndarray:
    variance = b / (a * a)  # of the Gaussian part, in units of one photon
    # No smaller than what an intensity of 0 becomes: the inverse's terms grow without bound there.
    d = np.maximum(d, 2 * math.sqrt(0.375 + variance))
    root = math.sqrt(1.5)
    photons = d**2 / 4 + root / 4 / d - 11 / 8 / d**2 + 5 / 8 * root / d**3 - 1 / 8 - variance
    return np.maximum(a * photons, 0.0)
