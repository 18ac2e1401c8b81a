"""The part of the benchmark for GPUs: all of it but the device, and what it says without one."""

import dataclasses
import re

import pytest
import torch

from n3match import ops
from n3match.pipelines.benchmarks.baselines import plain_candidates
from n3match.pipelines.benchmarks.ceilings import Ceilings, dense_work
from n3match.pipelines.benchmarks.gpu import operator, timings
from n3match.pipelines.cli import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    assert main(["benchmark", "gpu", "--out", str(tmp_path)]) == 2
    assert "did not run: torch sees no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_whole_run_with_another_backend_and_device(tmp_path, capsys, monkeypatch):
    """On the CPU, where the same steps can be gone through."""
    check, measure = operator.check, timings.measure
    ceilings = Ceilings(1e9, 1e9)
    monkeypatch.setattr(operator, "missing", lambda: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "no device, H200")
    monkeypatch.setattr(timings, "device_ceilings", lambda *_: ceilings)
    monkeypatch.setattr(
        operator, "check",
        lambda *_, only: check("cpu", "tiled", [torch.float32], only),
    )
    monkeypatch.setattr(
        timings, "measure",
        lambda *sizes, **options: measure(*sizes, device="cpu", backend="tiled", **options),
    )
    arguments = ["benchmark", "gpu", "--eager", "--sizes", "40", "--images", "25", "--repeats", "1"]
    arguments += ["--candidates", "30", "--cases", "window 50"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    report = (tmp_path / "benchmark-gpu.md").read_text()
    assert report.startswith("no device, H200, torch ")
    assert report.count(" 40 with gradients") == report.count(" 25² with gradients") == 2
    assert report.count(" 30×225 with gradients") == 2
    assert "0.001 TFLOP/s (bfloat16 matrix product)" in report
    assert report.count("Plain formulas are run as they are.") == 2
    assert "| of the tensor-core floor |" in report
    told = [row for row in report.splitlines() if row.startswith(("| dense  ", "| window  "))]
    assert told and all(re.search(r"\| +\d+ % \|$", row) for row in told)
    told = [row for row in report.splitlines() if row.startswith("| candidates ")]
    assert told and all(re.search(r"\| +— \|$", row) for row in told)
    assert "window 50²" in capsys.readouterr().out


def test_a_wrong_gradient_is_found_and_fails_the_run(monkeypatch):
    (right,) = operator.check("cpu", "tiled", [torch.float32], "dense 300")
    assert right.passed and set(right.errors) == {"output", *operator.LEAVES}

    def wrong(query, *rest, backend, **options):
        scaled = query if backend == "reference" else query + 1e-3 * (query - query.detach())
        return aggregate(scaled, *rest, backend=backend, **options)

    aggregate = ops.n3_aggregate
    monkeypatch.setattr(ops, "n3_aggregate", wrong)
    (found,) = operator.check("cpu", "tiled", [torch.float32], "dense 300")
    assert not found.passed
    assert found.errors["query"] > found.tolerance > found.errors["key"]
    nothing = dataclasses.replace(right, errors={"output": float("nan")})
    assert not nothing.passed and "NO" in operator.checks_table([right, found])


def test_plain_windows_are_the_operator():
    images = [torch.randn(1, 2, 36, 36, dtype=torch.float64) for _ in range(3)]
    plain = timings.plain_windows(*images, 3, 4.0)
    torch.testing.assert_close(plain, ops.n3_window_aggregate(*images, 3, 4.0))


def test_plain_candidates_are_the_operator():
    rows = [torch.randn(2, 9, c, dtype=torch.float64) for c in (3, 3, 4)]
    index = torch.randint(9, (2, 9, 5))
    plain = plain_candidates(*rows, index, 3, 1.0)
    torch.testing.assert_close(plain, ops.n3_aggregate(*rows, 3, 1.0, index))


def test_tensor_core_floors_are_three_products_of_float16_at_the_vendors_peak():
    measured = Ceilings(50e12, 4e12)
    ceilings = timings.tensor_core_ceilings("NVIDIA H200", torch.float32, measured)
    assert ceilings == Ceilings(989e12 / 3, 4e12)
    for n, gradients, milliseconds in (
        (2000, False, 0.0101), (2000, True, 0.0311), (5000, False, 0.0631), (5000, True, 0.194),
        (20000, False, 1.01),
    ):
        floor = ceilings.floor_seconds(dense_work(1, n, 32, 128, 3, gradients))
        assert floor == pytest.approx(1e-3 * milliseconds, rel=0.01)
    whole = timings.tensor_core_ceilings("NVIDIA H200", torch.bfloat16, measured)
    assert whole.flops_per_second == 989e12
    assert timings.tensor_core_ceilings("another", torch.float32, measured) is None
    timing = timings.Timing("dense", "1", torch.float32, False, 4.0, 2.0, None, 0.5, 1.0)
    assert timing.of_tensor_cores == 0.5
    assert dataclasses.replace(timing, replayed=None).of_tensor_cores == 0.25
    assert dataclasses.replace(timing, tensor_core_floor=None).of_tensor_cores is None


def test_ceilings_are_measured_on_the_device_asked_for():
    ceilings = timings.device_ceilings("cpu", torch.float32, 64, 1)
    assert ceilings.flops_per_second > 1e6 and ceilings.bytes_per_second > 1e6
