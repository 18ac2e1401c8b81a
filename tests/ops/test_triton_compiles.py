"""The Triton kernels compile for GPUs, fit, and become what makes them fast; the interpreter would
tell of none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

SCRIPT = Path(__file__).parents[1] / "support" / "compiled_for_gpu.py"
KERNELS = {
    "operands", "neighbours", "start", "values", "output", "gradients", "row_sums", "rows",
    "key_sums", "value_sums", "items", "products", "nearest", "weights", "pairs", "sums",
    "sums_back", "row_gradients", "gathered_distances", "gathered_sums", "gathered_products",
    "scattered_sums",
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


@pytest.mark.parametrize(
    ("of_code", "of_report", "said"),
    [
        ({"spills": 1}, {}, "1 spills, at most 0 wanted"),
        ({"mma": "HGMMA+HMMA"}, {}, "HGMMA+HMMA products, HGMMA wanted"),
        ({"mma": ""}, {}, "no products, HGMMA wanted"),
        ({"shared": 300 << 10}, {}, "307200 bytes of shared memory don't fit"),
        ({}, {"resident": 0}, "1024 bytes of shared memory don't fit"),
        ({"loop_barriers": 5}, {}, "5 barriers, at most 4 wanted"),
        ({"under_way": 0}, {}, "the next tile isn't on its way"),
        ({"copied_again": 1}, {}, "1 operands copied again for each tile"),
        ({}, {"loop_instructions": 35.1}, "35.1 instructions a pair, at most 35 wanted"),
    ],
)
def test_what_makes_a_kernel_slow_is_said(of_code, of_report, said):
    from n3match.pipelines.benchmarks.gpu.kernels import Code, Report, faults

    def report(of_code, of_report):
        code = Code(**{
            "registers": 255, "spills": 0, "shared": 1 << 10, "mma": "HGMMA", "loop_length": 1,
            "loop_barriers": 2, "under_way": 6, "copied_again": 0, **of_code,
        })
        given = {"programs": 1, "resident": 2, "loop_instructions": 34.9, **of_report}
        return Report("values", "5000", code=code, **given)

    assert faults([report({}, {})], 90, torch.float32) == []
    assert faults([report(of_code, of_report)], 90, torch.float32) == [f"values at 5000: {said}"]


def test_copies_are_read_from_the_loop_that_multiplies():
    from n3match.pipelines.benchmarks.gpu.kernels import _copies

    text = """
    %0 = scf.for %i = %a to %b step %c iter_args(%x = %y) -> (tensor<1xf32>) {
      %1 = ttg.async_wait %t {num = 9 : i32}
    }
    %2 = scf.for %i = %a to %b step %c iter_args(%x = %y) -> (tensor<1xf32>) {
      %3 = ttg.async_wait %t {num = 2 : i32}
      %4 = ttg.local_alloc %x : (tensor<1xf32>)
      %5 = ttg.local_alloc %3 : (tensor<1xf32>)
      %6 = ttg.local_alloc %y : (tensor<1xf32>)
      %7 = ttng.warp_group_dot %4, %5, %6
      %8 = ttg.async_wait %t {num = 0 : i32}
    }
"""
    assert _copies(text) == (2, 1)
    assert _copies("") == (0, 0)


def test_sums_that_leave_the_tensor_cores_keep_their_digits():
    from n3match.pipelines.benchmarks.gpu.tensor_core_sums import loss

    assert loss(20000, promoted=True) < 2e-6
    assert loss(20000, promoted=False) > 5e-5


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
        [*command, "--sizes", "2000", "--images", "--candidates", "--out", str(tmp_path)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "| values " in (tmp_path / "benchmark-kernels.md").read_text()
