"""The networks' part of the benchmark for GPUs, on the CPU: all of it but the device."""

import dataclasses

import pytest
import torch

from n3match.pipelines.benchmarks.gpu import networks
from n3match.pipelines.cli import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert main(["benchmark", "gpu-networks"]) == 2
    assert "The networks were not run: torch sees no CUDA device" in capsys.readouterr().out


def test_on_a_cpu_the_networks_are_themselves(tmp_path):
    command = ["benchmark", "gpu-networks", "--device", "cpu", "--repeats", "1"]
    sizes = ["--sizes", "60", "--images", "20", "--out", str(tmp_path)]
    assert main([*command, *sizes]) == 0
    text = (tmp_path / "benchmark-gpu-networks.md").read_text()
    assert text.count("| sift ") == text.count("| n3net-25 ") == 3


def test_a_difference_and_a_wait_fail():
    row = networks.Row("sift", "4 × 60", torch.float32, 1e-6, 1e-2, "", 1e-3, None)
    assert row.passed
    for change in ({"difference": 0.1}, {"difference": float("nan")}, {"waits": "a copy"}):
        assert not dataclasses.replace(row, **change).passed
