"""Two photographs beside each other at one height, and where their points are then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from n3match.pipelines.plots.sheet import WIDTH_INCHES

_GAP = 0.015  # between the photographs, of their width


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Image 0 at the left, image 1 at the right; lengths in units of their height.

    Attributes:
        image0: (H0, W0) grey or (H0, W0, 3) RGB, uint8. image1: the same for image 1.
    """

    image0: np.ndarray
    image1: np.ndarray

    @property
    def inches(self) -> float:
        """Height at the picture's width."""
        return WIDTH_INCHES / self._spans()[1][1]

    def show(self, axes: Axes) -> None:
        """Draws both, dimmed, and sets the limits of the axes."""
        spans = self._spans()
        for image, (left, right) in zip((self.image0, self.image1), spans):
            axes.imshow(_dimmed(image), extent=(left, right, 1, 0), interpolation="antialiased")
        axes.set(xlim=(0, spans[1][1]), ylim=(1, 0), aspect="auto")

    def place(self, side: int, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of image 0 or 1 in the axes; the centre of the first one is (0, 0)."""
        image = (self.image0, self.image1)[side]
        return (points + 0.5) / image.shape[0] + (self._spans()[side][0], 0.0)

    def _spans(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Left and right edge of each."""
        aspect0, aspect1 = (i.shape[1] / i.shape[0] for i in (self.image0, self.image1))
        gap = _GAP * (aspect0 + aspect1)
        return (0.0, aspect0), (aspect0 + gap, aspect0 + gap + aspect1)


def _dimmed(image: np.ndarray) -> np.ndarray:
    """RGB, darker and with less colour, so that the lines stand out."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    image = image.astype(np.float32)
    grey = image.mean(axis=2, keepdims=True)
    return (0.65 * (0.6 * image + 0.4 * grey)).astype(np.uint8)
