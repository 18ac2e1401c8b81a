"""The part of the benchmark for GPUs: all of it but the device, and what it says without one."""

import dataclasses

import pytest
import torch

from n3match import ops
from n3match.pipelines.benchmarks.baselines import plain_candidates
from n3match.pipelines.benchmarks.ceilings import Ceilings
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
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "no device")
    monkeypatch.setattr(timings, "device_ceilings", lambda *_: ceilings)
    monkeypatch.setattr(
        operator, "check",
        lambda *_, only: check("cpu", "tiled", [torch.float32], only),
    )
    monkeypatch.setattr(
        timings, "measure",
        lambda *sizes, repeats, ceilings, compiler: measure(
            *sizes, device="cpu", backend="tiled", repeats=repeats, ceilings=ceilings,
            compiler=compiler,
        ),
    )
    arguments = ["benchmark", "gpu", "--eager", "--sizes", "40", "--images", "25", "--repeats", "1"]
    arguments += ["--candidates", "30", "--cases", "window 50"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    report = (tmp_path / "benchmark-gpu.md").read_text()
    assert report.startswith("no device, torch ")
    assert report.count(" 40 with gradients") == report.count(" 25² with gradients") == 2
    assert report.count(" 30×225 with gradients") == 2
    assert "0.001 TFLOP/s (bfloat16 matrix product)" in report
    assert report.count("Plain formulas are run as they are.") == 2
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


def test_ceilings_are_measured_on_the_device_asked_for():
    ceilings = timings.device_ceilings("cpu", torch.float32, 64, 1)
    assert ceilings.flops_per_second > 1e6 and ceilings.bytes_per_second > 1e6
