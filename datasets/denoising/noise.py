"""Noise to train and to evaluate denoising on.

All take clean crops (B, C, H, W) float32 in 0 … 1 and return what the network gets and what it
should give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# White; a camera's on grey; the same on the four planes of a mosaic.
NOISES = ("gaussian", "raw", "bayer")

# Of raw noise, variance a·x + b (Plötz & Roth, 2018).
LOG_A = (-4.0, -1.0)
LOG_B_FROM_A = -2.3
LOG_B_SPREAD = 1.3
GAMMA = (1.25, 10.0)
EXPOSURE = (0.25, 1.0)
RED_BLUE = (0.4, 0.7)
RED_BLUE_JITTER = 0.01


@dataclass(frozen=True)
class NoisyCrops:
    noisy: np.ndarray  # (B, C, H, W)
    maps: np.ndarray  # (B, M) constant maps' values
    clean: np.ndarray  # (B, C, H, W)


def gaussian(
    clean: np.ndarray, rng: np.random.Generator, low: float, high: float, *, with_map: bool
) -> NoisyCrops:
    """White noise of σ ~ U(low, high) in 8-bit units for each crop, neither clipped nor rounded;
    the map holds σ/255."""
    sigma = rng.uniform(low, high, len(clean)).astype(np.float32) / np.float32(255)
    noise = rng.standard_normal(clean.shape, np.float32) * sigma[:, None, None, None]
    maps = sigma[:, None] if with_map else np.zeros((len(clean), 0), np.float32)
    return NoisyCrops(clean + noise, maps, clean)


def raw_like(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera's processing may have made of: intensities to the power of γ, times a factor.

    Both are drawn for each crop: γ ~ U(1.25, 10), the factor ~ U(0.25, 1).
    """
    shape = (len(clean), 1, 1, 1)
    gamma = rng.uniform(*GAMMA, shape).astype(np.float32)
    return clean**gamma * rng.uniform(*EXPOSURE, shape).astype(np.float32)


def bayer_planes(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, 3, 2H, 2W) linear red, green, blue -> (B, 4, H, W): red, green, green, blue samples.

    The phase of the pattern is drawn for each crop, and by how much red and blue are weaker than
    green before white balance: a common factor ~ U(0.4, 0.7), ± 0.01 for each.
    """
    planes = []
    for crop in colour:
        factor = rng.uniform(*RED_BLUE) + rng.uniform(-RED_BLUE_JITTER, RED_BLUE_JITTER, 2)
        y, x = (int(n) for n in rng.integers(2, size=2))
        places = ((0, y, x), (1, y, 1 - x), (1, 1 - y, x), (2, 1 - y, 1 - x))
        scale = (factor[0], 1.0, 1.0, factor[1])
        planes.append(
            np.stack([
                crop[channel, row::2, column::2] * np.float32(s)
                for (channel, row, column), s in zip(places, scale)
            ])
        )
    return np.stack(planes)


def draw_levels(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2): log10 a ~ U(−4, −1), log10 b = log10 a − 2.3 + U(−1.3, 1.3)."""
    log_a = rng.uniform(*LOG_A, count)
    log_b = log_a + LOG_B_FROM_A + rng.uniform(-LOG_B_SPREAD, LOG_B_SPREAD, count)
    return (10.0 ** np.stack([log_a, log_b], 1)).astype(np.float32)


def poisson_gaussian(
    clean: np.ndarray, rng: np.random.Generator, levels: Sequence | np.ndarray
) -> NoisyCrops:
    """Noise of variance a·x + b on linear intensities x, clipped to 0 … 1; levels (B, 2) and the
    maps hold a and b of each crop."""
    levels = np.asarray(levels, np.float32)
    a, b = (levels[:, i, None, None, None] for i in (0, 1))
    noise = rng.standard_normal(clean.shape, np.float32) * np.sqrt(a * clean + b)
    return NoisyCrops(np.clip(clean + noise, 0.0, 1.0), levels, clean)
