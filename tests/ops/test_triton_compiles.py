"""The Triton kernels compile for GPUs, fit, and become what makes them fast; the interpreter would
tell of none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from n3match import ops
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter

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


def test_the_filters_sizes_are_those_of_the_shipped_one(monkeypatch):
    from n3match.pipelines.benchmarks.gpu.kernels import FILTER

    def seen(query, key, value, k, temperature, *, exclude_self, **options):
        calls.append((query.shape[-1], value.shape[-1], k, exclude_self, temperature.dim()))
        return aggregate(query, key, value, k, temperature, exclude_self=exclude_self, **options)

    calls, aggregate = [], ops.n3_aggregate
    monkeypatch.setattr(ops, "n3_aggregate", seen)
    columns = {"points0": 2, "points1": 2, "side_info": len(SIDE_INFO), "keypoint_change": 3}
    given = {name: torch.rand(1, 40, width) for name, width in columns.items()}
    with torch.no_grad():
        MatchFilter.from_pretrained("sift").eval()(**given)
    assert calls and calls[0] == (*FILTER, True, 3)


def test_limits_follow_what_a_launch_does():
    from n3match.pipelines.benchmarks.gpu.kernels import _most_instructions

    options = {"EXCLUDE": False, "FIRST": 0, "BLOCK_F": 64}
    assert _most_instructions("values", options) == 35
    assert _most_instructions("values", options | {"BLOCK_F": 32}) == 17.5
    assert _most_instructions("values", options | {"FIRST": 3}) > 35
    assert _most_instructions("neighbours", {"EXCLUDE": True}) > 25
    assert _most_instructions("output", {}) == float("inf")


def _faults_of(kernel, of_report=None, **of_code):
    """Of a kernel that has none but for what is given."""
    from n3match.pipelines.benchmarks.gpu.kernels import Code, Report, faults

    code = Code(**{
        "registers": 255, "spills": 0, "shared": 1 << 10, "mma": "HGMMA", "loop_length": 1,
        "loop_spills": 0, "loop_barriers": 2, "under_way": 6, "copied_again": 0, **of_code,
    })
    report = {
        "programs": 1, "resident": 2, "loop_instructions": 34.9, "most_instructions": 35.0,
        "most_spills": 0, **(of_report or {}),
    }
    return faults([Report(kernel, "5000", code=code, **report)], 90, torch.float32)


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
    assert _faults_of("values") == []
    assert _faults_of("values", of_report, **of_code) == [f"values at 5000: {said}"]


@pytest.mark.parametrize("kernel", ["neighbours", "value_sums", "products", "sums", "sums_back"])
def test_a_lost_product_is_said_of_every_kernel_that_multiplies(kernel):
    (sentence,) = _faults_of(kernel, mma="HMMA")
    assert sentence == f"{kernel} at 5000: HMMA products, HGMMA wanted"
    assert _faults_of(kernel, mma="HGMMA") == []


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
