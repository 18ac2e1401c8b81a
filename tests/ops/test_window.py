"""The window form: every backend against the reference in float64, output and every gradient."""

import functools
import math

import pytest
import torch
from backends import BACKENDS, FAST, NAMES
from window_layouts import LAYOUTS
from window_layouts import inputs as _inputs

from n3match import native, ops
from n3match.ops import candidates
from n3match.ops.window import cells, cells_compiled, cells_tensors
from n3match.ops.window.grid import WindowGrid

pytestmark = pytest.mark.arithmetic

def _run(backend, inputs, k, layout, dtype=torch.float64, **options):
    leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
    z = ops.n3_window_aggregate(*leaves[:3], k, leaves[3], *layout, backend=backend, **options)
    gen = torch.Generator().manual_seed(9)
    cotangent = torch.randn(z.shape, generator=gen, dtype=torch.float64).to(dtype)
    return [z, *torch.autograd.grad(z, leaves, cotangent, materialize_grads=True)]


@functools.cache
def _reference(layout, dtype, log_t, **options):
    """Once for all paths."""
    inputs, rest = _inputs(layout, dtype, log_t)
    return [x.detach() for x in _run("reference", inputs, 3, rest, **options)]


def _assert_close(found, wanted, tolerance):
    for name, a, b in zip(NAMES, found, wanted):
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=0.1)
        assert error < tolerance, f"{name}: {error}"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that several, and a last uneven one, are really walked through."""
    monkeypatch.setitem(candidates.CHUNK_ELEMENTS, "cpu", 20000)
    monkeypatch.setattr(cells_tensors, "TILE_ELEMENTS", (4000,))
    monkeypatch.setattr(cells_compiled, "TILE_ELEMENTS", (4000,))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("log_t", [None, -4.0, 4.0])
@pytest.mark.parametrize("exclude_self", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_matches_reference(path, layout, log_t, exclude_self, dtype, tolerance):
    inputs, rest = _inputs(layout, dtype, log_t)
    wanted = _reference(layout, dtype, log_t, exclude_self=exclude_self)
    found = _run("tiled", inputs, 3, rest, dtype, exclude_self=exclude_self)
    path(layout)
    if log_t == -4.0 and dtype == torch.float32:
        tolerance = 5e-3  # rounding of float32 distances of about 50 is 1e-4 of this t
    _assert_close(found, wanted, tolerance)


@pytest.mark.parametrize("layout", [(23, 31, 4, 2, 5), (36, 9, 8, 4, 15)])
@pytest.mark.parametrize("options", [
    {"recursion": "poster"},
    {"selection": "knn"},
    {"selection": "concrete"},
    {"selection": "concrete", "recursion": "poster"},
])
def test_all_selections_on_every_path(path, layout, options):
    inputs, rest = _inputs(layout)

    def run(backend):
        noise = {}
        if options.get("selection") == "concrete":
            noise = {"generator": torch.Generator().manual_seed(3)}
        return _run(backend, inputs, 3, rest, **options, **noise)

    _assert_close(run("tiled"), run("reference"), 1e-9)
    path(layout)


def test_gradients_of_some_inputs_only(path):
    inputs, rest = _inputs(LAYOUTS[0])
    whole = _run("tiled", inputs, 3, rest)
    for wanted in ((0,), (1, 3), (2,), (3,)):
        leaves = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        z = ops.n3_window_aggregate(*leaves[:3], 3, leaves[3], *rest)
        gen = torch.Generator().manual_seed(9)
        cotangent = torch.randn(z.shape, generator=gen, dtype=torch.float64)
        found = torch.autograd.grad(z, [leaves[i] for i in wanted], cotangent)
        for i, grad in zip(wanted, found):
            torch.testing.assert_close(grad, whole[1 + i], rtol=1e-9, atol=1e-12)
    path(LAYOUTS[0])


def test_nothing_unwritten_is_read(path):
    """Fresh memory full of NaN changes nothing."""
    inputs, rest = _inputs(LAYOUTS[0], torch.float32)
    clean = _run("tiled", inputs, 3, rest, torch.float32)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        filled = _run("tiled", inputs, 3, rest, torch.float32)
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(torch.equal(a, b) for a, b in zip(clean, filled))


@pytest.mark.parametrize("layout", [(60, 45, 4, 2, 5), (60, 45, 5, 2, 5)])
def test_same_bits_in_several_threads(path, layout):
    inputs, rest = _inputs(layout, torch.float32)
    before = torch.get_num_threads()
    alone = _run("tiled", inputs, 3, rest, torch.float32)
    torch.set_num_threads(3)
    try:
        first, again = (_run("tiled", inputs, 3, rest, torch.float32) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    _assert_close(first, [x.double() for x in alone], 1e-5)
    path(layout)


@pytest.mark.parametrize("k", [1, 2, 9, 70])
@pytest.mark.parametrize("recursion", ["released", "poster"])
def test_any_k_and_both_readings(path, k, recursion):
    # In the "poster" recursion rounding grows from step to step where t < 1.
    inputs, rest = _inputs((13, 15, 4, 2, 3), log_t=None if k < 9 else 0.5)
    wanted = _run("reference", inputs, k, rest, recursion=recursion)
    _assert_close(_run("tiled", inputs, k, rest, recursion=recursion), wanted, 1e-8)


@pytest.mark.parametrize("layout", [(8, 9, 4, 2, 3), (8, 8, 3, 2, 3)])
@pytest.mark.parametrize("recursion", ["released", "poster"])
def test_gradcheck(layout, recursion):
    inputs, rest = _inputs(layout, b=1, e=2, c=1)
    leaves = [x.requires_grad_() for x in inputs]

    def run(q, x, v, t):
        return ops.n3_window_aggregate(q, x, v, 2, t, *rest, recursion=recursion)

    assert torch.autograd.gradcheck(run, leaves)


def test_default_sizes(path, monkeypatch):
    """Patch 10, stride 5, window 15, seven neighbours, tiles as they are."""
    monkeypatch.setattr(cells_tensors, "TILE_ELEMENTS", (1 << 20,))
    monkeypatch.setattr(cells_compiled, "TILE_ELEMENTS", (1 << 20,))
    inputs, rest = _inputs((93, 104, 10, 5, 15), torch.float32, 3.0, b=1, e=8, c=8)
    wanted = _run("reference", inputs, 7, rest)
    _assert_close(_run("tiled", inputs, 7, rest, torch.float32), wanted, 1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_differences_are_those_of_the_neighbours(path, layout, dtype):
    """With gradients and without; these in one pass, channels side by side, where compiled."""
    inputs, rest = _inputs(layout, dtype, None)
    q, x, v, log_t = (t.detach().to(dtype) for t in inputs)
    run = functools.partial(ops.n3_window_aggregate, q, x, k=3, log_temperature=log_t)
    names = dict(zip(("patch_size", "stride", "window"), rest))
    z = run(v, **names)
    wanted = torch.cat([v, (z - v[:, None]).flatten(1, 2)], 1)
    found = {}
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found[grad] = run(v, **names, differences=True)
    path(layout)
    assert torch.equal(found[True], wanted) and torch.equal(found[False], wanted)
    compiled = native.available() and native.serves(q) and cells.usable(
        WindowGrid(*q.shape[2:], *rest)
    )
    assert found[False].is_contiguous(memory_format=torch.channels_last) == compiled


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("log_t", [-14.0, 0.0, 14.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_and_zero_distances_stay_finite(backend, log_t, dtype):
    inputs, rest = _inputs((14, 17, 4, 2, 5), dtype, log_t)
    inputs[0][:, :, :, :8] = 1.0  # equal patches
    inputs[1].copy_(inputs[0])
    for exclude_self in (True, False):
        found = _run(backend, inputs, 4, rest, dtype, exclude_self=exclude_self)
        assert all(torch.isfinite(t).all() for t in found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cold_limit_is_the_hard_nearest_patches(backend, dtype):
    """As KNN selects them, a selection of its own."""
    inputs, rest = _inputs((14, 17, 4, 2, 5), dtype, math.log(1e-6))
    z = _run(backend, inputs, 4, rest, dtype)[0]
    hard = ops.n3_window_aggregate(*inputs[:3], 4, 0.0, *rest, selection="knn", backend="reference")
    torch.testing.assert_close(z, hard)


@pytest.mark.parametrize("backend", FAST)
def test_far_from_zero(backend):
    """A common offset of query and key changes nothing, in float32 too."""
    (q, x, v, t), rest = _inputs((23, 31, 4, 2, 5), torch.float32, 1.0)
    q, x = q + 100, x + 100
    wanted = _run("reference", (q, x, v, t), 3, rest)
    _assert_close(_run(backend, (q, x, v, t), 3, rest, torch.float32), wanted, 2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [(6, 7, 6, 3, 15), (5, 6, 5, 3, 15), (4, 4, 4, 2, 3)])
def test_a_single_patch(backend, layout):
    """Grids of one patch: without itself there is nothing to select, so 0; else itself."""
    inputs, rest = _inputs(layout)
    if WindowGrid(*layout).shape != (1, 1):
        return
    assert all((t == 0).all() for t in _run(backend, inputs, 2, rest))
    z = _run(backend, inputs, 2, rest, exclude_self=False)[0]
    torch.testing.assert_close(z, inputs[2][:, None].expand_as(z))


@pytest.mark.parametrize("backend", BACKENDS)
def test_number_and_map_of_temperatures_agree(backend):
    (q, x, v, t), rest = _inputs((14, 17, 4, 2, 5), log_t=0.7)
    a, b = (ops.n3_window_aggregate(q, x, v, 2, y, *rest, backend=backend) for y in (t, 0.7))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("layout", [(23, 31, 4, 2, 5), (23, 31, 5, 2, 5)])
def test_same_bits_every_run(backend, layout):
    inputs, rest = _inputs(layout, torch.float32)
    first = _run(backend, inputs, 3, rest, torch.float32)
    again = _run(backend, inputs, 3, rest, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(first, again))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backend, dtype):
    inputs, rest = _inputs((14, 17, 4, 2, 5), dtype, 2.0)
    z = ops.n3_window_aggregate(*inputs[:3], 3, 2.0, *rest, backend=backend)
    wanted = _run("reference", inputs, 3, rest)[0]
    assert z.dtype == dtype
    assert (z.double() - wanted).abs().max() < 2e-2


@pytest.mark.parametrize("backend", FAST)
def test_images_that_are_views(backend):
    """Slices and permutations of larger tensors, as networks pass them."""
    inputs, rest = _inputs((14, 17, 4, 2, 5))
    views = [
        torch.cat([x, x], 1).transpose(2, 3).contiguous().transpose(2, 3)[:, : x.shape[1]]
        for x in inputs[:3]
    ]
    _assert_close(
        _run(backend, (*views, inputs[3]), 3, rest), _run(backend, inputs, 3, rest), 1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch_and_no_channels(backend):
    for b, c in ((0, 2), (2, 0)):
        x = torch.ones(b, c, 12, 12)
        z = ops.n3_window_aggregate(torch.ones(b, 3, 12, 12), torch.ones(b, 3, 12, 12), x, 2,
                                    backend=backend)
        assert z.shape == (b, 2, c, 12, 12)


def test_shifted_windows_padding_and_clamping():
    """Against the rule written out: patch by patch, in Python numbers."""
    for layout in LAYOUTS:
        grid = WindowGrid(*layout)
        h, w, p, s, window = layout
        n1, n2 = grid.shape
        assert grid.padded_shape == (p + (n1 - 1) * s, p + (n2 - 1) * s)
        for before, after, length in ((*grid.padding[2:], h), (*grid.padding[:2], w)):
            assert after - before in (0, 1)
            assert (length + before + after - p) % s == 0
            assert before + after < s
        index = grid.candidates().view(n1, n2, -1)
        for i in range(n1):
            for j in range(n2):
                top = max(0, min(i - window // 2, n1 - window))
                left = max(0, min(j - window // 2, n2 - window))
                wanted = [
                    a * n2 + b
                    for a in range(top, min(n1, top + window))
                    for b in range(left, min(n2, left + window))
                ]
                assert index[i, j].tolist() == wanted


def _good():
    x = torch.ones(2, 3, 12, 14)
    return {"query": x, "key": x, "value": x, "k": 2, "patch_size": 4, "stride": 2, "window": 3}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"query": torch.ones(3, 12, 14)}, ValueError, r"query must have shape \(B, E, H, W\)"),
        ({"query": torch.ones(2, 3, 12, 14).int()}, TypeError, "query must be floating"),
        ({"key": torch.ones(2, 4, 12, 14)}, ValueError, "key must have the shape of query"),
        ({"key": torch.ones(2, 3, 12, 14).double()}, TypeError, "one dtype wanted"),
        ({"value": torch.ones(2, 3, 12, 13)}, ValueError, "value must have shape"),
        ({"patch_size": 0}, ValueError, "patch_size must be at least 1"),
        ({"patch_size": 13}, ValueError, "at least as large as a patch"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"stride": 5}, ValueError, "stride must be at most patch_size"),
        ({"stride": 2.0}, TypeError, "stride must be a whole number"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"recursion": "other"}, ValueError, "recursion must be one of"),
        ({"log_temperature": torch.zeros(2, 1, 12, 14)}, ValueError, "log_temperature must be"),
        ({"log_temperature": torch.full((2, 1, 5, 6), math.nan)}, ValueError, "holds NaN"),
        ({"log_temperature": math.nan}, ValueError, "log_temperature is NaN"),
        ({"backend": "other"}, ValueError, "backend must be one of"),
    ],
)
def test_bad_arguments_are_named(backend, change, error, message):
    with pytest.raises(error, match=message):
        ops.n3_window_aggregate(**{**_good(), "backend": backend, **change})
