"""Everything that a GPU is needed for, in one run: right results, times, shares of the ceilings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from n3match import ops
from n3match.pipelines.benchmarks import gpu_checks, gpu_timings
from n3match.whole_file import write_whole

DTYPES = (torch.float32, torch.bfloat16)
NO_GPU = 2  # exit status


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
    repeats: int,
    out: Path | None = None,
    compiler: Callable[[Callable], Callable] = torch.compile,
) -> int:
    """Prints the tables; with `out`, writes benchmark-gpu.md into that folder.

    Args:
        compiler: what is done to the plain formulas.

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
    checks = gpu_checks.check("cuda", "triton")
    say(gpu_checks.table(checks))
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        ceilings = gpu_timings.device_ceilings("cuda", dtype, 8192, 1024)
        say(
            f"{name}: {ceilings.flops_per_second / 1e12:.3g} TFLOP/s ({name} matrix product), "
            f"{ceilings.bytes_per_second / 1e9:.0f} GB/s (copy), measured in this run. "
            "Shares of the ceiling are of the time as a CUDA graph. Plain formulas are "
            f"{'compiled' if compiler is torch.compile else 'run as they are'}."
        )
        timings = []
        for timing in gpu_timings.measure(
            sizes, sides, dtype, repeats=repeats, ceilings=ceilings, compiler=compiler
        ):
            timings.append(timing)
            print(gpu_timings.table([timing]) + "\n", flush=True)
        say(gpu_timings.table(timings))
    if out is not None:
        write_whole(out / "benchmark-gpu.md", "\n\n".join(parts) + "\n")
    return 0 if all(c.passed for c in checks) else 1
