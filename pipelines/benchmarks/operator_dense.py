"""The dense operator against its matrix products alone and plain formulas, over N."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from n3match import ops
from n3match.pipelines.benchmarks import operator
from n3match.pipelines.benchmarks.ceilings import Ceilings, dense_work
from n3match.pipelines.benchmarks.measurement import (
    FLOAT32,
    OURS,
    PLAIN,
    PRODUCTS,
    Limits,
    Measurement,
)
from n3match.pipelines.benchmarks.operator import EMBEDDING, FEATURES, NEIGHBOURS
from n3match.pipelines.benchmarks.plain_baselines import (
    plain_aggregate,
    plain_bytes,
    reference_bytes,
)
from n3match.pipelines.benchmarks.side_by_side import side_by_side

SIZES = (500, 1000, 2000, 5000, 10000, 20000)


def describe(batch: int) -> str:
    return f"B = {batch}, E = {EMBEDDING}, F = {FEATURES}, K = {NEIGHBOURS}, float32"


def measure_dense(
    sizes: Sequence[int], batch: int, limits: Limits, ceilings: Ceilings
) -> list[Measurement]:
    """Time and memory with N queries and N items, for each N, without and with gradients."""
    rows = []
    for n in sorted(sizes):

        def needed(name: str, gradients: bool, n: int = n) -> int:
            if name == PLAIN:
                return reference_bytes(n, n, EMBEDDING, gradients)
            return plain_bytes(n, n, NEIGHBOURS, gradients) if name == FLOAT32 else 0

        def floor(gradients: bool, n: int = n) -> float:
            work = dense_work(batch, n, EMBEDDING, FEATURES, NEIGHBOURS, gradients)
            return ceilings.floor_seconds(work)

        rows += side_by_side(
            "dense",
            n,
            (OURS, PRODUCTS, PLAIN, FLOAT32),
            call=partial(_call, batch),
            prepare=partial(_prepare, batch),
            needed_bytes=needed,
            floor_seconds=floor,
            limits=limits,
            earlier=rows,
        )
    return rows


def _call(batch: int, name: str, n: int, gradients: bool) -> Callable[[], object]:
    if name in (PLAIN, FLOAT32):
        return _plain(name, batch, n, gradients)
    if name == PRODUCTS:
        return operator.products(batch, n, gradients)
    make = operator.aggregate_and_gradients if gradients else operator.aggregate
    return make(batch, n, ops.backends()[0])


def _plain(name: str, batch: int, n: int, gradients: bool) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(batch, n, channels, generator=generator).requires_grad_(gradients)
        for channels in (EMBEDDING, EMBEDDING, FEATURES)
    ]
    cotangent = torch.randn(batch, n, NEIGHBOURS, FEATURES, generator=generator)

    def run() -> object:
        if name == FLOAT32:
            z = plain_aggregate(*leaves, NEIGHBOURS)
        else:  # pair by pair: together they would take B times the memory
            pairs = zip(*(leaf.split(1) for leaf in leaves))
            z = torch.cat(
                [ops.n3_aggregate(*pair, NEIGHBOURS, backend="reference") for pair in pairs]
            )
        return torch.autograd.grad(z, leaves, cotangent) if gradients else z

    return run


def _prepare(batch: int, name: str, n: int, passes: Sequence[bool]) -> list[Callable[[], object]]:
    for gradients in passes:  # what torch loads at its first call isn't the operator's
        _call(1, name, 16, gradients)()
    return [_call(batch, name, n, gradients) for gradients in passes]
