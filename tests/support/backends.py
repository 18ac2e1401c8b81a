"""The one list of backends that every test with a backend as its parameter goes through.

Kernels for GPUs run on a GPU where there is one. Elsewhere they are interpreted, and a case takes
seconds: most are marked slow then, and test_triton_*.py holds the small ones.
"""

import functools
import math

import pytest
import torch

from n3match import ops

# These serve every call.
BACKENDS = tuple(name for name in ops.backends() if name != "triton")
FAST = tuple(name for name in BACKENDS if name != "reference")

HAS_TRITON = "triton" in ops.backends()
INTERPRETED = HAS_TRITON and not torch.cuda.is_available()
# The interpreter also warns of numbers that a kernel then doesn't choose.
MARKS = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::RuntimeWarning")] * INTERPRETED
_TRITON = (pytest.param("triton", marks=MARKS),) if HAS_TRITON else ()
# These serve plain calls: no candidates, whole cells, N³ selection in the "released" recursion.
PLAIN_CALLS = (*BACKENDS, *_TRITON)
FAST_PLAIN_CALLS = (*FAST, *_TRITON)


def _there(thing, device):
    return thing.to(device) if isinstance(thing, torch.Tensor) else thing


def _on_its_device(function, *arguments, backend=None, **options):
    """Tensors go to the device of the backend, and the result comes back to the CPU."""
    device = "cuda" if backend == "triton" and not INTERPRETED else "cpu"
    arguments = [_there(x, device) for x in arguments]
    options = {name: _there(x, device) for name, x in options.items()}
    z = function(*arguments, backend=backend, **options)
    return z if device == "cpu" else z.cpu()


n3_aggregate = functools.partial(_on_its_device, ops.n3_aggregate)
n3_window_aggregate = functools.partial(_on_its_device, ops.n3_window_aggregate)


NAMES = ("z", "query", "key", "value", "log_temperature")


def outputs_and_gradients(aggregate, backend, inputs, k, where, dtype=torch.float64, **options):
    """In the order of NAMES, for one random gradient of z.

    Args:
        where: arguments behind the temperatures: candidates, or patch, stride and window.
    """
    leaves = [x.detach().clone().to(dtype).requires_grad_() for x in inputs]
    z = aggregate(*leaves[:3], k, leaves[3], *where, backend=backend, **options)
    gen = torch.Generator().manual_seed(9)
    cotangent = torch.randn(z.shape, generator=gen, dtype=torch.float64).to(dtype)
    return [z, *torch.autograd.grad(z, leaves, cotangent, materialize_grads=True)]


def kernels_as_reference(aggregate, inputs, k, where, dtype, tolerance, **options):
    """What the kernels give, which the formula in float64 must agree with."""
    found = outputs_and_gradients(aggregate, "triton", inputs, k, where, dtype, **options)
    wanted = outputs_and_gradients(aggregate, "reference", inputs, k, where, **options)
    for name, a, b in zip(NAMES, found, wanted):
        error = (a.double() - b).abs().max() / b.abs().max().clamp(min=0.1)
        assert error < tolerance, f"{name}: {error}"
    return found


def assert_equal_but_for_ties(found, wanted, log_t):
    """Outputs and gradients in float64, in the order of NAMES. Equal distances may differ in their
    last bit, which 1/t multiplies in what they give, and once more in their gradients."""
    for name, a, b in zip(NAMES, found, wanted):
        least = 1.0 if name in ("z", "value") else max(1.0, math.exp(-log_t))
        error = (a - b).abs().max() / b.abs().max().clamp(min=least)
        assert torch.isfinite(a).all() and error < 1e-8, f"{name}: {error}"


def assert_a_cuda_graph_gives_the_same(run):
    """`run` without arguments -> tensors, on a GPU."""
    run()  # what is compiled and tried the first time
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        wanted = run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
