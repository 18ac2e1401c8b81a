"""KNN and Concrete selection: the same face, in every form."""

import pytest
import torch
from backends import BACKENDS

from n3match import ops
from n3match.ops import candidates
from n3match.ops.noise import gumbel

pytestmark = pytest.mark.arithmetic


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setitem(candidates.CHUNK_ELEMENTS, "cpu", 3000)


def _draw(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def _generator(seed=5):
    return torch.Generator().manual_seed(seed)


INDEX = torch.randint(19, (2, 19, 8), generator=torch.Generator().manual_seed(2))
MASK = torch.rand(2, 19, generator=torch.Generator().manual_seed(3)) > 0.3
# Each form: inputs, and the operator on them.
FORMS = {
    "dense": lambda q, x, v, **o: ops.n3_aggregate(q, x, v, 3, 0.3, **o),
    "masked": lambda q, x, v, **o: ops.n3_aggregate(
        q, x, v, 3, 0.3, mask=MASK, exclude_self=True, **o
    ),
    "candidates": lambda q, x, v, **o: ops.n3_aggregate(q, x, v, 3, 0.3, INDEX, **o),
    "window": lambda q, x, v, **o: ops.n3_window_aggregate(q, x, v, 3, 0.3, 4, 2, 3, **o),
    "window 5 by 2": lambda q, x, v, **o: ops.n3_window_aggregate(q, x, v, 3, 0.3, 5, 2, 3, **o),
}


def _inputs(form):
    shape = (2, 19, 4) if "window" not in form else (2, 3, 13, 16)
    return [_draw(*shape, seed=i).requires_grad_() for i in range(3)]


def _run(form, **options):
    leaves = _inputs(form)
    z = FORMS[form](*leaves, **options)
    grads = torch.autograd.grad(z, leaves, _draw(*z.shape, seed=7), materialize_grads=True)
    return [z, *grads]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [
    {"selection": "knn"},
    {"selection": "concrete"},
    {"selection": "concrete", "seed": 5},
    {"selection": "concrete", "seed": 5, "recursion": "poster"},
])
def test_backends_agree(backend, form, options):
    """Noise included: it belongs to the query and the candidate, not to the backend."""
    def options_with_generator():
        rest = dict(options)
        seed = rest.pop("seed", None)
        return rest if seed is None else {**rest, "generator": _generator(seed)}

    found = _run(form, backend=backend, **options_with_generator())
    wanted = _run(form, backend="reference", **options_with_generator())
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_knn_is_topk(backend):
    q, x, v = _draw(2, 7, 4), _draw(2, 19, 4, seed=1), _draw(2, 19, 5, seed=2)
    z = ops.n3_aggregate(q, x, v, 6, selection="knn", backend=backend)
    order = torch.cdist(q, x).topk(6, largest=False).indices
    wanted = torch.stack([v[b][order[b]] for b in range(2)])
    assert torch.equal(z, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_knn_sends_gradients_to_the_value_only(form):
    _, d_query, d_key, d_value = _run(form, selection="knn")
    assert (d_query == 0).all()
    assert (d_key == 0).all()
    assert (d_value != 0).any()


def test_knn_takes_the_first_of_equals_and_repeats_the_last():
    d = torch.tensor([[[2.0, 1.0, 1.0, 0.5]]])
    mask = torch.tensor([[[True, True, True, False]]])
    w = ops.n3_weights(d, 5, mask=mask, selection="knn")
    assert w[0, 0].argmax(0).tolist() == [1, 2, 0, 0, 0]
    assert (w.sum(2) == 1).all()
    assert (ops.n3_weights(d, 2, mask=mask & False, selection="knn") == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_knn_of_no_candidate_is_zero(backend):
    q, v = _draw(1, 3, 2), _draw(1, 3, 2) + 9
    mask = torch.zeros(1, 3, dtype=torch.bool)
    z = ops.n3_aggregate(q, q, v, 2, mask=mask, selection="knn", backend=backend)
    assert (z == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_concrete_without_generator_is_n3(form):
    for a, b in zip(_run(form, selection="concrete"), _run(form)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_concrete_follows_its_generator(form):
    def run(generator):
        return FORMS[form](*_inputs(form), selection="concrete", generator=generator)

    generator = _generator()
    first, second = run(generator), run(generator)
    assert torch.equal(first, run(_generator()))
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, run(_generator(6)))


def test_concrete_samples_as_the_gumbel_max_trick_does():
    """At t → 0 the first choice falls on i with probability softmax(−d)_i, and the second on
    another."""
    d = torch.tensor([0.0, 0.7, 1.5, 3.0]).expand(1, 20000, 4)
    w = ops.n3_weights(d, 2, -12.0, selection="concrete", generator=_generator())
    wanted = torch.softmax(-d[0, 0], 0)
    # Standard errors are at most 0.0035.
    torch.testing.assert_close(w[0, :, :, 0].mean(0), wanted, rtol=0, atol=0.015)
    assert (w[0, :, :, 0] * w[0, :, :, 1]).sum(1).mean() < 0.01


def test_noise_is_gumbel():
    noise = gumbel(3, torch.arange(200000), torch.float64)
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - 1.6449) < 0.03
    pairs = torch.stack([noise[:-1], noise[1:]])
    assert abs(torch.corrcoef(pairs)[0, 1]) < 0.01
    assert not torch.equal(noise, gumbel(4, torch.arange(200000), torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"selection": "soft"}, ValueError, "selection must be one of"),
        ({"generator": torch.Generator()}, ValueError, 'is for selection="concrete"'),
        ({"selection": "concrete", "generator": 5}, TypeError, "must be a torch.Generator"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_bad_selection_is_named(backend, options, error, message, form):
    with pytest.raises(error, match=message):
        FORMS[form](*_inputs(form), backend=backend, **options)
    with pytest.raises(error, match=message):
        ops.n3_weights(_draw(1, 2, 3), 2, **options)
