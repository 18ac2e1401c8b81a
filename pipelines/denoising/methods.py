"""Ways to denoise, by name, to compare: n3match's networks, OpenCV's non-local means, BM3D."""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from n3match import weights
from n3match.denoising import Denoiser, denoise, denoise_raw
from n3match.denoising.denoise import accepted_sigma
from n3match.nn import N3NetConfig
from n3match.pipelines.common.devices import checked_device, placed
from n3match.pipelines.common.fingerprints import hash_of_weights

# (noisy float32 image in about 0 … 1, σ in 8-bit units) -> denoised
Method = Callable[[np.ndarray, float], np.ndarray]
# (noisy linear intensities in 0 … 1, a, b of the noise variance a·x + b) -> denoised
RawMethod = Callable[[np.ndarray, float, float], np.ndarray]


def keep(noisy: np.ndarray, sigma: float) -> np.ndarray:
    return noisy


def non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """`cv2.fastNlMeansDenoising(Colored)` with h = σ and default windows; it takes 8-bit images."""
    rounded = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    if rounded.ndim == 3 and rounded.shape[2] == 3:
        done = cv2.fastNlMeansDenoisingColored(rounded, None, sigma, sigma)
    elif rounded.ndim == 3:
        planes = np.moveaxis(rounded, 2, 0)
        done = np.stack([cv2.fastNlMeansDenoising(p.copy(), None, sigma) for p in planes], 2)
    else:
        done = cv2.fastNlMeansDenoising(rounded, None, sigma)
    return done.astype(np.float32) / 255


def block_matching(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D of the package bm3d; planes one by one."""
    from bm3d import bm3d  # optional, and its licence is not ours

    planes = noisy[..., None] if noisy.ndim == 2 else noisy
    done = [bm3d(planes[..., c], sigma / 255) for c in range(planes.shape[2])]
    return np.stack(done, 2).reshape(noisy.shape).astype(np.float32)


CLASSICAL: dict[str, Method] = {
    "noisy": keep, "cv2-nlm": non_local_means, "bm3d": block_matching,
}


def stabilised(method: Method, noisy: np.ndarray, a: float, b: float) -> np.ndarray:
    """A method for white noise on raw noise, of variance a·x + b: made white before, and back.

    The generalised Anscombe transform f(y) = 2/a·√(a·y + 3/8·a² + b) has noise of about unit
    variance; back with the closed form of the exact unbiased inverse (Mäkitalo & Foi, "Optimal
    inversion of the generalized Anscombe transformation", 2013).

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


@dataclass(frozen=True)
class MethodSource:
    """Which method is meant: `label` in tables, `source` a name or a path of weights; networks run
    on `device`, in half precision where wanted (`devices.placed`)."""

    label: str
    source: str
    device: str = "cpu"
    half: bool = False

    @classmethod
    def parse(cls, text: str) -> MethodSource:
        """A name ("cv2-nlm", shipped weights), a path of weights, or LABEL=PATH.

        Raises:
            ValueError: none of these, with the names there are.
        """
        if text in CLASSICAL or text in weights.shipped():
            return cls(text, text)
        if Path(text).is_file():
            return cls(Path(text).stem, text)
        label, equals, path = text.partition("=")
        if equals and label and Path(path).is_file():
            return cls(label, path)
        raise ValueError(
            f"methods: {text!r} is none of {', '.join(CLASSICAL)}, "
            "nor shipped weights, nor a file of weights, nor LABEL=FILE"
        )

    @property
    def is_classical(self) -> bool:
        return self.source in CLASSICAL

    def accepts(self, sigma: float) -> bool:
        """Whether it is for white noise of this σ, 8-bit units.

        Raises:
            ValueError: the file holds no denoising network.
        """
        if self.is_classical:
            return True
        config = Denoiser.from_pretrained(self.source).config
        low, high = accepted_sigma(config)
        return not _is_raw(config) and low <= sigma <= high

    def fingerprint(self) -> str:
        """Text that changes when the method does, e.g. when weights are trained again."""
        if self.is_classical:
            return self.source
        return hash_of_weights(self.source) + (" in half" if self.half else "")

    def load(self, memory_limit: int) -> Method:
        """The method for white noise. Raises ValueError where the file is no denoising network."""
        if self.is_classical:
            return CLASSICAL[self.source]
        net = self._network()

        def run(noisy: np.ndarray, sigma: float) -> np.ndarray:
            return denoise(noisy, sigma, weights=net, memory_limit=memory_limit)

        return run

    def load_raw(self, memory_limit: int) -> RawMethod:
        """The method for raw noise: of a network trained for it, that; others with a transform
        that makes the noise white before, and back.

        Raises:
            ValueError: no denoising network, or one for a single σ, which the transform can't meet.
        """
        if self.source == "noisy":
            return lambda noisy, a, b: noisy
        if not self.is_classical:
            net = self._network()
            if _is_raw(net.config):
                return lambda noisy, a, b: denoise_raw(
                    noisy, a, b, weights=net, memory_limit=memory_limit
                )
            if net.config.maps != ("sigma",):
                raise ValueError(
                    f"weights: {self.source} are for one σ: raw noise wants a network trained for "
                    "it, or one for a range of σ"
                )
        run = self.load(memory_limit)
        return lambda noisy, a, b: stabilised(run, noisy, a, b)

    def _network(self) -> Denoiser:
        torch.backends.cudnn.allow_tf32 = False  # figures of a GPU are to be those of a CPU
        return placed(Denoiser.from_pretrained(self.source), self.device, self.half)


def _is_raw(config: N3NetConfig) -> bool:
    return config.maps == ("a", "b")


def methods_from_arguments(arguments: argparse.Namespace) -> list[MethodSource]:
    """Those of `arguments.add_method_arguments`.

    Raises:
        ValueError: none, unknown ones, or one label for two; no such device. ImportError: bm3d
            isn't installed.
    """
    checked_device(arguments.device)
    names = arguments.methods
    if "bm3d" in names and not importlib.util.find_spec("bm3d"):
        raise ImportError("methods: 'bm3d' needs the package bm3d: pip install bm3d")
    methods = [
        replace(MethodSource.parse(name), device=arguments.device, half=arguments.half)
        for name in (*names, *arguments.weights)
    ]
    labels = [method.label for method in methods]
    if not methods or len(set(labels)) < len(labels):
        raise ValueError(f"methods: wanted some with different labels, got {labels}")
    return methods
