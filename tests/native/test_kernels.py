"""The compiled row loops against the reference formula in float64: weights and every gradient."""

import math

import pytest
import torch

from n3match import native
from n3match.ops import reference

pytestmark = [
    pytest.mark.arithmetic,
    pytest.mark.skipif(not native.available(), reason="no compiled library"),
]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
INF = float("inf")


def _logits(rows, candidates, log_t, dtype, seed=0):
    """Logits −d/t of random distances, and the distances, candidates padded by −inf columns."""
    gen = torch.Generator().manual_seed(seed)
    d = torch.rand(rows, candidates, generator=gen, dtype=torch.float64).to(dtype).double()
    padding = -candidates % native.LANES
    d = torch.nn.functional.pad(d, (0, padding), value=INF)
    return (-(d - d.amin(1, keepdim=True)) * math.exp(-log_t)).to(dtype), d


def _forward(logits, k, **options):
    rows, n = logits.shape
    m = logits.new_full((rows, k, n), float("nan"))
    m[:, 0] = logits
    kept = (
        torch.full((rows,), -1), logits.new_empty(rows), logits.new_empty(rows),
        logits.new_empty(rows, k), torch.empty(rows, dtype=torch.bool),
    )
    native.masses(m, *kept, **options)
    return m, kept


def _wanted(logits, k):
    """(R, K, N) by the reference, and the leaf that its gradient belongs to."""
    leaf = (-logits.double()).requires_grad_()
    hidden = logits == -INF
    d = leaf.masked_fill(hidden, 0.0)
    log_t = torch.zeros(1, len(logits), 1, dtype=torch.float64, requires_grad=True)
    w = reference.n3_weights(d[None], k, log_t, mask=~hidden[None])[0].transpose(1, 2)
    return w, leaf, log_t


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("candidates", [1, 15, 16, 37, 64])
def test_logits(dtype, candidates):
    gen = torch.Generator().manual_seed(0)
    d = torch.rand(7, candidates, generator=gen, dtype=torch.float64).to(dtype) + 3
    inverse_t = torch.rand(7, generator=gen, dtype=torch.float64).to(dtype) * 100
    d[1] = INF
    d[2, 1:] = INF
    d[3, 1:] += 1e6
    padding = -candidates % native.LANES
    m = d.new_full((7, 2, candidates + padding), float("nan"))
    certain = torch.ones(7, dtype=torch.bool)
    native.logits(d, inverse_t, m, certain)
    nearest = d.amin(1, keepdim=True)
    nearest[1] = 0.0
    wanted = torch.nn.functional.pad((nearest - d) * inverse_t[:, None], (0, padding), value=-INF)
    torch.testing.assert_close(m[:, 0], wanted, rtol=TOLERANCE[dtype], atol=0)
    assert m[:, 1].isnan().all()
    assert certain.tolist() == ((wanted >= -reference.CERTAIN_GAP).sum(1) < 2).tolist()
    assert certain[1:4].all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("log_t", [-6.0, -2.0, 0.0, 14.0])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("candidates", [3, 16, 29, 80, 225])
def test_weights_and_gradients(dtype, log_t, k, candidates):
    logits, _ = _logits(5, candidates, log_t, dtype)
    logits[1, 0] = logits[1, 1] = 0.0  # a tie for the nearest
    logits[2, :candidates] = -1.0
    w, kept = _forward(logits, k, normal=True)
    wanted, leaf, log_t = _wanted(logits, k)
    hard = kept[-1]
    assert not hard.any() or log_t.item() < 0
    easy = ~hard
    assert (w.double() - wanted)[easy].abs().max() < TOLERANCE[dtype]

    u = torch.randn(w.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u[hard] = 0.0
    grads = torch.autograd.grad((wanted * u).sum(), (leaf, log_t))
    m, v, d_log_t = torch.full_like(w, float("nan")), u.to(dtype), logits.new_empty(len(w))
    m[:, 0] = logits
    native.masses_backward(m, v, hard, None, d_log_t, normal=True)
    torch.testing.assert_close(m[easy], w[easy])
    found = (-v[:, -1], d_log_t)
    for a, b in zip(found, (grads[0], grads[1][0, :, 0])):
        scale = b[easy].abs().max().clamp(min=1.0)
        assert (a.double() - b)[easy].abs().max() / scale < 30 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("exponent", range(-6, 7))
def test_any_temperature(dtype, exponent):
    """Ties, copies, zeros and tiny distances, as `ops` is tested on."""
    log_t = exponent * math.log(10.0)
    logits, d = _logits(8, 40, log_t, dtype)
    d[1, :40] = 0.5
    d[2, 0:40:2] = d[2, 1:40:2]
    d[3, :40] = 0.0
    d[4] *= 1e-5
    d[5] *= 1e4
    d[6, :40] = 0.3 + math.exp(log_t) * 300
    d[6, 7] = 0.3
    logits = (-(d - d.amin(1, keepdim=True)) * math.exp(-log_t)).to(dtype)
    for k in (1, 3, 7):
        w, kept = _forward(logits, k, normal=True)
        easy = ~kept[-1]
        assert (w.double() - _wanted(logits, k)[0])[easy].abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_masses_times_values_and_the_way_back(dtype):
    """finish and prepare around the products give what the weights themselves would."""
    k, f = 4, 19
    logits, _ = _logits(6, 50, -2.0, dtype)
    n = logits.shape[1]
    gen = torch.Generator().manual_seed(3)
    value = torch.randn(n, f, generator=gen, dtype=torch.float64).to(dtype)
    grad = torch.randn(6, k, f, generator=gen, dtype=torch.float64).to(dtype)
    skip = torch.tensor([False, False, True, False, False, False])

    m, (_, top, second, sums, _) = _forward(logits, k)
    wide = torch.cat([value, value], 1)  # products with more columns than are wanted
    z = grad.new_empty(grad.shape)
    native.finish(m @ wide, top, second, sums, z)
    in_place = m @ value
    native.finish(in_place, top, second, sums, in_place)
    assert (in_place - z).abs().max() < TOLERANCE[dtype]
    weights, leaf, log_t = _wanted(logits, k)
    wanted = weights @ value.double()
    assert (z.double() - wanted).abs().max() < 10 * TOLERANCE[dtype]

    scaled, dots = torch.empty_like(grad), logits.new_empty(6, k)
    native.prepare(grad, z, top, second, sums, skip, scaled, dots)
    u = scaled @ value.T
    d_log_t = logits.new_empty(6)
    m[:, 0] = logits
    native.masses_backward(m, u, skip, dots, d_log_t)
    cotangent = grad.double() * ~skip[:, None, None]
    d_logits, d_t = torch.autograd.grad((wanted * cotangent).sum(), (leaf, log_t))
    d_value = torch.einsum("rkn,rkf->nf", weights, cotangent)
    for a, b in (
        (-u[:, -1], d_logits), (d_log_t, d_t[0, :, 0]),
        (torch.einsum("rkn,rkf->nf", m, scaled), d_value),
    ):
        assert (a.double() - b).abs().max() < 30 * TOLERANCE[dtype]
    assert (u[2, -1] == 0).all() and (m[2] == 0).all() and d_log_t[2] == 0


def test_a_query_leaves_itself_out():
    logits, _ = _logits(5, 32, 0.0, torch.float64)
    masked = logits.clone()
    masked[torch.arange(5), torch.arange(5) + 3] = -INF
    w, _ = _forward(logits, 3, own=3, normal=True)
    assert torch.equal(w, _forward(masked, 3, normal=True)[0])
    assert (w[torch.arange(5), :, torch.arange(5) + 3] == 0).all()


def test_the_first_of_equals_is_nearest_and_the_other_second():
    logits = torch.full((3, 48), -5.0)
    logits[0, [7, 40]] = 1.0
    logits[1, [17, 33, 1]] = torch.tensor([2.0, 2.0, 1.5])
    logits[2, 47] = 3.0
    _, (nearest, top, second, _, _) = _forward(logits, 2)
    assert nearest.tolist() == [7, 17, 47]
    assert top.tolist() == [1.0, 2.0, 3.0] and second.tolist() == [1.0, 2.0, -5.0]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_for_the_reference_are_flagged(dtype):
    logits = torch.full((5, 16), -INF, dtype=dtype)
    logits[1, 3] = 0.0  # a single candidate
    logits[2, :2] = torch.tensor([0.0, -800.0])  # certain
    logits[3, :2] = torch.tensor([0.0, -700.0])
    logits[4] = float("nan")
    _, (*_, exact) = _forward(logits, 2)
    assert exact.tolist() == [True, True, True, False, True]


def test_control_of_small_numbers_is_put_back():
    """Inside, numbers below the normal range count as 0; not so in the caller afterwards."""
    torch.set_flush_denormal(False)  # training, tested in the same process, sets it
    _forward(_logits(2, 16, 0.0, torch.float32)[0], 2)
    assert (torch.tensor([1e-38]) * 1e-3).item() > 0
