"""Every backend against the reference formula in float64: output and every gradient, odd sizes."""

import math

import pytest
import torch
from backends import FAST_PLAIN_CALLS, PLAIN_CALLS, n3_aggregate

from n3match import native, ops
from n3match.ops import candidates
from n3match.ops.dense import compiled

pytestmark = pytest.mark.arithmetic

# (B, M, N, E, F, K); M = N where a query can exclude itself
SIZES = [(2, 37, 53, 5, 7, 3), (1, 41, 41, 6, 9, 1), (3, 29, 29, 4, 3, 7)]


def _inputs(size, dtype, log_t, seed=0):
    b, m, n, e, f, _ = size
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    tau = draw(b, m, 1) if log_t is None else torch.full((b, m, 1), log_t, dtype=dtype)
    return draw(b, m, e), draw(b, n, e), draw(b, n, f), tau


def _run(backend, inputs, k, cotangent, dtype, **options):
    leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
    z = n3_aggregate(*leaves[:3], k, leaves[3], backend=backend, **options)
    grads = torch.autograd.grad(z, leaves, cotangent.to(dtype))
    return [z, *grads]


def _skip_unless_served(backend, recursion):
    if backend == "triton" and recursion != "released":
        pytest.skip("refused, see test_triton_dense.py")


def _assert_close(found, wanted, tolerance):
    for name, a, b in zip(("z", "query", "key", "value", "log_temperature"), found, wanted):
        scale = b.abs().max().clamp(min=1e-3)
        error = ((a.double() - b).abs().max() / scale).item()
        assert error < tolerance, f"{name}: {error}"


@pytest.fixture
def no_compiled_loops(monkeypatch):
    monkeypatch.setattr(native, "serves", lambda *_: False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_without_compiled_loops_matches_reference(
    size, dtype, tolerance, no_compiled_loops, monkeypatch
):
    test_matches_reference("tiled", size, None, True, "released", dtype, tolerance, monkeypatch)
    test_matches_reference("tiled", size, -2.0, False, "released", dtype, tolerance, monkeypatch)


@pytest.mark.parametrize("backend", FAST_PLAIN_CALLS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("log_t", [None, -6.0, -2.0, 3.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("recursion", ["released", "poster"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_matches_reference(backend, size, log_t, masked, recursion, dtype, tolerance, monkeypatch):
    _skip_unless_served(backend, recursion)
    # Small tiles, so that several, and a last uneven one, are really walked through.
    monkeypatch.setattr(compiled, "TILE_ELEMENTS", 400)
    monkeypatch.setitem(candidates.CHUNK_ELEMENTS, "cpu", 400)
    b, m, n, _, f, k = size
    inputs = _inputs(size, dtype, log_t)
    gen = torch.Generator().manual_seed(1)
    options = {"recursion": recursion, "exclude_self": m == n}
    if masked:
        options["mask"] = torch.rand(b, n, generator=gen) > 0.4
    cotangent = torch.randn(b, m, k, f, generator=gen, dtype=torch.float64)
    wanted = _run("reference", inputs, k, cotangent, torch.float64, **options)
    found = _run(backend, inputs, k, cotangent, dtype, **options)
    if log_t is not None and log_t < -5 and dtype == torch.float32:
        # At t = 0.0025 float32 distances alone are off by a percent of t, and so are gradients.
        tolerance = 0.05
    _assert_close(found, wanted, tolerance)
    if masked:
        for grad in found[2:4]:
            assert (grad[~options["mask"]] == 0).all()


@pytest.mark.parametrize("recursion", ["released", "poster"])
def test_gradcheck(recursion):
    inputs = [x.requires_grad_() for x in _inputs((2, 5, 5, 3, 2, 3), torch.float64, None)]
    mask = torch.tensor([[True] * 5, [True, False, True, True, True]])

    def run(q, x, v, t):
        return n3_aggregate(q, x, v, 3, t, mask=mask, exclude_self=True, recursion=recursion)

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("exponent", range(-6, 7))
def test_float32_weights_at_any_temperature(exponent):
    """Within 1e-5 of float64 on well spread, tied, duplicated and zero distances."""
    gen = torch.Generator().manual_seed(exponent + 10)
    d = torch.rand(1, 12, 40, generator=gen)
    d[0, 1] = 0.5
    d[0, 2, ::2] = d[0, 2, 1::2]
    d[0, 3] = 0.0
    d[0, 4] *= 1e-5
    d[0, 5] *= 1e4
    log_t = torch.tensor(exponent * math.log(10.0))
    # One distance wins by any margin: the masses of all others underflow in float32.
    d[0, 6] = 0.3 + log_t.exp() * 300
    d[0, 6, 7] = 0.3
    for k in (1, 3, 7):
        d64 = d.double().requires_grad_()
        d32 = d.clone().requires_grad_()
        w64 = ops.n3_weights(d64, k, log_t.double())
        w32 = ops.n3_weights(d32, k, log_t)
        assert (w32.double() - w64).abs().max() < 1e-5
        assert (w64.sum(2) - 1).abs().max() < 1e-9
        for w, leaf in ((w64, d64), (w32, d32)):
            w.square().sum().backward()
            assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("backend", PLAIN_CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cold_limit_is_the_hard_nearest_neighbours_in_order(backend, dtype):
    gen = torch.Generator().manual_seed(3)
    key = torch.randn(1, 17, 4, generator=gen, dtype=dtype)
    value = torch.randn(1, 17, 5, generator=gen, dtype=dtype)
    query = torch.randn(1, 6, 4, generator=gen, dtype=dtype)
    z = n3_aggregate(query, key, value, 4, math.log(1e-6), backend=backend)
    order = torch.cdist(query, key).argsort(-1)[0, :, :4]
    torch.testing.assert_close(z[0], value[0][order])


@pytest.mark.parametrize("backend", PLAIN_CALLS)
def test_hot_limit_is_the_mean(backend):
    q, x, v, _ = _inputs((2, 5, 9, 3, 4, 3), torch.float64, 0.0)
    z = n3_aggregate(q, x, v, 3, math.log(1e6), backend=backend)
    torch.testing.assert_close(z, v.mean(1)[:, None, None].expand_as(z), rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", PLAIN_CALLS)
@pytest.mark.parametrize("recursion", ["released", "poster"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_and_no_candidates(backend, recursion, dtype):
    """None: zeros. One: itself, K times. Fewer than K: still distributions. No NaN anywhere."""
    _skip_unless_served(backend, recursion)
    q, x, v, t = _inputs((4, 3, 6, 3, 2, 5), dtype, 0.0)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 2] = True
    mask[2, [1, 4]] = True
    mask[3] = True
    # What lies under the mask must not matter at all.
    x[~mask], v[~mask] = float("nan"), float("inf")
    leaves = [y.requires_grad_() for y in (q, x, v, t)]
    z = n3_aggregate(q, x, v, 5, t, mask=mask, recursion=recursion, backend=backend)
    assert (z[0] == 0).all()
    torch.testing.assert_close(z[1], v[1, 2].expand_as(z[1]))
    low, high = v[2, [1, 4]].amin(0), v[2, [1, 4]].amax(0)
    assert ((z[2] >= low - 1e-5) & (z[2] <= high + 1e-5)).all()
    z.square().sum().backward()
    for leaf in leaves:
        assert torch.isfinite(leaf.grad).all()
    assert (x.grad[~mask] == 0).all()
    assert (v.grad[~mask] == 0).all()


@pytest.mark.parametrize("backend", PLAIN_CALLS)
@pytest.mark.parametrize("log_t", [-14.0, 0.0, 14.0])
def test_duplicates_and_ties_stay_finite(backend, log_t):
    x = torch.zeros(1, 9, 3)
    x[0, 5:] = 1.0
    leaves = [x.clone().requires_grad_(), x.clone().requires_grad_(),
              torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()]
    z = n3_aggregate(*leaves, 4, log_t, exclude_self=True, backend=backend)
    z.square().sum().backward()
    assert torch.isfinite(z).all()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("backend", FAST_PLAIN_CALLS)
def test_far_from_the_origin(backend):
    """A common offset of all embeddings changes nothing, float32 products notwithstanding."""
    q, x, v, t = _inputs((1, 20, 30, 4, 3, 3), torch.float32, 0.0)
    # The offset itself rounds the embeddings: compare on the rounded ones.
    q, x = q + 100.0, x + 100.0
    near = n3_aggregate(q.double(), x.double(), v.double(), 3, t, backend="reference")
    far = n3_aggregate(q, x, v, 3, t, backend=backend)
    torch.testing.assert_close(far.double(), near, rtol=0, atol=2e-4)


def test_scalar_and_per_query_temperature_agree():
    q, x, v, _ = _inputs((2, 5, 9, 3, 4, 3), torch.float64, 0.0)
    a = n3_aggregate(q, x, v, 3, -0.5)
    b = n3_aggregate(q, x, v, 3, torch.full((2, 5, 1), -0.5, dtype=torch.float64))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_both_readings_agree_at_temperature_one_only():
    q, x, v, _ = _inputs((2, 5, 9, 3, 4, 3), torch.float64, 0.0)
    hot = [n3_aggregate(q, x, v, 3, 1.0, recursion=r) for r in ("released", "poster")]
    one = [n3_aggregate(q, x, v, 3, 0.0, recursion=r) for r in ("released", "poster")]
    torch.testing.assert_close(one[0], one[1])
    assert (hot[0] - hot[1]).abs().max() > 1e-3


@pytest.mark.parametrize("backend", FAST_PLAIN_CALLS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision(backend, dtype, tolerance):
    q, x, v, _ = _inputs((2, 11, 13, 3, 4, 3), dtype, 0.0)
    z = n3_aggregate(q, x, v, 3, 0.5, backend=backend)
    assert z.dtype == dtype
    wanted = n3_aggregate(q.double(), x.double(), v.double(), 3, 0.5, backend="reference")
    assert (z.double() - wanted).abs().max() < tolerance


@pytest.mark.parametrize("backend", FAST_PLAIN_CALLS)
def test_same_bits_every_run(backend):
    inputs = _inputs((2, 37, 37, 5, 7, 3), torch.float32, None)
    cotangent = torch.randn(2, 37, 3, 7)
    first = _run(backend, inputs, 3, cotangent, torch.float32, exclude_self=True)
    again = _run(backend, inputs, 3, cotangent, torch.float32, exclude_self=True)
    assert all(torch.equal(a, b) for a, b in zip(first, again))


@pytest.mark.parametrize("backend", PLAIN_CALLS)
def test_empty_batch_and_no_queries(backend):
    for b, m in ((0, 4), (2, 0)):
        z = n3_aggregate(
            torch.ones(b, m, 3), torch.ones(b, 5, 3), torch.ones(b, 5, 2), 3, backend=backend
        )
        assert z.shape == (b, m, 3, 2)


def _good():
    return {"query": torch.ones(2, 4, 3), "key": torch.ones(2, 5, 3), "value": torch.ones(2, 5, 6),
            "k": 2}


@pytest.mark.parametrize("backend", PLAIN_CALLS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"k": 1.5}, TypeError, "k must be a whole number"),
        ({"query": torch.ones(4, 3)}, ValueError, r"query must have shape \(B, M, E\)"),
        ({"query": torch.ones(2, 4, 3, dtype=torch.int64)}, TypeError, "query must be floating"),
        ({"key": torch.ones(2, 5, 4)}, ValueError, "key must have shape"),
        ({"key": torch.ones(2, 5, 3, dtype=torch.float64)}, TypeError, "one dtype wanted"),
        ({"value": torch.ones(2, 4, 6)}, ValueError, "value must have shape"),
        ({"key": torch.ones(2, 0, 3), "value": torch.ones(2, 0, 6)}, ValueError, "no items"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, ValueError, "mask must have shape"),
        ({"mask": torch.ones(2, 5)}, TypeError, "mask must be a bool tensor"),
        ({"exclude_self": True}, ValueError, "exclude_self"),
        ({"recursion": "other"}, ValueError, "recursion must be one of"),
        ({"log_temperature": torch.zeros(2, 5, 1)}, ValueError, "log_temperature must"),
        ({"log_temperature": float("nan")}, ValueError, "log_temperature is NaN"),
        ({"log_temperature": "hot"}, TypeError, "log_temperature must be"),
    ],
)
def test_bad_arguments_are_named(backend, change, error, message):
    with pytest.raises(error, match=message):
        n3_aggregate(**{**_good(), **change}, backend=backend)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of"):
        n3_aggregate(**_good(), backend="gpu-of-the-future")
