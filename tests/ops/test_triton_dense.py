"""The Triton kernels of the dense form, by the interpreter where there is no GPU: small odd sizes.

On a GPU the cases of test_dense.py run too.
"""

import logging

import pytest
import torch
from backends import (
    HAS_TRITON,
    INTERPRETED,
    NAMES,
    assert_a_cuda_graph_gives_the_same,
    assert_equal_but_for_ties,
    n3_aggregate,
    outputs_and_gradients,
)

from n3match import ops

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed, or has no GPU"),
    # The interpreter's, of numbers that a kernel then doesn't choose.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

DEVICE = "cpu" if INTERPRETED else "cuda"


def _inputs(size, dtype=torch.float64, log_t=None, seed=0):
    b, m, n, e, f = size
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    tau = draw(b, m, 1) if log_t is None else torch.full((b, m, 1), log_t, dtype=dtype)
    return draw(b, m, e), draw(b, n, e), draw(b, n, f), tau


def _run(backend, inputs, k, dtype=torch.float64, **options):
    return outputs_and_gradients(n3_aggregate, backend, inputs, k, (), dtype, **options)


def _compare(inputs, k, dtype, tolerance, **options):
    found = _run("triton", inputs, k, dtype, **options)
    wanted = _run("reference", inputs, k, **options)
    for name, a, b in zip(NAMES, found, wanted):
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=1e-3)
        assert error < tolerance, f"{name}: {error}"
    return found


@pytest.fixture(autouse=True)
def split_sweeps_and_memory_full_of_nan(monkeypatch):
    """Every sweep in two parts; and memory in which an element never written shows. The
    interpreter takes as long for a small tile as for a large one."""
    from n3match.ops.triton import dense

    if INTERPRETED:
        monkeypatch.setattr(dense, "chunks", lambda like, programs, tiles, resident: min(tiles, 2))
        monkeypatch.setattr(dense, "ROWS", 128)
        monkeypatch.setattr(dense, "BACKWARD_TILES", ((128, 64, 1),))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("k", range(1, 9))
def test_exact_in_float64(k):
    """Nothing but rounding separates the kernels from the formula: power sums and the triangle of
    the way back are the same sums."""
    _compare(_inputs((1, 19, 21, 5, 7)), k, torch.float64, 1e-9)


@pytest.mark.parametrize(
    ("size", "k", "log_t"),
    [
        ((2, 17, 150, 3, 2), 2, None),  # items of several blocks
        ((1, 150, 5, 3, 2), 3, None),  # and queries
        ((1, 5, 18, 140, 150), 2, 2.0),  # E and F of several blocks
        ((1, 6, 17, 4, 3), 5, -8.0),  # some choices are certain
        ((1, 5, 17, 3, 40), 7, None),  # steps in several groups, of sums and of paths
    ],
)
def test_exact_in_several_blocks(size, k, log_t):
    _compare(_inputs(size, log_t=log_t), k, torch.float64, 1e-9)


@pytest.mark.parametrize(
    ("k", "log_t", "f"),
    [
        (1, -13.8, 3), (2, 0.0, 3), (4, 13.8, 3), (5, -13.8, 3), (8, -13.8, 3), (8, 0.0, 3),
        (8, 13.8, 3),
        (6, 0.0, 39),  # K and F of the match filter: steps in groups
    ],
)
def test_exact_with_mask_and_ties(k, log_t, f):
    """Two and three items at one place, a query at it, some items masked, none its own neighbour;
    at −13.8 what is shared by equally near ones, at 13.8 what is nearly uniform."""
    inputs = query, key, _, _ = _inputs((1, 12, 12, 4, f), log_t=log_t)
    key[:, 5], key[:, 3:5], query[:, 0] = key[:, 6], key[:, 2:3], key[:, 6]
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[0, [1, 7, 8]] = False
    options = {"mask": mask, "exclude_self": True}
    found, wanted = (_run(name, inputs, k, **options) for name in ("triton", "reference"))
    assert_equal_but_for_ties(found, wanted, log_t)


@pytest.mark.parametrize("k", [1, 3, 6, 8])
def test_float32_of_two_planes(k):
    """Temperatures from e⁻³ to e³ in one call, ties and d = 0 among the items."""
    inputs = _inputs((1, 20, 140, 6, 5), torch.float32)
    query, key, _, log_t = inputs
    key[:, 5], query[:, 0], query[:, 1] = key[:, 6], key[:, 6], key[:, 3]
    log_t.copy_(torch.linspace(-3, 3, 20)[:, None])
    _compare(inputs, k, torch.float32, 2e-5)


@pytest.mark.parametrize("log_t", [-13.8, -3.0, 6.0, 13.8])
def test_float32_cold_and_hot(log_t):
    inputs = _inputs((1, 9, 70, 4, 3), torch.float32, log_t)
    _compare(inputs, 4, torch.float32, 2e-4)


def test_float32_of_different_magnitudes():
    """Values far from 1, and far from each other."""
    inputs = _inputs((1, 9, 70, 4, 3), torch.float32, 1.0)
    inputs[2].mul_(1e12)
    inputs[2][0, 3] = 1e-20
    _compare(inputs, 3, torch.float32, 2e-5)


def test_float32_of_several_blocks():
    _compare(_inputs((2, 150, 140, 5, 4), torch.float32), 3, torch.float32, 2e-5)


def test_float32_masked_without_self():
    size = (2, 137, 137, 4, 3)
    mask = torch.rand(2, 137, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[1] = False
    mask[1, 2:4] = True
    options = {"mask": mask, "exclude_self": True}
    found = _compare(_inputs(size, torch.float32, -2.0), 3, torch.float32, 2e-4, **options)
    for grad in found[2:4]:
        assert (grad[~mask] == 0).all()


def test_no_gradient_of_the_temperature_where_none_is_wanted():
    query, key, value, _ = _inputs((1, 9, 20, 4, 3), torch.float32)
    leaves = [x.requires_grad_() for x in (query, key, value)]
    for backend in ("triton", "reference"):
        z = n3_aggregate(*leaves, 3, 0.5, backend=backend)
        found = torch.autograd.grad(z.square().sum(), leaves)
        if backend == "triton":
            first = found
    for a, b in zip(first, found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision(dtype, tolerance):
    found = _compare(_inputs((1, 6, 17, 5, 4), dtype, 0.5), 3, dtype, tolerance)
    assert all(t.dtype == dtype for t in found)


@pytest.mark.parametrize("log_t", [-14.0, 0.0])
def test_none_one_few_and_equal_candidates(log_t):
    """Nothing selectable: 0. One: itself, K times. No NaN anywhere, ties and d = 0 included."""
    inputs = _inputs((4, 2, 5, 3, 2), torch.float32, log_t)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 2] = True
    mask[2, [1, 4]] = True
    mask[3] = True
    inputs[1][3, 1:4] = inputs[0][3, 1]
    inputs[1][~mask], inputs[2][~mask] = float("nan"), float("inf")
    found = _run("triton", inputs, 4, torch.float32, mask=mask)
    assert (found[0][0] == 0).all()
    torch.testing.assert_close(found[0][1], inputs[2][1, 2].expand(2, 4, 2))
    assert all(torch.isfinite(t).all() for t in found)
    assert (found[2][~mask] == 0).all()


def test_cold_limit_is_the_hard_nearest_neighbours_in_order():
    query, key, value, log_t = _inputs((1, 3, 18, 4, 5), torch.float32, -13.8)
    z = n3_aggregate(query, key, value, 4, log_t, backend="triton")
    order = torch.cdist(query, key).argsort(-1)[0, :, :4]
    torch.testing.assert_close(z[0], value[0][order])


def test_same_bits_every_run_and_twice_in_one_graph():
    inputs = _inputs((1, 17, 17, 3, 2), torch.float32)
    first, again = (_run("triton", inputs, 2, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    leaves = [x.clone().requires_grad_() for x in inputs]
    z = sum(n3_aggregate(*leaves[:3], 2, leaves[3], backend="triton") for _ in range(2))
    gen = torch.Generator().manual_seed(9)
    cotangent = torch.randn(z.shape, generator=gen, dtype=torch.float64).float()
    for twice, once in zip(torch.autograd.grad(z, leaves, cotangent), first[1:]):
        torch.testing.assert_close(twice, 2 * once)


def _operator_arguments():
    """Of the custom operator itself."""
    query, key, value, log_t = (
        x.to(DEVICE).requires_grad_() for x in _inputs((1, 2, 3, 2, 2), torch.float32)
    )
    mask = torch.ones(1, 3, dtype=torch.bool, device=DEVICE)
    return query, key, value, log_t, mask, 2, False


def test_custom_operator():
    """What PyTorch demands of operators: schema, fake kernel, autograd, compiled with any shape."""
    torch.library.opcheck(torch.ops.n3match.triton_dense, _operator_arguments())


def test_compiles_into_one_graph():
    query, key, value, log_t = (x.to(DEVICE) for x in _inputs((1, 2, 3, 2, 2), torch.float32))

    def run(*leaves):
        return ops.n3_aggregate(*leaves[:3], 2, leaves[3], backend="triton").square()

    leaves = [x.requires_grad_() for x in (query, key, value, log_t)]
    plain = run(*leaves)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves)
    torch.testing.assert_close(compiled, plain)
    for a, b in zip(*(torch.autograd.grad(z.sum(), leaves) for z in (compiled, plain))):
        torch.testing.assert_close(a, b)


def test_autocast_takes_the_widest_type():
    query, key, value, log_t = _inputs((1, 2, 3, 2, 2), torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        z = n3_aggregate(query.bfloat16(), key.bfloat16(), value, 2, log_t, backend="triton")
    wanted = n3_aggregate(query.bfloat16().float(), key.bfloat16().float(), value, 2, log_t)
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"recursion": "poster"}, "recursion='poster'"),
        ({"selection": "knn"}, "selection='knn'"),
        ({"selection": "concrete", "generator": torch.Generator()}, "selection='concrete' with"),
        ({"k": 9}, "k=9 is above 8"),
    ],
)
def test_what_it_cannot_serve_is_said(options, reason):
    query, key, value, _ = _inputs((1, 2, 3, 2, 2), torch.float32)
    with pytest.raises(ValueError, match=f"'triton' can't serve this call: {reason}"):
        n3_aggregate(query, key, value, backend="triton", **{"k": 2, **options})


def test_the_choice_is_logged(caplog):
    query, key, value, _ = _inputs((1, 2, 3, 2, 2), torch.float32)
    with caplog.at_level(logging.DEBUG, "n3match"):
        ops.n3_aggregate(query, key, value, 2)
        ops.n3_aggregate(query, key, value, 2, recursion="poster")
    assert [r.message.split(":")[0] for r in caplog.records] == ["tiled, not triton"] * 2


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="there is no GPU")
def test_captured_in_a_cuda_graph():
    inputs = [x.cuda().requires_grad_() for x in _inputs((2, 130, 97, 16, 24), torch.float32)]
    cotangent = torch.randn(2, 130, 3, 24, device="cuda")

    def run():
        z = ops.n3_aggregate(*inputs[:3], 3, inputs[3], backend="triton")
        return z, *torch.autograd.grad(z, inputs, cotangent)

    assert_a_cuda_graph_gives_the_same(run)
