"""Cells cut out of images and put back; what is made of them, `test_window.py` checks."""

import pytest
import torch
from torch.nn import functional

from n3match import native
from n3match.ops.window import loops
from n3match.ops.window.tiles import CellAxis, Tile

pytestmark = [
    pytest.mark.arithmetic,
    pytest.mark.skipif(not native.available(), reason="no compiled library"),
]

# (channels, height, width, size, top, left): cells of a pixel, small and larger than a vector;
# images that begin and end within a cell, or hold less than one.
LAYOUTS = [
    (3, 7, 9, 1, 0, 0), (2, 23, 31, 5, 2, 1), (1, 40, 64, 16, 0, 8), (2, 25, 33, 20, 9, 3),
    (1, 3, 2, 4, 1, 0), (8, 15, 60, 5, 0, 0),
]


def _points(images, layout):
    """(K, C, H, W) -> (Y, X, K, D), by tensor operations."""
    _, height, width, size, top, left = layout
    below, right = -(height + top) % size, -(width + left) % size
    padded = functional.pad(images, (left, right, top, below))
    cells = padded.unfold(2, size, size).unfold(3, size, size)
    return cells.permute(2, 3, 0, 1, 4, 5).flatten(3)


def _draw(layout, k, dtype):
    gen = torch.Generator().manual_seed(0)
    return torch.randn(k, *layout[:3], generator=gen, dtype=torch.float64).to(dtype)


def _cells(whole):
    """All cells, and some of them: numbers of rows and columns."""
    y, x = whole
    yield range(y), range(x)
    yield range(y // 2, y), range(x // 3, max(x // 3 + 1, x - 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_are_cut_out_and_put_back(layout, k, dtype):
    images = _draw(layout, k, dtype)
    view = loops.View(*layout)
    whole = _points(images, layout)
    for cells in _cells(whole.shape[:2]):
        rows, columns = (slice(part.start, part.stop) for part in cells)
        wanted = functional.pad(
            whole[rows, columns], (0, loops.room(view.depth) - view.depth)
        )
        found = torch.full_like(wanted, float("nan"))
        loops.cut_points(images, view, cells, found)
        assert torch.equal(found, wanted)
        back = torch.full_like(images, 99.0)
        loops.put_points(found, view, cells, back)
        there = _points(torch.ones_like(images), layout)
        there[rows, columns] *= 2
        # Pixels of other cells are left alone.
        assert torch.equal(_points(back, layout)[there == 2], whole[there == 2])
        assert (_points(back, layout)[there == 1] == 99).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planes_are_cut_out(layout, dtype):
    images = _draw(layout, 1, dtype)
    view = loops.View(*layout)
    whole = _points(images, layout)[:, :, 0]
    rows, across = whole.shape[:2]
    line = loops.line(across)
    assert line >= across + native.LANES
    for start in (0, rows // 2):
        found = images.new_full((rows - start, view.depth, line), float("nan"))
        loops.cut_planes(images[0], view, (range(start, rows), range(across)), found)
        assert torch.equal(found[:, :, :across], whole[start:].transpose(1, 2))
        assert (found[:, :, across:] == 0).all()


def test_points_shared_among_patches():
    """Three patches of two cells along each axis: those inside belong to two, the outermost to
    one."""
    layout = (1, 8, 8, 2, 0, 0)
    images, view = _draw(layout, 2, torch.float64), loops.View(*layout)
    axis = CellAxis(patches=3, window=3, side=2, nearest=(0, 0, 0))
    part = axis.of_patches(range(3))
    tile = loops.LoopsTile((loops.Axis(axis), loops.Axis(axis)), Tile(part, part))
    found = images.new_empty(4, 4, 2, loops.room(view.depth))
    loops.cut_points(images, view, tile.cells, found, tile)
    cover = torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    wanted = _points(images, layout) / (cover[:, None] * cover)[:, :, None, None]
    torch.testing.assert_close(found[..., : view.depth], wanted)
