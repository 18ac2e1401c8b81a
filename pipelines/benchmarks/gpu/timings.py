"""Times of the operator on a GPU, against plain formulas, compiled or not, and its ceilings."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match import ops
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks.baselines import (
    LAYOUT,
    plain_aggregate,
    plain_bytes,
    plain_candidates,
    plain_weights,
)
from n3match.pipelines.benchmarks.ceilings import Ceilings, Work, dense_work, window_work
from n3match.pipelines.benchmarks.operator_dense import EMBEDDING, FEATURES, NEIGHBOURS
from n3match.pipelines.benchmarks.operator_window import CHANNELS
from n3match.pipelines.benchmarks.operator_window import NEIGHBOURS as WINDOW_NEIGHBOURS
from n3match.pipelines.common.tables import markdown_table

# Temperatures at which weights of random inputs are neither uniform nor certain.
_DENSE_LOG_T, _WINDOW_LOG_T = math.log(8.0), math.log(100.0)
NEAR = LAYOUT[2] ** 2  # explicit candidates of a query: as many as a window has
_WARM_UP, _ROW_SECONDS = 3, 0.01
# Products of float16 or bfloat16 on tensor cores, operations a second, as NVIDIA states them.
_TENSOR_CORES = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}
_SPLIT_PRODUCTS = 3  # of half precision that make one of float32, but for its last two bits


@dataclass(frozen=True)
class Timing:
    form: str
    size: str
    dtype: torch.dtype
    gradients: bool
    seconds: float  # called as a user would
    replayed: float | None  # the same as a CUDA graph: without the time of the calls
    plain: float | None  # plain formula
    floor: float  # at the device's ceilings
    tensor_core_floor: float | None  # float32 split; None where no peak is known, no product made
    note: str = ""

    @property
    def attained(self) -> float:
        return self.floor / self._without_calls

    @property
    def of_tensor_cores(self) -> float | None:
        floor = self.tensor_core_floor
        return None if floor is None else floor / self._without_calls

    @property
    def _without_calls(self) -> float:
        return self.seconds if self.replayed is None else self.replayed


@dataclass(frozen=True)
class _Task:
    form: str
    size: str
    leaves: tuple[Tensor, ...]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    plain_bytes: Callable[[bool], float]
    work: Callable[[bool], Work]
    index_bytes: int = 0  # read in each pass, whatever the type of the rest


def seconds_of(function: Callable[[], object], device: str, repeats: int) -> float:
    """Of one call: median over rows of calls, each row long enough to hide the waiting for it."""

    def row(calls: int) -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        _wait(device)
        return (time.perf_counter() - start) / calls

    row(_WARM_UP)
    calls = math.ceil(_ROW_SECONDS / row(1))
    return statistics.median(row(calls) for _ in range(repeats))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def as_graph(function: Callable[[], object]) -> Callable[[], None]:
    """Of a function on CUDA tensors that was called before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def device_ceilings(device: str, dtype: torch.dtype, size: int, megabytes: int) -> Ceilings:
    """Rate of products of large square matrices, and of copies larger than any cache."""
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.rand(megabytes << 18, device=device)
    target = torch.empty_like(source)
    product = seconds_of(lambda: torch.mm(a, b), device, 10)
    copy = seconds_of(lambda: target.copy_(source), device, 10)
    return Ceilings(2 * size**3 / product, 2 * source.nbytes / copy)


def tensor_core_ceilings(name: str, dtype: torch.dtype, ceilings: Ceilings) -> Ceilings | None:
    """What tensor cores could do with split operands, by the peak that the vendor states: None for
    a device whose peak isn't known here. Copies as measured."""
    peak = next((rate for part, rate in _TENSOR_CORES.items() if part in name), None)
    if peak is None:
        return None
    products = _SPLIT_PRODUCTS if dtype == torch.float32 else 1
    return Ceilings(peak / products, ceilings.bytes_per_second)


def plain_windows(query: Tensor, key: Tensor, value: Tensor, k: int, log_t: float) -> Tensor:
    """Patches of every window gathered; for square images, B = 1."""
    grid = WindowGrid(*query.shape[2:], *LAYOUT)
    index = grid.candidates(query.device)
    q, x, v = (grid.patches(image)[0] for image in (query, key, value))
    others = index != torch.arange(len(index), device=index.device)[:, None]
    d = (q[:, None] - x[index]).square().sum(2).masked_fill(~others, float("inf"))
    steps = [
        grid.put_back(torch.einsum("mo,mod->md", weights, v[index])[None])
        for weights in plain_weights(d * -math.exp(-log_t), k)
    ]
    return torch.stack(steps, 1)


def _draw(device: str, dtype: torch.dtype, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)


def _dense(n: int, device: str, dtype: torch.dtype) -> _Task:
    e, f, k = EMBEDDING, FEATURES, NEIGHBOURS
    return _Task(
        form="dense",
        size=str(n),
        leaves=_draw(device, dtype, (1, n, e), (1, n, e), (1, n, f)),
        ours=lambda *leaves, backend: ops.n3_aggregate(*leaves, k, _DENSE_LOG_T, backend=backend),
        plain=lambda *leaves: plain_aggregate(*leaves, k, _DENSE_LOG_T),
        plain_bytes=lambda gradients: 1.5 * plain_bytes(n, n, k, gradients),
        work=lambda gradients: dense_work(1, n, e, f, k, gradients),
    )


def _candidates(n: int, device: str, dtype: torch.dtype) -> _Task:
    e, f, k = EMBEDDING, FEATURES, NEIGHBOURS
    index = torch.randint(n, (1, n, NEAR), generator=torch.Generator().manual_seed(1)).to(device)

    def work(gradients: bool) -> Work:
        dense = dense_work(1, n, e, f, k, gradients)
        return Work(dense.flops * NEAR / n, dense.bytes)

    return _Task(
        form="candidates",
        size=f"{n}×{NEAR}",
        leaves=_draw(device, dtype, (1, n, e), (1, n, e), (1, n, f)),
        ours=lambda *leaves, backend: ops.n3_aggregate(
            *leaves, k, _DENSE_LOG_T, index, backend=backend
        ),
        plain=lambda *leaves: plain_candidates(*leaves, index, k, _DENSE_LOG_T),
        plain_bytes=lambda gradients: 4 * n * NEAR * (e + f) * (6 if gradients else 3),
        work=work,
        index_bytes=index.nbytes,
    )


def _window(side: int, device: str, dtype: torch.dtype) -> _Task:
    c, k = CHANNELS, WINDOW_NEIGHBOURS
    grid = WindowGrid(side, side, *LAYOUT)
    # Patches of query, O of them each: gathered once for distances, once for sums.
    gathered = 4 * math.prod(grid.shape) * math.prod(grid.window_shape) * c * LAYOUT[0] ** 2
    return _Task(
        form="window",
        size=f"{side}²",
        leaves=_draw(device, dtype, *[(1, c, side, side)] * 3),
        ours=lambda *leaves, backend: ops.n3_window_aggregate(
            *leaves, k, _WINDOW_LOG_T, *LAYOUT, backend=backend
        ),
        plain=lambda *leaves: plain_windows(*leaves, k, _WINDOW_LOG_T),
        plain_bytes=lambda gradients: gathered * (8 if gradients else 4),
        work=lambda gradients: window_work(grid, c, k, gradients),
    )


def measure(
    sizes: Sequence[int],
    sides: Sequence[int],
    indexed: Sequence[int],
    dtype: torch.dtype,
    *,
    device: str = "cuda",
    backend: str = "triton",
    repeats: int = 20,
    ceilings: Ceilings,
    tensor_cores: Ceilings | None = None,
    compiler: Callable[[Callable], Callable] = torch.compile,
) -> Iterator[Timing]:
    """Each size without and with gradients, as they are found. Of explicit candidates, which are no
    product of matrices, no floor of tensor cores is told."""
    tasks = [
        *((_dense, size) for size in sizes), *((_window, side) for side in sides),
        *((_candidates, size) for size in indexed),
    ]
    for make, size in tasks:
        task = make(size, device, dtype)
        for gradients in (False, True):
            multiplied = None if task.form == "candidates" else tensor_cores
            yield _timing(
                task, gradients, dtype, device, backend, repeats, ceilings, multiplied, compiler
            )


def _timing(
    task, gradients, dtype, device, backend, repeats, ceilings, tensor_cores, compiler
) -> Timing:
    leaves = [leaf.detach().requires_grad_(gradients) for leaf in task.leaves]
    with torch.no_grad():
        cotangent = torch.ones_like(task.ours(*leaves, backend=backend))

    def call(function: Callable[..., Tensor], **options) -> Callable[[], object]:
        def run() -> object:
            z = function(*leaves, **options)
            return torch.autograd.grad(z, leaves, cotangent) if gradients else z

        return run

    ours = call(task.ours, backend=backend)
    seconds = seconds_of(ours, device, repeats)
    replayed = None
    if device == "cuda":
        replayed = seconds_of(as_graph(ours), device, repeats)
        torch.cuda.empty_cache()
    plain, note = None, ""
    try:
        needed = task.plain_bytes(gradients)
        if device == "cuda" and needed > torch.cuda.mem_get_info()[0]:
            note = f"plain formula not run: takes about {needed / 1e9:.2g} GB"
        else:
            torch.compiler.reset()
            plain = seconds_of(call(compiler(task.plain)), device, max(3, repeats // 4))
    except torch.cuda.OutOfMemoryError:
        note = "plain formula not run: out of memory"
    if device == "cuda":
        torch.cuda.empty_cache()
    work = task.work(gradients)
    of_index = task.index_bytes * (2 if gradients else 1)
    work = Work(work.flops, work.bytes * dtype.itemsize / 4 + of_index)
    return Timing(
        task.form, task.size, dtype, gradients, seconds, replayed, plain,
        ceilings.floor_seconds(work),
        None if tensor_cores is None else tensor_cores.floor_seconds(work), note,
    )


def table(timings: Sequence[Timing]) -> str:
    """Markdown, with notes below."""

    def milliseconds(seconds: float | None) -> str:
        return "—" if seconds is None else f"{1e3 * seconds:.3g}"

    columns = [
        "form", "size", "type", "n3match, ms", "as a CUDA graph, ms", "plain formula, ms",
        "plain / n3match", "of the ceiling", "of the tensor-core floor",
    ]
    rows = [
        [
            t.form, t.size + (" with gradients" if t.gradients else ""),
            str(t.dtype).removeprefix("torch."), milliseconds(t.seconds),
            milliseconds(t.replayed), milliseconds(t.plain),
            "—" if t.plain is None else f"{t.plain / t.seconds:.3g}", f"{100 * t.attained:.0f} %",
            "—" if t.of_tensor_cores is None else f"{100 * t.of_tensor_cores:.0f} %",
        ]
        for t in timings
    ]
    notes = [f"{t.form} {t.size}: {t.note}." for t in timings if t.note]
    return "\n\n".join([markdown_table(columns, rows), *(["\n".join(notes)] if notes else [])])
