"""The Triton kernels compile for GPUs, fit, and become what makes them fast; the interpreter would
tell of none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

SCRIPT = Path(__file__).parents[1] / "support" / "compiled_for_gpu.py"
DENSE = {
    "operands", "neighbours", "start", "power", "scales", "values", "output", "gradients",
    "row_sums", "rows", "key_sums", "value_sums", "items",
}
KERNELS = DENSE | {
    "products", "nearest", "weights", "pairs", "sums", "sums_back", "row_gradients",
    "gathered_distances", "gathered_sums", "gathered_products", "scattered_sums",
}


def _kernels(tmp_path, *arguments):
    """Names of the kernels that were compiled; what is wrong with any fails the test."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return set(run.stdout.split())


def test_no_forward_kernel_spills_and_products_are_hoppers(tmp_path):
    """Float32: of the sizes that are measured (K = 3 without self-exclusion) every kernel; of the
    match filter's (K = 6 with it) the sweeps of the forward pass that K = 3 has none of."""
    assert _kernels(tmp_path, "float32", "90", "measured") == KERNELS


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nor_does_any_at_the_filters_sizes(dtype, tmp_path):
    """Both passes, with the gradient of the temperatures, K = 6 and K = 8."""
    assert _kernels(tmp_path, dtype, "90", "filter") == DENSE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "capability"),
    [
        ("float32", 80), ("float32", 90), ("float32", 100), ("bfloat16", 80), ("bfloat16", 90),
        ("float16", 90), ("float64", 80),
    ],
)
def test_all_sizes_compile_and_fit(dtype, capability, tmp_path):
    assert _kernels(tmp_path, dtype, str(capability), "all") >= KERNELS
