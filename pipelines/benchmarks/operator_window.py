"""The window form against its matrix products, gathering and the authors' algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from n3match import ops
from n3match.pipelines.benchmarks.ceilings import Ceilings, window_work
from n3match.pipelines.benchmarks.measure import median_seconds
from n3match.pipelines.benchmarks.measurement import (
    AUTHORS,
    GATHERING,
    OURS,
    PRODUCTS,
    Limits,
    Measurement,
)
from n3match.pipelines.benchmarks.side_by_side import side_by_side
from n3match.pipelines.benchmarks.window_baselines import (
    Grid,
    authors_bytes,
    authors_windows,
    gather_windows,
)
from n3match.pipelines.benchmarks.window_products import TILES, window_products

SIDES = (128, 256, 512, 1024)
CHANNELS, NEIGHBOURS = 8, 7
# Random patches: at this temperature their weights are neither uniform nor certain.
_LOG_TEMPERATURE = math.log(20.0)


def describe() -> str:
    return (
        f"B = 1, {CHANNELS} channels, patch {Grid.patch_size}, stride {Grid.stride}, "
        f"window {Grid.window}, K = {NEIGHBOURS}, float32"
    )


def measure_windows(
    sides: Sequence[int], limits: Limits, ceilings: Ceilings
) -> list[Measurement]:
    """Time and memory for one square image of each side, without and with gradients."""
    rows = []
    for side in sorted(sides):
        grid = Grid(side, side)

        def needed(name: str, gradients: bool, grid: Grid = grid) -> int:
            return authors_bytes(grid, NEIGHBOURS, gradients) if name == AUTHORS else 0

        def floor(gradients: bool, grid: Grid = grid) -> float:
            return ceilings.floor_seconds(window_work(grid, CHANNELS, NEIGHBOURS, gradients))

        rows += side_by_side(
            "window",
            side,
            (OURS, PRODUCTS, GATHERING, AUTHORS),
            call=_call,
            prepare=_prepare,
            needed_bytes=needed,
            floor_seconds=floor,
            limits=limits,
            earlier=rows,
        )
    return rows


def _call(name: str, side: int, gradients: bool) -> Callable[[], object]:
    if name == PRODUCTS:
        return _fastest_products(Grid(side, side), gradients)
    functions = {
        OURS: ops.n3_window_aggregate, GATHERING: gather_windows, AUTHORS: authors_windows,
    }
    function = functions[name]
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randn(1, CHANNELS, side, side, generator=generator).requires_grad_(gradients)
        for _ in range(3)
    ]
    cotangent = torch.randn(1, NEIGHBOURS, CHANNELS, side, side, generator=generator)

    def run() -> object:
        z = function(*images, NEIGHBOURS, _LOG_TEMPERATURE)
        return torch.autograd.grad(z, images, cotangent) if gradients else z

    return run


def _fastest_products(grid: Grid, gradients: bool) -> Callable[[], object]:
    tiles = {
        str(tile): window_products(grid, CHANNELS, NEIGHBOURS, gradients, tile) for tile in TILES
    }
    seconds = median_seconds(tiles, 1)
    return tiles[min(seconds, key=seconds.__getitem__)]


def _prepare(name: str, side: int, passes: Sequence[bool]) -> list[Callable[[], object]]:
    for gradients in passes:  # what torch loads at its first call isn't the operator's
        _call(name, 20, gradients)()
    return [_call(name, side, gradients) for gradients in passes]
