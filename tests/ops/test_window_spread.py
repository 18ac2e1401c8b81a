"""Moments of the window form's distances against distances gathered one by one."""

import pytest
import torch

from n3match import ops
from n3match.ops.window.grid import WindowGrid

pytestmark = pytest.mark.arithmetic


def _plain(query, key, grid, exclude_self):
    index = grid.candidates()
    own = torch.arange(len(index))[:, None]
    q, x = grid.patches(query), grid.patches(key)
    d = (q[:, :, None] - x[:, index]).square().sum(3)
    d = d[:, index != own] if exclude_self else d
    return d.mean(), d.var(unbiased=False), d.numel()


@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride", "window"),
    [(23, 31, 4, 2, 5), (20, 20, 4, 2, 15), (13, 40, 5, 3, 4), (30, 9, 4, 4, 3)],
)
def test_moments_and_gradients(height, width, size, stride, window, exclude_self):
    gen = torch.Generator().manual_seed(0)
    images = [
        (3 + torch.randn(2, 3, height, width, generator=gen, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    ]
    options = {"patch_size": size, "stride": stride, "window": window}
    found = ops.window_distance_moments(*images, **options, exclude_self=exclude_self)
    wanted = _plain(*images, WindowGrid(height, width, size, stride, window), exclude_self)
    assert found[2] == wanted[2]
    for a, b in zip(found[:2], wanted[:2]):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=0)
        for grad, expected in zip(
            torch.autograd.grad(a, images, retain_graph=True),
            torch.autograd.grad(b, images, retain_graph=True),
        ):
            torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


def test_one_patch_alone_has_no_distances():
    image = torch.rand(1, 2, 10, 10)
    mean, variance, count = ops.window_distance_moments(image, image)
    assert (mean.item(), variance.item(), count) == (0.0, 0.0, 0)


def test_float32_far_from_zero_keeps_its_digits():
    image = 100 + torch.rand(1, 4, 40, 40, generator=torch.Generator().manual_seed(0))
    options = {"patch_size": 4, "stride": 2, "window": 5}
    found = ops.window_distance_moments(image, image, **options)[1]
    wanted = ops.window_distance_moments(image.double(), image.double(), **options)[1]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)
