"""The Triton kernels of the window form, by the interpreter where there is no GPU: small images.

On a GPU the layouts of test_window.py are gone through too.
"""

import pytest
import torch
import window_layouts
from backends import (
    HAS_TRITON,
    INTERPRETED,
    assert_a_cuda_graph_gives_the_same,
    assert_equal_but_for_ties,
    kernels_as_reference,
    n3_window_aggregate,
    outputs_and_gradients,
)

from n3match import ops
from n3match.ops.window.grid import WindowGrid

pytestmark = [
    pytest.mark.usefixtures("memory_full_of_nan"),
    pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed, or has no GPU"),
    # The interpreter's, of numbers that a kernel then doesn't choose.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
DEVICE = "cpu" if INTERPRETED else "cuda"

# (height, width, patch, stride, window): P = 2S, S, 3S; windows larger than the grid, padding, a
# window of one, a single patch; more than one tile of cells, and windows moved inwards.
SMALL = [
    (9, 12, 4, 2, 3),
    (5, 4, 2, 2, 4),
    (4, 5, 3, 1, 8),
    (4, 6, 2, 1, 1),
    (3, 3, 3, 3, 2),
    (3, 19, 1, 1, 3),
]
ALL = [layout for layout in window_layouts.LAYOUTS if layout[2] % layout[3] == 0]


def _inputs(layout, dtype=torch.float64, log_t=None, b=1, e=2, c=1):
    return window_layouts.inputs(layout, dtype, log_t, b, e, c)


def _run(backend, inputs, k, layout, dtype=torch.float64, **options):
    return outputs_and_gradients(
        n3_window_aggregate, backend, inputs, k, layout, dtype, **options
    )


def _compare(inputs, layout, k, dtype, tolerance, **options):
    return kernels_as_reference(
        n3_window_aggregate, inputs, k, layout, dtype, tolerance, **options
    )


@pytest.mark.parametrize("layout", SMALL)
def test_exact_in_float64(layout):
    """Nothing but rounding separates the kernels from the formula."""
    inputs, rest = _inputs(layout)
    _compare(inputs, rest, 3, torch.float64, 1e-9)


@pytest.mark.parametrize(
    ("k", "log_t"), list(zip(range(1, 9), (13.8, -13.8, 0.0, 13.8, -13.8, 1.0, 13.8, -13.8)))
)
def test_exact_with_ties_whatever_k(k, log_t):
    """Patches that are equal share what they get, cold as hot."""
    inputs, rest = _inputs((4, 7, 2, 1, 4), log_t=log_t)
    inputs[1][..., 2:5] = 0.5
    inputs[0][..., :3] = 0.5
    found, wanted = (_run(name, inputs, k, rest) for name in ("triton", "reference"))
    assert_equal_but_for_ties(found, wanted, log_t)


def test_with_itself_and_k_above_the_number_of_candidates():
    inputs, rest = _inputs((3, 4, 2, 1, 2), b=2)
    _compare(inputs, rest, 6, torch.float64, 1e-8, exclude_self=False)


@pytest.mark.parametrize("log_t", [-14.0, -2.0])
def test_float32_and_cold(log_t):
    """At −14 every choice is certain."""
    inputs, rest = _inputs((6, 8, 2, 2, 3), torch.float32, log_t)
    _compare(inputs, rest, 3, torch.float32, 2e-4)


@pytest.mark.parametrize("layout", [(6, 10, 4, 2, 3), (3, 5, 2, 1, 8)])
def test_noise_is_that_of_the_formula(layout):
    inputs, rest = _inputs(layout, b=2, log_t=1.0)

    def run(backend, seed):
        generator = torch.Generator().manual_seed(seed)
        return _run(backend, inputs, 3, rest, selection="concrete", generator=generator)

    first, other = (run("triton", seed) for seed in (0, 8))
    for seed, found in ((0, first), (8, other)):
        for a, b in zip(found, run("reference", seed)):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(first[0], other[0])


@pytest.mark.parametrize("layout", [(6, 10, 4, 2, 3), (4, 6, 2, 1, 1), (3, 4, 2, 1, 2)])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_hard_selection(layout, exclude_self):
    """Of the nearest, then the next, …; the last again where there are fewer than K."""
    inputs, rest = _inputs(layout, b=2)
    options = {"selection": "knn", "exclude_self": exclude_self}
    found = _run("triton", inputs, 5, rest, **options)
    wanted = _run("reference", inputs, 5, rest, **options)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_hard_selection_takes_the_first_of_equally_near_ones():
    inputs, rest = _inputs((6, 8, 2, 1, 3), b=1)
    for image in inputs[:2]:
        image.fill_(1.0)
    found, wanted = (_run(b, inputs, 4, rest, selection="knn") for b in ("triton", "reference"))
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-12)


def test_ties_and_zero_distances_stay_finite():
    inputs, rest = _inputs((6, 8, 4, 2, 3), torch.float32, 0.0)
    inputs[0][:, :, :, :6] = 1.0  # equal patches
    inputs[1].copy_(inputs[0])
    found = _run("triton", inputs, 3, rest, torch.float32, exclude_self=False)
    assert all(torch.isfinite(t).all() for t in found)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision(dtype, tolerance):
    inputs, rest = _inputs((4, 5, 2, 1, 3), dtype, 2.0)
    found = _compare(inputs, rest, 2, dtype, tolerance)
    assert all(t.dtype == dtype for t in found)


def test_same_bits_every_run():
    inputs, rest = _inputs((4, 5, 2, 1, 3), torch.float32)
    first, again = (_run("triton", inputs, 2, rest, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_compiles_into_one_graph():
    inputs, rest = _inputs((2, 3, 2, 1, 2), torch.float32)
    leaves = [x.to(DEVICE).requires_grad_() for x in inputs]

    def run(*leaves):
        return ops.n3_window_aggregate(*leaves[:3], 2, leaves[3], *rest, backend="triton").square()

    plain = run(*leaves)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves)
    torch.testing.assert_close(compiled, plain)
    for a, b in zip(*(torch.autograd.grad(z.sum(), leaves) for z in (compiled, plain))):
        torch.testing.assert_close(a, b)


def test_autocast_takes_the_widest_type():
    (query, key, value, log_t), rest = _inputs((2, 3, 2, 1, 2), torch.float32)
    query, key = query.bfloat16(), key.bfloat16()
    with torch.autocast(DEVICE, torch.bfloat16):
        z = n3_window_aggregate(query, key, value, 2, log_t, *rest, backend="triton")
    assert z.dtype == torch.float32
    wanted = n3_window_aggregate(query.float(), key.float(), value, 2, log_t, *rest)
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-4)


def test_custom_operator():
    """What PyTorch demands of operators: schema, fake kernel, autograd, compiled with any shape."""
    grid = WindowGrid(1, 2, 1, 1, 2)
    query, key, value = (torch.randn(1, 2, 1, device=DEVICE).requires_grad_() for _ in range(3))
    log_t = torch.zeros(1, 2, 1, device=DEVICE).requires_grad_()
    geometry = [*grid.shape, *grid.window_shape, 1, 1]
    norm = key.detach().square().sum(-1)
    given = (query, key, value, norm, log_t, geometry, 2, False, False, 3)
    torch.library.opcheck(torch.ops.n3match.triton_window, given)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recursion": "poster"}, "recursion='poster'"),
        ({"patch_size": 5}, "patch_size=5 is no multiple of stride=2"),
        ({"window": 65}, "window=65 has more than 4096 candidates"),
    ],
)
def test_what_it_cannot_serve_is_said(change, reason):
    x = torch.ones(1, 2, 12, 12)
    options = {"patch_size": 4, "stride": 2, "window": 3, **change}
    with pytest.raises(ValueError, match=f"'triton' can't serve this call: {reason}"):
        n3_window_aggregate(x, x, x, 2, backend="triton", **options)


@pytest.mark.skipif(INTERPRETED, reason="there is no GPU")
@pytest.mark.parametrize("layout", ALL)
@pytest.mark.parametrize("log_t", [None, -4.0, 4.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_larger_images(layout, log_t, dtype, tolerance):
    inputs, rest = _inputs(layout, dtype, log_t, b=2, e=3, c=2)
    if log_t == -4.0 and dtype == torch.float32:
        tolerance = 5e-3  # rounding of float32 distances of about 50 is 1e-4 of this t
    _compare(inputs, rest, 3, dtype, tolerance)


@pytest.mark.skipif(INTERPRETED, reason="there is no GPU")
def test_default_sizes_and_cuda_graph():
    """Patch 10, stride 5, window 15, seven neighbours."""
    inputs, rest = _inputs((93, 104, 10, 5, 15), torch.float32, 3.0, e=8, c=8)
    _compare(inputs, rest, 7, torch.float32, 2e-4)
    leaves = [x.cuda().requires_grad_() for x in inputs]

    def run():
        z = ops.n3_window_aggregate(*leaves[:3], 7, leaves[3], *rest)
        return z, *torch.autograd.grad(z, leaves, torch.ones_like(z))

    assert_a_cuda_graph_gives_the_same(run)
