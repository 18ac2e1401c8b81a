"""Tiles cover everything once, and lie on the whole image's grid of patches."""

from dataclasses import replace

import pytest
import torch

from n3match.denoising import Denoiser
from n3match.denoising.tiles import Layout, tile_sides
from n3match.nn import PRESETS
from n3match.ops.window.grid import WindowGrid

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize("length", [*range(160, 172), 333])
@pytest.mark.parametrize(
    ("size", "stride", "window"), [(10, 5, 5), (8, 4, 3), (1, 1, 1), (7, 3, 4)]
)
def test_spans(length, size, stride, window):
    layout = Layout(20, size, stride, window)
    spans = list(layout.spans(length, 90))
    assert len(spans) > 1
    assert [s.core_start for s in spans] == [0, *(s.core_stop for s in spans[:-1])]
    assert spans[-1].core_stop == length
    whole = WindowGrid(length, length, size, stride, window)
    origin = -whole.padding[2]
    for span in spans:
        assert span.stop - span.start <= 90
        assert span.start == 0 or span.start <= span.core_start - layout.reach
        assert span.stop == length or span.stop >= span.core_stop + layout.reach
        grid = WindowGrid(span.stop - span.start, size, size, stride, window)
        assert (span.start - grid.padding[2] - origin) % stride == 0
        # Zeros are padded where the whole image has them too; elsewhere they lie in the margin.
        if span.start == 0:
            assert grid.padding[2] == whole.padding[2]
        if span.stop == length:
            assert grid.padding[3] == whole.padding[3]


def test_one_span_where_it_fits_and_none_where_nothing_does():
    assert len(list(Layout(20).spans(100, 100))) == 1
    with pytest.raises(ValueError, match="too small"):
        list(Layout(20).spans(100, 45))


@pytest.mark.parametrize(("height", "width", "pixels"), [(50, 4000, 10_000), (999, 700, 250_000)])
def test_sides(height, width, pixels):
    high, wide = tile_sides(height, width, pixels)
    assert high <= height and wide <= width and high * wide <= pixels
    assert high * wide > 0.9 * min(pixels, height * width)


SIZES = {
    "features": 8, "block_channels": 2, "neighbours": 2, "patch_size": 6, "stride": 3,
    "window": 5, "embedding_features": 8, "embedding_channels": 3, "depth": 3, "guide_depth": 4,
}


@pytest.mark.parametrize("name", ["n3net", "knn-input", "knn-denoised", "dncnn-17", "n3net-fast"])
@pytest.mark.parametrize(("height", "width"), [(141, 122), (98, 133), (40, 210)])
def test_tiled_equals_whole(name, height, width):
    torch.manual_seed(0)
    net = Denoiser(replace(PRESETS[name], **SIZES, maps=("sigma",))).eval()
    scale = net.config.scale
    x = torch.rand(1, 2, scale * height - (scale > 1), scale * width)
    shares = []
    with torch.inference_mode():
        whole = net(x)
    needed = max(run.bytes for run in net._passes())
    kept = 2 * max(run.channels for run in net._passes()) * 4 * height * width
    tiled = net.restore(x, memory_limit=kept + needed * 80 * 80, progress=shares.append)
    assert tiled.shape == (1, 1, *x.shape[2:])
    assert len(shares) > net.stages + (net.guide is not None)  # it was tiled
    assert shares == sorted(shares) and shares[-1] == 1.0
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_a_limit_too_small_for_any_tile_is_an_error():
    net = Denoiser(PRESETS["n3net"]).eval()
    with pytest.raises(ValueError, match="memory_limit"):
        net.restore(torch.rand(1, 1, 300, 300), memory_limit=1 << 20)
