"""Ways to denoise, by name, to compare: n3match's networks and OpenCV's non-local means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from n3match import weights
from n3match.denoising import Denoiser, denoise

# (noisy float32 image in about 0 … 1, σ in 8-bit units) -> denoised
Method = Callable[[np.ndarray, float], np.ndarray]


def keep(noisy: np.ndarray, sigma: float) -> np.ndarray:
    return noisy


def non_local_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """`cv2.fastNlMeansDenoising(Colored)` with h = σ and default windows; it takes 8-bit images."""
    rounded = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    if rounded.ndim == 3:
        done = cv2.fastNlMeansDenoisingColored(rounded, None, sigma, sigma)
    else:
        done = cv2.fastNlMeansDenoising(rounded, None, sigma)
    return done.astype(np.float32) / 255


CLASSICAL: dict[str, Method] = {"noisy": keep, "cv2-nlm": non_local_means}
DESCRIPTIONS = {
    "noisy": "the noisy image itself",
    "cv2-nlm": "`cv2.fastNlMeansDenoising`, h = σ, default windows, on 8 bits",
}


@dataclass(frozen=True)
class MethodSource:
    """Which method is meant: `label` in tables, `source` a name or a path of weights."""

    label: str
    source: str

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

    def load(self, memory_limit: int) -> Method:
        """The method itself. Raises ValueError where the file is no denoising network."""
        if self.source in CLASSICAL:
            return CLASSICAL[self.source]
        net = Denoiser.from_pretrained(self.source)

        def run(noisy: np.ndarray, sigma: float) -> np.ndarray:
            return denoise(noisy, sigma, weights=net, memory_limit=memory_limit)

        return run
