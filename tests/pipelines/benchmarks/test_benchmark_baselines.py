"""What the operator is timed against computes the same thing, gradients included."""

import math

import pytest
import torch

from n3match import ops
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks import baselines
from n3match.pipelines.benchmarks.baselines import (
    authors_windows,
    gather_windows,
    plain_aggregate,
)

pytestmark = pytest.mark.arithmetic

# Height, width, patch, stride, window: odd sizes; fewer patches than the window; patches that
# don't divide by the stride, that don't overlap, and one row of patches.
CASES = [
    (31, 47, 10, 5, 3), (36, 30, 10, 5, 15), (23, 29, 7, 3, 4), (26, 21, 4, 4, 3),
    (10, 30, 10, 5, 3),
]
K = 3


def by_hand(query, key, value, log_temperature, patch, stride, window):
    """The window rule spelled out patch by patch, in float64."""

    def pad(image):
        amounts = []
        for length in (image.shape[2], image.shape[1]):
            lacking = patch - length if length < patch else -(length - patch) % stride
            amounts += [lacking // 2, lacking - lacking // 2]
        return torch.nn.functional.pad(image, amounts), amounts

    outputs = []
    for q, x, v in zip(query.double(), key.double(), value.double()):
        (q, amounts), (x, _), (v, _) = pad(q), pad(x), pad(v)
        n1, n2 = ((side - patch) // stride + 1 for side in q.shape[1:])
        total = torch.zeros(K, *v.shape, dtype=torch.float64)
        count = torch.zeros_like(v)

        def cut(image, i, j):
            return image[:, i * stride : i * stride + patch, j * stride : j * stride + patch]

        for i in range(n1):
            for j in range(n2):
                top = max(0, min(i - window // 2, n1 - window))
                left = max(0, min(j - window // 2, n2 - window))
                near = [
                    (a, b)
                    for a in range(top, min(n1, top + window))
                    for b in range(left, min(n2, left + window))
                    if (a, b) != (i, j)
                ]
                d = torch.stack([(cut(q, i, j) - cut(x, *at)).square().sum() for at in near])
                w = ops.reference.n3_weights(d[None, None], K, log_temperature)[0, 0]
                z = torch.einsum("ok,ochw->kchw", w, torch.stack([cut(v, *at) for at in near]))
                for k in range(K):
                    cut(total[k], i, j).add_(z[k])
                cut(count, i, j).add_(1)
        left, right, above, below = amounts
        rows, columns = total.shape[2:]
        outputs.append((total / count)[:, :, above : rows - below, left : columns - right])
    return torch.stack(outputs)


def draw(height, width, channels=3):
    generator = torch.Generator().manual_seed(height * width)
    return [torch.randn(2, channels, height, width, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("function", [gather_windows, authors_windows])
@pytest.mark.parametrize("case", CASES)
def test_windows_follow_the_rule(function, case):
    height, width, patch, stride, window = case
    query, key, value = draw(height, width)
    log_t = math.log(patch * patch / 3)
    wanted = by_hand(query, key, value[:, :2], log_t, patch, stride, window)
    found = function(query, key, value[:, :2], K, log_t, patch, stride, window)
    assert found.shape == (2, K, 2, height, width)
    assert (found - wanted).abs().max() < 5e-5
    oracle = ops.n3_window_aggregate(
        query.double(), key.double(), value[:, :2].double(), K, log_t, patch, stride, window,
        backend="reference",
    )
    torch.testing.assert_close(oracle, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_gathering_in_chunks_has_the_gradients_of_the_authors_algorithm(chunk, monkeypatch):
    monkeypatch.setattr(baselines, "CHUNK", chunk)
    images = [image.double().requires_grad_() for image in draw(31, 36)]
    cotangent = torch.randn(2, K, 3, 31, 36, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(function(*images, K, 3.0, 10, 5, 3), images, cotangent)
        for function in (gather_windows, authors_windows)
    ]
    for name, gathered, dense in zip(("query", "key", "value"), *gradients):
        assert dense.abs().max() > 0.01, name
        torch.testing.assert_close(gathered, dense, rtol=1e-6, atol=1e-8, msg=name)


def test_grid_of_the_published_denoiser():
    grid = WindowGrid(512, 512, *baselines.LAYOUT)
    assert grid.shape == (102, 102)
    assert grid.padding == (1, 2, 1, 2)
    candidates = grid.candidates()
    assert candidates.shape == (102 * 102, 225)
    assert (candidates[0].max(), candidates[-1].min()) == (14 * 102 + 14, 87 * 102 + 87)


def test_plain_formula_is_the_operator():
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(2, n, channels, generator=generator, dtype=torch.float64).requires_grad_()
        for n, channels in ((13, 5), (17, 5), (17, 4))
    ]
    plain = plain_aggregate(*leaves, K, 0.7)
    wanted = ops.n3_aggregate(*leaves, K, 0.7, backend="reference")
    torch.testing.assert_close(plain, wanted, rtol=1e-6, atol=1e-7)
    cotangent = torch.randn(plain.shape, dtype=torch.float64)
    found, true = (torch.autograd.grad(z, leaves, cotangent) for z in (plain, wanted))
    for a, b in zip(found, true):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
