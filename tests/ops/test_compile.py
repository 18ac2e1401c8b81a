"""The operator inside compiled graphs, under autocast, and as PyTorch wants custom operators.

Of the backends that run everywhere; the Triton kernels: see test_triton_*.py.
"""

import pytest
import torch

from n3match import ops
from n3match.ops.window.grid import WindowGrid


def _draw(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


MASK = torch.rand(2, 9, generator=torch.Generator().manual_seed(1)) > 0.3
INDEX = torch.randint(9, (2, 7, 5), generator=torch.Generator().manual_seed(2))
LAYOUT = (4, 2, 3)
GRID = WindowGrid(13, 16, *LAYOUT)

# Each public form: the operator on its leaves.
FORMS = {
    "dense": lambda q, x, v, t: ops.n3_aggregate(q, x, v, 3, t),
    "masked": lambda q, x, v, t: ops.n3_aggregate(q, x, v, 3, t, mask=MASK),
    "poster": lambda q, x, v, t: ops.n3_aggregate(q, x, v, 3, t, recursion="poster"),
    "candidates": lambda q, x, v, t: ops.n3_aggregate(q, x, v, 3, t, INDEX, mask=MASK),
    "concrete": lambda q, x, v, t: ops.n3_aggregate(q, x, v, 3, t, INDEX, selection="concrete"),
    "twice": lambda q, x, v, t: ops.n3_aggregate(ops.n3_aggregate(q, x, v, 1, t)[:, :, 0], x, v, 2),
    "window": lambda q, x, v, t: ops.n3_window_aggregate(q, x, v, 3, t, *LAYOUT),
    "window 5 by 2": lambda q, x, v, t: ops.n3_window_aggregate(q, x, v, 3, t.mean(), 5, 2, 3),
}


def _leaves(form, dtype=torch.float64):
    if "window" in form:
        shapes = [(1, 2, 13, 16)] * 3 + [(1, 1, *GRID.shape)]
    else:
        shapes = [(2, 7, 4), (2, 9, 4), (2, 9, 4), (2, 7, 1)]
    return [
        _draw(*shape, seed=i).to(dtype).requires_grad_() for i, shape in enumerate(shapes)
    ]


def _with_gradients(run, leaves):
    z = run(*leaves)
    return [z, *torch.autograd.grad(z, leaves, torch.ones_like(z))]


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


@pytest.mark.parametrize("form", FORMS)
def test_one_graph(form):
    leaves = _leaves(form)
    compiled = torch.compile(FORMS[form], fullgraph=True, backend="aot_eager")
    for a, b in zip(_with_gradients(compiled, leaves), _with_gradients(FORMS[form], leaves)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_temperature_given_as_a_number():
    leaves = _leaves("dense")[:3]

    def run(q, x, v):
        return ops.n3_aggregate(q, x, v, 3, 0.7)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for a, b in zip(_with_gradients(compiled, leaves), _with_gradients(run, leaves)):
        torch.testing.assert_close(a, b)


def test_one_graph_for_any_number_of_items():
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    run = torch.compile(FORMS["dense"], fullgraph=True, backend=counting, dynamic=True)
    for n in (5, 9, 12):
        q, x, v, t = (_draw(2, n, c, seed=c) for c in (4, 4, 3, 1))
        torch.testing.assert_close(run(q, x, v, t), FORMS["dense"](q, x, v, t))
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["masked", "candidates", "window"])
def test_one_graph_by_inductor(form):
    """Which also checks that fake and real results lie in memory alike."""
    leaves = _leaves(form, torch.float32)
    compiled = torch.compile(FORMS[form], fullgraph=True)
    for a, b in zip(_with_gradients(compiled, leaves), _with_gradients(FORMS[form], leaves)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("dense", (MASK, 3, False, "released")),
        ("dense", (None, 3, False, "poster")),
        ("candidates", (INDEX, MASK, 3, False, "released", "n3", None)),
        ("candidates", (None, None, 2, False, "released", "concrete", 5)),
        ("window", (2, list(LAYOUT), True, "released", "n3", None)),
        ("window", (2, list(LAYOUT), True, "released", "concrete", 5)),
    ],
)
def test_custom_operators(name, rest):
    """What PyTorch demands of operators: schema, fake kernel, autograd, compiled with any shape."""
    torch.library.opcheck(getattr(torch.ops.n3match, name), (*_leaves(name), *rest))


@pytest.mark.parametrize("form", ["masked", "candidates", "window"])
def test_autocast(form):
    """Half precision from the layers before it meets float32: computed in the widest type, and
    the operator's own products aren't cast."""
    leaves = _leaves(form, torch.float32)
    halves = [leaves[0].detach().bfloat16(), leaves[1].detach().bfloat16()]
    wanted = _with_gradients(FORMS[form], [
        *(x.float().requires_grad_() for x in halves), *leaves[2:]
    ])
    given = [*(x.requires_grad_() for x in halves), *leaves[2:]]
    with torch.autocast("cpu", torch.bfloat16):
        z = FORMS[form](*given)
    found = [z, *torch.autograd.grad(z, given, torch.ones_like(z))]
    assert [x.dtype for x in found] == [torch.float32, *[torch.bfloat16] * 2, *[torch.float32] * 2]
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b.to(a.dtype), rtol=1e-5, atol=1e-5)


def test_differentiated_twice_is_an_error():
    leaves = _leaves("dense")
    z = FORMS["dense"](*leaves)
    (grad,) = torch.autograd.grad(z.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()
