"""Which tiles an image is done in: each with a margin, aligned with the whole image's patches.

A pixel of a tile's core is what it would be in the whole image: the margin is as wide as a stage
looks, and patches lie where they lie in the whole image, whose own zero padding (see
`ops.window.grid`) is repeated where a tile ends at its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_SMALLEST_CORE = 16


@dataclass(frozen=True)
class Span:
    """Along one axis: a tile and the core of it that counts."""

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def length(self) -> int:
        """Of the tile."""
        return self.stop - self.start

    @property
    def tile(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def core(self) -> slice:
        return slice(self.core_start, self.core_stop)

    @property
    def core_in_tile(self) -> slice:
        return slice(self.core_start - self.start, self.core_stop - self.start)


@dataclass(frozen=True)
class Layout:
    """What a stage's tiles must keep to."""

    reach: int  # pixels
    patch_size: int = 1
    stride: int = 1
    window: int = 1  # patches along a side

    @property
    def smallest(self) -> int:
        """Windows are moved inwards at the image's border, and there look farther than elsewhere:
        a tile must be longer than a window."""
        return (self.window + 1) * self.stride + self.patch_size

    def spans(self, length: int, longest: int) -> Iterator[Span]:
        """Spans that cover 0 … length, tiles at most `longest` long.

        Raises:
            ValueError: `longest` leaves no room for a core between the margins.
        """
        if length <= longest:
            yield Span(0, length, 0, length)
            return
        room = longest - 2 * (self.reach + self.stride)
        if room < _SMALLEST_CORE or longest < self.smallest + self.stride:
            raise ValueError(
                f"tiles of {longest} pixels are too small for margins of {self.reach}"
            )
        count = -(-length // room)
        edges = [length * i // count for i in range(count + 1)]
        for start, stop in pairwise(edges):
            yield self._around(start, stop, length)

    def _around(self, core_start: int, core_stop: int, length: int) -> Span:
        size, step = self.patch_size, self.stride
        top = (-(length - size) % step) // 2
        start = max(min(core_start - self.reach, length - self.smallest), 0)
        stop = min(max(core_stop + self.reach, self.smallest), length)
        if start > 0 and stop < length:
            start -= (start + top) % step
            stop += -(stop - start - size) % step
            start = max(start, 0)
        if start == 0 and stop < length:
            # With the whole image's remainder, the tile is padded at its start as that is.
            stop = min(stop + (length - stop) % step, length)
        if stop >= length:
            stop = length
            start -= start % step
        return Span(start, stop, core_start, core_stop)


def tile_sides(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Sides of tiles of at most so many pixels, as square as the image allows."""
    if height * width <= pixels:
        return height, width
    side = int(pixels**0.5)
    high = min(height, side)
    wide = min(width, pixels // high)
    return min(height, pixels // wide), wide
