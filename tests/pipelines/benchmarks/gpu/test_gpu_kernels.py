"""What is said of compiled kernels, and of which sizes; they are compiled by
tests/ops/test_triton_compiles.py."""

import os
import subprocess
import sys

import pytest
import torch

from n3match import ops
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter
from n3match.pipelines.benchmarks.gpu.tensor_core_sums import loss

pytest.importorskip("triton")
from n3match.pipelines.benchmarks.gpu.kernels import (
    _MOST_INSTRUCTIONS,
    FILTER,
    Code,
    Report,
    _copies,
    _most_instructions,
    faults,
)


def test_the_filters_sizes_are_those_of_the_shipped_one(monkeypatch):
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
    options = {"EXCLUDE": False, "FIRST": 0}
    most = _most_instructions("values", options)
    assert most == _MOST_INSTRUCTIONS["values"]
    assert _most_instructions("values", options | {"FIRST": 3}) > most
    assert _most_instructions("neighbours", {"EXCLUDE": True}) > _MOST_INSTRUCTIONS["neighbours"]
    assert _most_instructions("output", {}) == float("inf")


def _faults_of(kernel, of_report=None, **of_code):
    """Of a kernel that has none but for what is given."""
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
    assert loss(20000, promoted=True) < 2e-6
    assert loss(20000, promoted=False) > 5e-5


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
