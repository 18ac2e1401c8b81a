"""Explicit candidates against the reference formula in float64, and against the dense form."""

import pytest
import torch
from backends import BACKENDS, FAST, NAMES

from n3match import ops
from n3match.ops import candidates

pytestmark = pytest.mark.arithmetic


def _inputs(size, dtype=torch.float64, log_t=None, seed=0):
    b, m, n, e, f, o = size
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    tau = draw(b, m, 1) if log_t is None else torch.full((b, m, 1), log_t, dtype=dtype)
    index = torch.randint(n, (b, m, o), generator=gen)
    return (draw(b, m, e), draw(b, n, e), draw(b, n, f), tau), index


def _run(backend, inputs, index, k, dtype=torch.float64, **options):
    leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
    z = ops.n3_aggregate(*leaves[:3], k, leaves[3], index, backend=backend, **options)
    gen = torch.Generator().manual_seed(9)
    cotangent = torch.randn(z.shape, generator=gen, dtype=torch.float64).to(dtype)
    return [z, *torch.autograd.grad(z, leaves, cotangent)]


def _assert_close(found, wanted, tolerance):
    for name, a, b in zip(NAMES, found, wanted):
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=0.1)
        assert error < tolerance, f"{name}: {error}"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setitem(candidates.CHUNK_ELEMENTS, "cpu", 1500)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("size", [(2, 23, 31, 5, 7, 11), (1, 17, 17, 3, 2, 29), (3, 5, 5, 4, 3, 1)])
@pytest.mark.parametrize("log_t", [None, -6.0, 3.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("recursion", ["released", "poster"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-4)])
def test_matches_reference(backend, size, log_t, masked, recursion, dtype, tolerance):
    inputs, index = _inputs(size, dtype, log_t)
    options = {"recursion": recursion, "exclude_self": size[1] == size[2]}
    if masked:
        gen = torch.Generator().manual_seed(1)
        options["mask"] = torch.rand(size[0], size[2], generator=gen) > 0.4
    wanted = _run("reference", inputs, index, 4, **options)
    found = _run(backend, inputs, index, 4, dtype, **options)
    if log_t is not None and log_t < -5 and dtype == torch.float32:
        tolerance = 0.05  # t is 0.0025: rounding of float32 distances is a percent of it
    _assert_close(found, wanted, tolerance)
    if masked:
        for grad in found[2:4]:
            assert (grad[~options["mask"]] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_all_items_as_candidates_is_the_dense_form(backend, exclude_self):
    inputs, _ = _inputs((2, 13, 13, 4, 5, 1))
    index = torch.stack([torch.randperm(13) for _ in range(26)]).view(2, 13, 13)
    mask = torch.rand(2, 13) > 0.3
    options = {"exclude_self": exclude_self, "mask": mask}
    _assert_close(
        _run(backend, inputs, index, 3, **options), _run(backend, inputs, None, 3, **options), 1e-9
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_item_named_twice_counts_twice(backend):
    query, key = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    value = torch.tensor([[[3.0], [0.0]]])
    z = ops.n3_aggregate(query, key, value, 2, 0.0, torch.tensor([[[0, 0, 1]]]), backend=backend)
    torch.testing.assert_close(z[0, 0, :, 0], torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recursion", ["released", "poster"])
@pytest.mark.parametrize("log_t", [-14.0, 0.0, 14.0])
def test_none_one_few_and_equal_candidates(backend, recursion, log_t):
    """Nothing selectable: 0. One: itself, K times. No NaN anywhere, ties and d = 0 included."""
    inputs, _ = _inputs((1, 4, 6, 3, 2, 1), torch.float32, log_t)
    inputs[1][0, 3:] = inputs[0][0, 2]
    index = torch.tensor([[[0, 0, 0], [0, 1, 0], [3, 4, 5], [1, 2, 3]]])
    mask = torch.tensor([[False, True, True, True, True, True]])
    found = _run(backend, inputs, index, 5, torch.float32, mask=mask, recursion=recursion)
    assert (found[0][0, 0] == 0).all()
    torch.testing.assert_close(found[0][0, 1], inputs[2][0, 1].expand(5, 2))
    assert all(torch.isfinite(t).all() for t in found)
    assert (found[2][0, 0] == 0).all()


@pytest.mark.parametrize("recursion", ["released", "poster"])
def test_gradcheck(recursion):
    inputs, index = _inputs((2, 4, 5, 3, 2, 6))
    leaves = [x.requires_grad_() for x in inputs]

    def run(q, x, v, t):
        return ops.n3_aggregate(q, x, v, 3, t, index, recursion=recursion)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("backend", FAST)
def test_same_bits_every_run(backend):
    inputs, index = _inputs((2, 37, 37, 5, 7, 9), torch.float32)
    first = _run(backend, inputs, index, 3, torch.float32)
    again = _run(backend, inputs, index, 3, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, again))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_sizes(backend):
    for b, m, o in ((0, 4, 3), (2, 0, 3), (2, 4, 0)):
        inputs, index = _inputs((b, m, 5, 3, 2, o))
        z = ops.n3_aggregate(*inputs[:3], 3, 0.0, index, backend=backend)
        assert z.shape == (b, m, 3, 2)
        assert (z == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backend, dtype):
    inputs, index = _inputs((2, 5, 7, 3, 2, 4), dtype, 0.5)
    z = ops.n3_aggregate(*inputs[:3], 3, 0.5, index, backend=backend)
    wanted = ops.n3_aggregate(*(x.double() for x in inputs[:3]), 3, 0.5, index)
    assert z.dtype == dtype
    assert (z.double() - wanted).abs().max() < 2e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.zeros(2, 4, 3), TypeError, "candidates must be an int64 tensor"),
        ([[0]], TypeError, "candidates must be an int64 tensor, got list"),
        (torch.zeros(2, 4, dtype=torch.int64), ValueError, "candidates must have shape"),
        (torch.zeros(2, 5, 3, dtype=torch.int64), ValueError, "candidates must have shape"),
        (torch.full((2, 4, 3), 5), ValueError, "candidates must be numbers of items, 0 to"),
        (torch.full((2, 4, 3), -1), ValueError, "candidates must be numbers of items, 0 to"),
    ],
)
def test_bad_candidates_are_named(backend, index, error, message):
    inputs, _ = _inputs((2, 4, 5, 3, 2, 1))
    with pytest.raises(error, match=message):
        ops.n3_aggregate(*inputs[:3], 2, 0.0, index, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_temperature_of_one_query_is_an_error(backend):
    inputs, index = _inputs((2, 4, 5, 3, 2, 6))
    log_t = torch.zeros(2, 4, 1)
    log_t[1, 2] = float("nan")
    with pytest.raises(ValueError, match="log_temperature holds NaN"):
        ops.n3_aggregate(*inputs[:3], 2, log_t, index, backend=backend)
