"""The Triton kernels of explicit candidates, interpreted where there is no GPU: small calls."""

import pytest
import torch
from backends import (
    HAS_TRITON,
    INTERPRETED,
    assert_a_cuda_graph_gives_the_same,
    kernels_as_reference,
    n3_aggregate,
    outputs_and_gradients,
)

from n3match import ops
from n3match.ops import dispatch

pytestmark = [
    pytest.mark.usefixtures("memory_full_of_nan"),
    pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed, or has no GPU"),
    # The interpreter's, of numbers that a kernel then doesn't choose.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
DEVICE = "cpu" if INTERPRETED else "cuda"

# B, M, N, E, F, O: more candidates and channels than a block has, some items named by no query,
# one candidate; items named many times, by every query.
SIZES = [
    (2, 5, 31, 3, 7, 11), (1, 3, 50, 70, 150, 37), (1, 7, 7, 1, 1, 1), (1, 9, 3, 2, 5, 40),
]


def _inputs(size, dtype=torch.float64, log_t=None):
    b, m, n, e, f, o = size
    gen = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    tau = draw(b, m, 1) if log_t is None else torch.full((b, m, 1), log_t, dtype=dtype)
    index = torch.randint(n, (b, m, o), generator=gen)
    return (draw(b, m, e), draw(b, n, e), draw(b, n, f), tau), index


def _mask(size):
    return torch.rand(size[0], size[2], generator=torch.Generator().manual_seed(1)) > 0.4


def _run(backend, inputs, index, k, dtype=torch.float64, **options):
    return outputs_and_gradients(
        n3_aggregate, backend, inputs, k, (index,), dtype, **options
    )


def _compare(inputs, index, k, dtype, tolerance, **options):
    return kernels_as_reference(
        n3_aggregate, inputs, k, (index,), dtype, tolerance, **options
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_exact_in_float64(size, masked):
    """Nothing but rounding separates the kernels from the formula."""
    inputs, index = _inputs(size)
    options = {"exclude_self": size[1] == size[2]}
    if masked:
        options["mask"] = _mask(size)
    found = _compare(inputs, index, 3, torch.float64, 1e-9, **options)
    if masked:
        assert all((grad[~options["mask"]] == 0).all() for grad in found[2:4])


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-4)])
def test_every_number_of_neighbours(k, dtype, tolerance):
    """Also more than there are candidates."""
    inputs, index = _inputs((1, 5, 8, 3, 2, 6), dtype)
    _compare(inputs, index, k, dtype, tolerance)


def test_more_neighbours_than_a_program_has():
    inputs, index = _inputs((1, 3, 16, 3, 2, 14))
    _compare(inputs, index, 11, torch.float64, 1e-7)


@pytest.mark.parametrize("log_t", [-13.8, -2.0, 13.8])
def test_float32_cold_and_warm(log_t):
    """At −13.8 every choice is certain, but among duplicates: what these give the others' gradients
    cancels, and rounding of it is divided by t."""
    inputs, _ = _inputs((1, 6, 12, 4, 3, 9), torch.float32, log_t)
    gen = torch.Generator().manual_seed(3)
    index = torch.stack([torch.randperm(12, generator=gen)[:9] for _ in range(6)])[None]
    _compare(inputs, index, 3, torch.float32, 2e-4)


def test_noise_is_that_of_the_formula():
    inputs, index = _inputs((2, 5, 9, 3, 2, 7), log_t=1.0)

    def run(backend, seed):
        generator = torch.Generator().manual_seed(seed)
        return _run(backend, inputs, index, 3, selection="concrete", generator=generator)

    first, other = (run("triton", seed) for seed in (0, 8))
    for seed, found in ((0, first), (8, other)):
        for a, b in zip(found, run("reference", seed)):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(first[0], other[0])


@pytest.mark.parametrize("equal", [False, True])
def test_hard_selection(equal):
    """Of the nearest, then the next, …, the first of equally near ones; the last again where there
    are fewer than K."""
    size = (2, 6, 6, 3, 2, 5)
    inputs, index = _inputs(size)
    if equal:
        for rows in inputs[:2]:
            rows.fill_(1.0)
    options = {"selection": "knn", "exclude_self": True, "mask": _mask(size)}
    found, wanted = (_run(b, inputs, index, 7, **options) for b in ("triton", "reference"))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_t", [-14.0, 0.0, 14.0])
def test_none_one_few_and_equal_candidates(log_t):
    """Nothing selectable: 0. One: itself, K times. Ties, duplicates and d = 0 as the formula."""
    inputs, _ = _inputs((1, 5, 6, 3, 2, 1), torch.float32, log_t)
    inputs[1][0, 3:] = inputs[0][0, 2]
    index = torch.tensor([[[0, 0, 0], [0, 1, 0], [3, 4, 5], [1, 2, 3], [2, 2, 2]]])
    mask = torch.tensor([[False, True, True, True, True, True]])
    found = _compare(inputs, index, 5, torch.float32, 2e-4, mask=mask)
    assert (found[0][0, 0] == 0).all()
    torch.testing.assert_close(found[0][0, 1], inputs[2][0, 1].expand(5, 2))
    assert (found[2][0, 0] == 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision(dtype, tolerance):
    inputs, index = _inputs((1, 5, 9, 3, 4, 6), dtype, 2.0)
    found = _compare(inputs, index, 2, dtype, tolerance)
    assert all(t.dtype == dtype for t in found)


def test_embeddings_far_from_zero_keep_their_digits():
    inputs, index = _inputs((1, 5, 9, 3, 4, 6), torch.float32)
    for rows in inputs[:2]:
        rows += 1000.0
    _compare(inputs, index, 3, torch.float32, 2e-4)


def test_same_bits_every_run():
    inputs, index = _inputs((2, 9, 5, 5, 7, 9), torch.float32)
    first, again = (_run("triton", inputs, index, 3, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_numbers_of_no_item_are_no_candidates():
    """On a device nothing looks for them. As if masked: nothing is read or written there."""
    from n3match.ops.triton import candidates as kernels

    inputs, index = _inputs((2, 4, 6, 3, 2, 5))
    index -= 2 - torch.arange(5)
    outside = (index < 0) | (index >= 5)
    mask = torch.tensor([[True] * 5 + [False]] * 2)
    wanted = _run("triton", inputs, index.masked_fill(outside, 5), 3, mask=mask)
    leaves = [x.to(DEVICE).requires_grad_() for x in inputs]
    leaves[1:3] = [x[:, :5].detach().requires_grad_() for x in leaves[1:3]]
    z = kernels.aggregate(*leaves, index.to(DEVICE), None, 3, False, "n3", None)
    gen = torch.Generator().manual_seed(9)
    cotangent = torch.randn(z.shape, generator=gen, dtype=torch.float64)
    found = [z, *torch.autograd.grad(z, leaves, cotangent.to(DEVICE))]
    wanted[2:4] = [x[:, :5] for x in wanted[2:4]]
    assert outside.any(2).all()
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU would be waited for")
@pytest.mark.parametrize("number", [-1, 6])
def test_numbers_of_no_item_are_refused_where_looking_is_free(number):
    x, index = torch.ones(1, 6, 3), torch.full((1, 6, 2), number)
    with pytest.raises(ValueError, match="candidates must be numbers of items, 0 to N - 1 = 5"):
        n3_aggregate(x, x, x, 2, candidates=index, backend="triton")


def test_compiles_into_one_graph():
    inputs, index = _inputs((1, 4, 5, 2, 3, 4), torch.float32)
    index = index.to(DEVICE)
    leaves = [x.to(DEVICE).requires_grad_() for x in inputs]

    def run(*leaves):
        return ops.n3_aggregate(*leaves[:3], 2, leaves[3], index, backend="triton").square()

    plain = run(*leaves)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves)
    torch.testing.assert_close(compiled, plain)
    for a, b in zip(*(torch.autograd.grad(z.sum(), leaves) for z in (compiled, plain))):
        torch.testing.assert_close(a, b)


def test_autocast_takes_the_widest_type():
    (query, key, value, log_t), index = _inputs((1, 4, 5, 2, 3, 4), torch.float32)
    query, key = query.bfloat16(), key.bfloat16()
    with torch.autocast(DEVICE, torch.bfloat16):
        z = n3_aggregate(query, key, value, 2, log_t, index, backend="triton")
    assert z.dtype == torch.float32
    wanted = n3_aggregate(query.float(), key.float(), value, 2, log_t, index)
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rest", [(2, False, False, None), (2, True, False, 3)])
def test_custom_operator(rest):
    """What PyTorch demands of operators: schema, fake kernel, autograd, compiled with any shape."""
    inputs, index = _inputs((1, 3, 3, 2, 2, 2), torch.float32)
    leaves = [x.to(DEVICE).requires_grad_() for x in inputs]
    mask = torch.tensor([[True, False, True]], device=DEVICE)
    torch.library.opcheck(
        torch.ops.n3match.triton_candidates, (*leaves, index.to(DEVICE), mask, *rest)
    )


@pytest.mark.parametrize(
    ("options", "many", "reason"),
    [
        ({"recursion": "poster"}, 3, "recursion='poster'"),
        ({"k": 65}, 3, "k=65 is above 64"),
        ({}, 4097, "candidates has 4097 for each query, more than 4096"),
    ],
)
def test_what_it_cannot_serve_is_said(options, many, reason):
    x, index = torch.ones(1, 2, 3), torch.zeros(1, 2, many, dtype=torch.int64)
    given = {"k": 2, "candidates": index, **options}
    with pytest.raises(ValueError, match=f"'triton' can't serve this call: {reason}"):
        n3_aggregate(x, x, x, backend="triton", **given)


def test_each_selection_has_a_trial_of_its_own(monkeypatch):
    tried = []
    monkeypatch.setattr(dispatch, "distrust", lambda form, query: tried.append(form) or "no")
    x = torch.rand(1, 4, 2, device=DEVICE)
    index = torch.zeros(1, 4, 3, dtype=torch.int64, device=DEVICE)
    for options in (
        {}, {"selection": "knn"}, {"selection": "concrete", "generator": torch.Generator()},
    ):
        ops.n3_aggregate(x, x, x, 2, 0.0, index, **options)
    assert tried == ["candidates", "candidates knn", "candidates noise"]


@pytest.mark.skipif(INTERPRETED, reason="there is no GPU")
@pytest.mark.parametrize("size", [(2, 300, 201, 32, 128, 225), (1, 2000, 2000, 13, 90, 64)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_larger_calls(size, dtype, tolerance):
    inputs, index = _inputs(size, dtype, 2.0)
    _compare(inputs, index, 3, dtype, tolerance, mask=_mask(size))


@pytest.mark.skipif(INTERPRETED, reason="there is no GPU")
def test_captured_in_a_cuda_graph():
    inputs, index = _inputs((2, 130, 97, 16, 24, 40), torch.float32)
    leaves = [x.cuda().requires_grad_() for x in inputs]
    index = index.cuda()

    def run():
        z = ops.n3_aggregate(*leaves[:3], 3, leaves[3], index, backend="triton")
        return z, *torch.autograd.grad(z, leaves, torch.ones_like(z))

    assert_a_cuda_graph_gives_the_same(run)
