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
KERNELS = {
    "operands", "neighbours", "start", "values", "output", "gradients", "row_sums", "rows",
    "key_sums", "value_sums", "items", "products", "nearest", "weights", "sums", "sums_back",
    "row_gradients",
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
    """Float32 of the sizes that are measured, and of those of the match filter."""
    assert _kernels(tmp_path, "float32", "90", "measured") == KERNELS


def test_a_spill_and_a_lost_product_are_seen():
    from n3match.pipelines.benchmarks.kernels import Report, faults

    good = Report("values", "5000", 1, 255, 0, 1 << 10, 2, "HGMMA", 34.9, 2)
    assert faults([good], 90) == []
    for change, said in (
        ({"spills": 1}, "values at 5000: 1 spills, at most 0 wanted"),
        ({"mma": "HMMA"}, "values at 5000: HMMA products, HGMMA wanted"),
        ({"mma": ""}, "values at 5000: no products, HGMMA wanted"),
        ({"shared": 300 << 10}, "bytes of shared memory don't fit"),
    ):
        (found,) = faults([Report(**{**vars(good), **change})], 90)
        assert said in found


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


@pytest.mark.slow
def test_the_command_prints_the_table(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "n3match.pipelines.cli", "benchmark", "kernels"]
    run = subprocess.run(
        [*command, "--sizes", "2000", "--images", "--out", str(tmp_path)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "| values " in (tmp_path / "benchmark-kernels.md").read_text()
