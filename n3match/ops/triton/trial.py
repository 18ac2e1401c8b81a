"""A trial of the Triton kernels before they are chosen by themselves: once on each device.

Drivers, compilers and devices differ, and the kernels ran on few of them: a small call is compared
with the tiles first, and a device on which it goes wrong is served by the tiles.
"""

from __future__ import annotations

import functools
import warnings

import torch

from n3match.ops import candidates
from n3match.ops.dense import op as dense
from n3match.ops.window import op as tiles
from n3match.ops.window.grid import WindowGrid

_TOLERANCE = 1e-3  # of the largest number; a wrong kernel is off by far more
_LEAST = 1e-6  # a gradient that is zero has to be zero
DENSE = ((2, 70, 8), (2, 70, 8), (2, 70, 20))  # query, key, value; of candidates too
NEAR = 40  # candidates of a query
WINDOW = ((1, 4, 24, 21), (1, 4, 24, 21), (1, 3, 24, 21))
LAYOUT = (4, 2, 5)  # patch, stride, window


@torch.compiler.assume_constant_result
def failure(form: str, kind: str, index: int | None) -> str:
    """Why the kernels can't be trusted on a device; "" if they can. Warns the first time.

    Args:
        form: "dense"; "candidates" or "window", or one of these with " knn" or " noise".
        kind, index: of the device, as in `torch.device`.
    """
    if kind == "cuda" and index is None:
        index = torch.cuda.current_device()
    return _failure(form, kind, index)


@functools.cache
def _failure(form: str, kind: str, index: int | None) -> str:
    try:
        with torch.autocast(kind, enabled=False), torch.enable_grad():
            error = _error(form, torch.device(kind, index))
        if error < _TOLERANCE:
            return ""
        reason = f"results of the {form} form differ from theirs by {error:.1e} on {kind}:{index}"
    except Exception as problem:  # whatever it is, the tiles serve
        reason = f"the {form} form fails on {kind}:{index}: {type(problem).__name__}: {problem}"
    warnings.warn(f"n3match: the tiles serve instead of Triton, {reason}", stacklevel=2)
    return reason


def _error(form: str, device: torch.device) -> float:
    """The largest error of output and gradients, relative to the largest number of each; NaN
    counts as infinite."""
    gen = torch.Generator().manual_seed(0)
    shapes = WINDOW if form.startswith("window") else DENSE
    inputs = [torch.randn(shape, generator=gen).to(device) for shape in shapes]
    results = []
    for run in _runs(form):
        leaves = [x.clone().requires_grad_() for x in inputs]
        z = run(*leaves)
        cotangent = torch.linspace(-1, 1, z.numel(), device=device).view_as(z)
        # Hard selection has gradients of values alone.
        grads = torch.autograd.grad(z, leaves, cotangent, materialize_grads=True)
        results.append([z.detach(), *grads])
    errors = [(a - b).abs().max() / b.abs().max().clamp(min=_LEAST) for a, b in zip(*results)]
    return torch.stack(errors).nan_to_num(nan=float("inf")).max().item()


def _runs(form: str):
    if form == "dense":
        from n3match.ops.triton import dense as kernels  # imports Triton

        def run(aggregate):
            def call(q, k, v):
                return aggregate(q, k, v, q.new_full((*q.shape[:2], 1), 0.5), None, 3, False)

            return call

        return run(kernels.aggregate), run(dense.aggregate)
    form, _, variant = form.partition(" ")
    selection = {"knn": "knn", "noise": "concrete"}.get(variant, "n3")
    seed = 1 if variant == "noise" else None
    if form == "candidates":
        return _candidate_runs(selection, seed)
    from n3match.ops.triton import window as kernels  # imports Triton

    grid = WindowGrid(*WINDOW[0][2:], *LAYOUT)
    log_t = torch.full((1, 1, *grid.shape), 0.5)
    return (
        lambda q, k, v: kernels.aggregate(q, k, v, log_t.to(q), grid, 3, True, selection, seed),
        lambda q, k, v: tiles.aggregate(
            q, k, v, log_t.to(q), 3, LAYOUT, True, "released", selection, seed
        ),
    )


def _candidate_runs(selection: str, seed: int | None):
    from n3match.ops.triton import candidates as kernels  # imports Triton

    (b, m, _), (_, n, _), _ = DENSE
    index = torch.randint(n, (b, m, NEAR), generator=torch.Generator().manual_seed(1))

    def given(q, k, v):
        return q, k, v, q.new_full((b, m, 1), 0.5), index.to(q.device), None, 3, True

    return (
        lambda *leaves: kernels.aggregate(*given(*leaves), selection, seed),
        lambda *leaves: candidates.aggregate(*given(*leaves), "released", selection, seed),
    )
