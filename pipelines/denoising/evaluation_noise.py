"""Noise that denoising is evaluated on: the same for every method, image by image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from n3match.datasets.denoising import noise as noise_models
from n3match.pipelines.denoising.methods import MethodSource

_SEED = 1234

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class GaussianNoise:
    """White, of σ in 8-bit units."""

    sigma: float

    @property
    def label(self) -> str:
        return f"{self.sigma:g}"

    @property
    def heading(self) -> str:
        return f"σ {self.sigma:g}"

    def pair(self, image: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Clean and noisy float32 image of an image of uint8, number `index` of its folder."""
        clean = image.astype(np.float32) / np.float32(255)
        return clean, noisy_image(clean, self.sigma, index)

    def loaded(self, method: MethodSource, memory_limit: int) -> Run:
        run = method.load(memory_limit)
        return lambda noisy: run(noisy, self.sigma)


@dataclass(frozen=True)
class RawNoise:
    """A camera's: variance a·x + b, on images made raw-like as for training.

    Attributes:
        a, b: for intensities of 0 … 1.
        bayer: four planes of a mosaic (of colour images), in place of grey.
    """

    a: float
    b: float
    bayer: bool

    @classmethod
    def parse(cls, text: str, bayer: bool) -> RawNoise:
        """"a,b". Raises ValueError."""
        try:
            a, b = (float(part) for part in text.split(","))
        except ValueError:
            a = b = float("nan")
        if not (0 < a <= 1 and 0 <= b <= 1):
            raise ValueError(f"levels: wanted A,B with 0 < A ≤ 1 and 0 ≤ B ≤ 1, got {text!r}")
        return cls(a, b, bayer)

    @property
    def label(self) -> str:
        return f"{self.a:g},{self.b:g}"

    @property
    def heading(self) -> str:
        return f"a {self.a:g} b {self.b:g}"

    def pair(self, image: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Clean and noisy intensities (H, W) or (H/2, W/2, 4): clean ones are the same at every
        level."""
        height, width = (n - n % 2 if self.bayer else n for n in image.shape[:2])
        planes = np.moveaxis(np.atleast_3d(image[:height, :width]), 2, 0)[None]
        rng = np.random.default_rng([_SEED, index])
        clean = noise_models.raw_like(planes.astype(np.float32) / np.float32(255), rng)
        if self.bayer:
            clean = noise_models.bayer_planes(clean, rng)
        rng = np.random.default_rng([_SEED, round(self.a * 1e9), round(self.b * 1e9), index])
        noisy = noise_models.poisson_gaussian(clean, rng, [(self.a, self.b)]).noisy
        if self.bayer:
            return tuple(np.ascontiguousarray(np.moveaxis(x[0], 0, 2)) for x in (clean, noisy))
        return clean[0, 0], noisy[0, 0]

    def loaded(self, method: MethodSource, memory_limit: int) -> Run:
        run = method.load_raw(memory_limit)
        return lambda noisy: run(noisy, self.a, self.b)


def noisy_image(clean: np.ndarray, sigma: float, index: int) -> np.ndarray:
    """float32 image with the noise of image number `index` (of the sorted folder) at σ.

    σ that isn't whole seeds by its thousandth part.
    """
    seed = int(sigma) if float(sigma).is_integer() else round(sigma * 1000)
    rng = np.random.default_rng([_SEED, seed, index])
    noise = rng.standard_normal(clean.shape).astype(np.float32) * np.float32(sigma / 255)
    return clean + noise
