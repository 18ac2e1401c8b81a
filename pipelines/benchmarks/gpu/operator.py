"""Everything that a GPU is needed for, in one run: right results, times, shares of the ceilings.

Results, outputs and gradients, are compared with the reference formula in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from n3match import ops
from n3match.files.whole import write_whole
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks.gpu import timings
from n3match.pipelines.common.tables import markdown_table

DTYPES = (torch.float32, torch.bfloat16)
NO_GPU = 2  # exit status
LEAVES = ("query", "key", "value", "log_temperature")
_LEAST = 1e-9  # hard selection has gradients of values alone: the others have to be zero
_SMALL = 40  # queries, or pixels of a side
LONG = (64, 20000, 32, 64, 3)  # queries, items, E, F, K of the long sums
# Largest error allowed, relative to the largest number of each result.
TOLERANCES = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def missing() -> str:
    """Why nothing can be measured; "" if it can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if "triton" not in ops.backends():
        return "Triton is not installed (pip install 'n3match[triton]')"
    return ""


def run(
    sizes: Sequence[int],
    sides: Sequence[int],
    indexed: Sequence[int],
    repeats: int,
    out: Path | None = None,
    compiler: Callable[[Callable], Callable] = torch.compile,
    cases: str = "",
) -> int:
    """Prints the tables; with `out`, writes benchmark-gpu.md into that folder.

    Sizes are of the dense form, sides of the window form's images, `indexed` of explicit
    candidates. The compiler is what is done to the plain formulas. Only checks with `cases` in
    their names are made, each printed as it is found.

    Returns:
        An exit status: 0; 1 where a kernel's result is wrong; 2 without a GPU or Triton.
    """
    reason = missing()
    if reason:
        print(f"The GPU benchmark did not run: {reason}.")
        return NO_GPU
    parts = [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"median of {repeats}."
    ]

    def say(text: str) -> None:
        parts.append(text)
        print(text + "\n", flush=True)

    print(parts[0] + "\n", flush=True)
    checks = []
    for found in check("cuda", "triton", only=cases):
        checks.append(found)
        print(checks_table([found]) + "\n", flush=True)
    say(checks_table(checks))
    for dtype in DTYPES if sizes or sides or indexed else ():
        name = str(dtype).removeprefix("torch.")
        ceilings = timings.device_ceilings("cuda", dtype, 8192, 1024)
        say(
            f"{name}: {ceilings.flops_per_second / 1e12:.3g} TFLOP/s ({name} matrix product), "
            f"{ceilings.bytes_per_second / 1e9:.0f} GB/s (copy), measured in this run. "
            "Shares of the ceiling are of the time as a CUDA graph; so are those of the "
            "tensor-core floor: the least products, float32 as three of float16, at the peak that "
            "the vendor states. Plain formulas are "
            f"{'compiled' if compiler is torch.compile else 'run as they are'}."
        )
        tensor_cores = timings.tensor_core_ceilings(
            torch.cuda.get_device_name(), dtype, ceilings
        )
        measured = []
        for timing in timings.measure(
            sizes, sides, indexed, dtype, repeats=repeats, ceilings=ceilings,
            tensor_cores=tensor_cores, compiler=compiler,
        ):
            measured.append(timing)
            print(timings.table([timing]) + "\n", flush=True)
        say(timings.table(measured))
    if out is not None:
        write_whole(out / "benchmark-gpu.md", "\n\n".join(parts) + "\n")
    return 0 if all(c.passed for c in checks) else 1


@dataclass(frozen=True)
class Check:
    case: str
    dtype: torch.dtype
    errors: dict[str, float]  # of the output and every gradient
    tolerance: float

    @property
    def passed(self) -> bool:
        return all(error <= self.tolerance for error in self.errors.values())  # NaN doesn't


@dataclass(frozen=True)
class _Case:
    name: str
    leaves: tuple[Tensor, ...]  # float64, on the CPU
    run: Callable[..., Tensor]  # of the leaves, and `backend`
    float32_tolerance: float = TOLERANCES[torch.float32]


def _size(side: int) -> str:
    """Cases that Triton's interpreter goes through in seconds are named so."""
    return "small " if side < _SMALL else ""


def _noise(selection: str) -> torch.Generator | None:
    return torch.Generator().manual_seed(2) if selection == "concrete" else None


def _of(selection: str) -> str:
    return "" if selection == "n3" else f", {selection}"


def _cases() -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for b, m, n, e, f, k, shift in (
        (1, 37, 130, 5, 7, 8, 0.0),
        (2, 777, 777, 32, 128, 3, 2.0),
        (1, 300, 1001, 13, 17, 1, 1.0),
        (1, 301, 500, 90, 200, 7, 3.0),
    ):
        mask = torch.rand(b, n, generator=generator) > 0.3

        def dense(q, x, v, t, backend, k=k, mask=mask):
            return ops.n3_aggregate(
                q, x, v, k, t, mask=mask.to(q.device), exclude_self=q.shape[1] == x.shape[1],
                backend=backend,
            )

        name = f"dense {_size(m)}{m}×{n}, E = {e}, F = {f}, K = {k}"
        # Temperatures near the distances: weights are then neither uniform nor certain.
        leaves = (draw(b, m, e), draw(b, n, e), draw(b, n, f), draw(b, m, 1) + shift)
        yield _Case(name, leaves, dense)
    # Long sums show what tensor cores lose when they accumulate; the second is of one number.
    m, n, e, f, k = LONG
    for what, value in (("", draw(1, n, f)), (", one value", torch.full((1, n, f), 1.2345))):

        def long(q, x, v, t, backend):
            return ops.n3_aggregate(q, x, v, LONG[-1], t, backend=backend)

        leaves = (draw(1, m, e), draw(1, n, e), value.double(), draw(1, m, 1) + 3.0)
        yield _Case(f"dense {m}×{n}, K = {k}{what}", leaves, long, 1e-5)
    for b, m, n, o, e, f, k, shift, selection in (
        (1, 12, 30, 9, 5, 7, 3, 0.0, "n3"),
        (2, 777, 777, 225, 32, 128, 3, 2.0, "n3"),
        (1, 300, 1001, 70, 13, 17, 10, 1.0, "n3"),
        (1, 300, 1001, 70, 13, 17, 4, 1.0, "concrete"),
        (1, 300, 1001, 70, 13, 17, 4, 1.0, "knn"),
    ):
        mask = torch.rand(b, n, generator=generator) > 0.3
        index = torch.randint(n, (b, m, o), generator=generator)

        def near(q, x, v, t, backend, k=k, mask=mask, index=index, selection=selection):
            return ops.n3_aggregate(
                q, x, v, k, t, index.to(q.device), mask.to(q.device), q.shape[1] == x.shape[1],
                selection=selection, generator=_noise(selection), backend=backend,
            )

        name = f"candidates {_size(m)}{m}×{o} of {n}, E = {e}, F = {f}, K = {k}{_of(selection)}"
        leaves = (draw(b, m, e), draw(b, n, e), draw(b, n, f), draw(b, m, 1) + shift)
        yield _Case(name, leaves, near)
    for side, c, k, layout, shift, selection in (
        (12, 2, 3, (4, 2, 3), 1.0, "n3"),
        (123, 8, 7, (10, 5, 15), 5.0, "n3"),
        (50, 3, 3, (4, 2, 7), 2.0, "n3"),
        (45, 2, 2, (6, 2, 30), 2.0, "n3"),
        (50, 3, 3, (4, 2, 7), 2.0, "concrete"),
        (50, 3, 3, (4, 2, 7), 2.0, "knn"),
    ):

        def windows(q, x, v, t, backend, k=k, layout=layout, selection=selection):
            return ops.n3_window_aggregate(
                q, x, v, k, t, *layout, selection=selection, generator=_noise(selection),
                backend=backend,
            )

        grid = WindowGrid(side, side, *layout)
        images = (draw(1, c, side, side) for _ in range(3))
        patch, stride, window = layout
        name = f"window {_size(side)}{side}², patch {patch} by {stride}, window {window}, K = {k}"
        name += _of(selection)
        yield _Case(name, (*images, draw(1, 1, *grid.shape) + shift), windows)


def _results(case: _Case, leaves: list[Tensor], dtype: torch.dtype, backend: str) -> list[Tensor]:
    """Output and gradients, from a cotangent rounded to `dtype`."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    z = case.run(*leaves, backend=backend)
    cotangent = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [z, *torch.autograd.grad(z, leaves, cotangent.to(z), materialize_grads=True)]


def check(
    device: str,
    backend: str,
    dtypes: Sequence[torch.dtype] = tuple(TOLERANCES),
    only: str = "",
) -> Iterator[Check]:
    """The cases with `only` in their names, in every type. Both sides start from the same rounded
    numbers."""
    for case in _cases():
        for dtype in dtypes if only in case.name else ():
            leaves = [leaf.to(device, dtype) for leaf in case.leaves]
            exact = [leaf.double() for leaf in leaves]
            wanted = _results(case, exact, dtype, "reference")
            found = _results(case, leaves, dtype, backend)
            errors = {
                name: ((a.double() - b).abs().max() / b.abs().max().clamp(min=_LEAST)).item()
                for name, a, b in zip(("output", *LEAVES), found, wanted)
            }
            allowed = case.float32_tolerance if dtype == torch.float32 else TOLERANCES[dtype]
            yield Check(case.name, dtype, errors, allowed)


def checks_table(checks: Sequence[Check]) -> str:
    names = ("output", *LEAVES)
    rows = [
        [
            c.case, str(c.dtype).removeprefix("torch."), *(f"{c.errors[n]:.1e}" for n in names),
            f"{c.tolerance:.0e}", "yes" if c.passed else "NO",
        ]
        for c in checks
    ]
    return markdown_table(["largest error", "type", *names, "allowed", "passed"], rows)
