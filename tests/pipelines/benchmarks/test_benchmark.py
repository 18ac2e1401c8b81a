"""The benchmark command runs and reports what it says; its numbers are not asserted."""

import csv
import multiprocessing

import cv2
import held_memory
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from n3match import ops
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks import operator_dense
from n3match.pipelines.benchmarks.ceilings import Ceilings, Work, dense_work, window_work
from n3match.pipelines.benchmarks.measure import (
    AUTHORS,
    GATHERING,
    OURS,
    PRODUCTS,
    Limits,
    Measurement,
    peak_bytes,
    peak_bytes_in_turn,
    seconds_in_turns,
)
from n3match.pipelines.benchmarks.networks import operator_share
from n3match.pipelines.benchmarks.operator_report import slope, table
from n3match.pipelines.benchmarks.operator_window import window_products
from n3match.pipelines.cli import main


def benchmark(*argv) -> int:
    return main(["benchmark", *map(str, argv)])


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=["forked", pytest.param("new", marks=pytest.mark.slow)])
def processes(request, monkeypatch):
    """The processes in which memory is measured: as they are, which load everything again, or
    copies of this one, which measure the same growth."""
    if request.param == "forked":
        fork = multiprocessing.get_context("fork")
        monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)


@pytest.mark.parametrize("command", ["filter-h5", "filter-colmap"])
def test_filter_of_a_file_is_measured_by_its_pairs(tmp_path, processes, command):
    assert benchmark(command, "--sizes", "1", "5", "--out", tmp_path) == 0
    rows = read_csv(tmp_path / f"benchmark-{command}.csv")
    assert [row[command].split()[0] for row in rows] == ["1", "5"]
    # Every pair is the demo's, with descriptors and cameras: a good part is kept, of each the same.
    assert 50 < int(rows[0]["kept of a pair"]) == int(rows[1]["kept of a pair"]) < 1000
    for row in rows:
        assert float(row["pairs a second"]) > 0
        assert int(row["peak memory above the start, MB"]) > 0


def test_operator_benchmark_measures_what_is_asked_and_says_what_is_left_out(tmp_path, capsys):
    # 1e-4 GB: enough for all but the plain formulas at N = 900 (and the exact one at 40).
    arguments = "ops --sizes 40 900 --images 20 41 --repeats 1 --baseline-memory 1e-4 --no-memory"
    assert benchmark(*arguments.split(), "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "ceilings measured in this run" in printed
    assert "900: plain formula not run: takes about " in printed
    assert "900: float32 tensors not run: takes about 0.016 GB" in printed
    report = (tmp_path / "benchmark-ops.md").read_text()
    assert report.count("| n3match, s |") == 2 and "20² with gradients" in report

    rows = read_csv(tmp_path / "benchmark-ops.csv")
    for form, sizes, count in (("dense", "40 900", 4), ("window", "20 41", 4)):
        for size in sizes.split():
            for run in ("forward", "forward and backward"):
                mine = [r for r in rows if (r["form"], r["size"], r["pass"]) == (form, size, run)]
                assert len(mine) == count
                for row in mine:
                    assert (row["seconds"] == "") == row["note"].startswith("not run")
                    assert row["seconds"] == "" or float(row["seconds"]) > 0
    refused = [row["implementation"] for row in rows if row["note"]]
    assert refused.count("plain formula") == 4
    assert refused.count("float32 tensors") == 2
    assert cv2.imread(str(tmp_path / "benchmark-ops.png")) is not None


def test_one_form_alone_with_memory(tmp_path, capsys, processes):
    arguments = ["ops", "--sizes", "60", "--images", "--repeats", "1"]
    assert benchmark(*arguments, "--out", str(tmp_path)) == 0
    assert "plain, MB | float32, MB" in capsys.readouterr().out
    rows = read_csv(tmp_path / "benchmark-ops.csv")
    assert {row["form"] for row in rows} == {"dense"}
    for row in rows:
        assert (row["peak_bytes"] == "") == (row["implementation"] == PRODUCTS)


def test_training_step_of_both_networks(tmp_path):
    arguments = "training-step --sizes 70 --repeats 1"
    assert benchmark(*arguments.split(), "--out", str(tmp_path)) == 0
    rows = read_csv(tmp_path / "benchmark-training-step.csv")
    assert [row["training step"].split(", ")[1] for row in rows] == ["one pass", "two passes"]
    for row in rows:
        times = [float(row[f"{name}, s"]) for name in ("n3-consensus", "cnnet")]
        assert float(row["n3-consensus / cnnet"]) == pytest.approx(times[0] / times[1], rel=0.02)
        assert 0 < int(row["the operator's share"].removesuffix(" %")) < 100


def test_share_of_the_operator():
    q, k, v = (torch.randn(1, 400, c, requires_grad=True) for c in (8, 8, 64))

    def work():
        ops.n3_aggregate(q, k, v, 4).square().sum().backward()

    assert operator_share(work) > 0.5
    assert operator_share(lambda: torch.randn(50, 50) @ torch.randn(50, 50)) == 0


def test_nothing_to_measure(capsys):
    assert benchmark("ops", "--sizes", "--images") == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_a_pair_from_photographs_to_pose_by_stages(capsys):
    assert benchmark("pair", "--sizes", "500", "--repeats", "1") == 0
    titles, _, row = capsys.readouterr().out.strip().splitlines()[-3:]
    cells = dict(zip(*([c.strip() for c in line.split("|")[1:-1]] for line in (titles, row))))
    stages = sum(float(cells[f"{stage}, s"]) for stage in ("sift", "matching", "filter", "pose"))
    assert cells["keypoints"] == "500"
    assert 0 < stages <= float(cells["n3match, s"]) + 0.01
    ratio = float(cells["n3match, s"]) / float(cells["OpenCV, s"])
    assert float(cells["n3match / OpenCV"]) == pytest.approx(ratio, abs=0.1)


def test_matching_table_compares_the_same_answer(capsys):
    assert benchmark("matching", "--sizes", "60", "--repeats", "1") == 0
    assert "100.00 %" in capsys.readouterr().out


def test_denoising_table_compares_time_and_memory(tmp_path, capsys, processes):
    arguments = "denoise --images 70 --repeats 1"
    assert benchmark(*arguments.split(), "--out", str(tmp_path)) == 0
    assert "| n3net / dncnn-17 |" in capsys.readouterr().out
    (row,) = read_csv(tmp_path / "benchmark-denoise.csv")
    for name in ("n3net", "n3net-fast"):
        times = [float(row[f"{network}, s"]) for network in (name, "dncnn-17")]
        assert float(row[f"{name} / dncnn-17"]) == pytest.approx(times[0] / times[1], rel=0.02)
        assert float(row[f"{name}, MB"]) >= 0


def test_peak_memory_sees_what_a_call_takes():
    small, large = peak_bytes(held_memory.hold, 1), peak_bytes(held_memory.hold, 64)
    assert large - small > 48 << 20
    first, second = peak_bytes_in_turn(held_memory.hold_in_turn, [1, 64])
    assert first < 48 << 20 < second


def test_peak_memory_of_a_process_that_fails():
    with pytest.raises(MemoryError):
        peak_bytes(held_memory.fail, 0)


def test_slow_functions_are_called_less_often():
    now = [0.0]
    calls = {"quick": 0, "slow": 0, "endless": 0}

    def function(name, seconds):
        def run():
            calls[name] += 1
            now[0] += seconds

        return run

    seconds = {"quick": 0.5, "slow": 3.0, "endless": 100.0}
    functions = {name: function(name, value) for name, value in seconds.items()}
    found = seconds_in_turns(functions, repeats=5, budget=10.0, clock=lambda: now[0])
    assert {name: set(values) for name, values in found.items()} == {
        name: {value} for name, value in seconds.items()
    }
    assert calls == {"quick": 6, "slow": 3, "endless": 1}


def flops_of(function):
    def addmm(_, a, b, out_shape=None, **scales):  # shapes; not counted by itself in place
        return 2 * a[0] * a[1] * b[1]

    in_place = {torch.ops.aten.addmm_: addmm}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("gradients", [False, True])
def test_counted_work_is_that_of_the_products(gradients):
    sizes = operator_dense.EMBEDDING, operator_dense.FEATURES, operator_dense.NEIGHBOURS
    work = dense_work(2, 50, *sizes, gradients)
    assert work.flops == flops_of(operator_dense.products(2, 50, gradients))
    # One tile of a window that covers all: every cell meets every cell, of which the operator
    # needs as many as there are patches.
    grid = WindowGrid(30, 25, 10, 5, window=9)
    work = window_work(grid, 3, 4, gradients)
    (n1, n2), depth = grid.shape, 3 * 5**2
    whole = flops_of(window_products(grid, 3, 4, gradients, tile=16))
    assert whole == 2 * ((n1 + 1) * (n2 + 1)) ** 2 * depth * (16 if gradients else 5)
    assert work.flops / whole == n1 * n2 / ((n1 + 1) * (n2 + 1))


def test_floor_is_the_larger_of_arithmetic_and_traffic():
    ceilings = Ceilings(flops_per_second=100.0, bytes_per_second=10.0)
    assert ceilings.floor_seconds(Work(flops=500.0, bytes=20.0)) == 5.0
    assert ceilings.floor_seconds(Work(flops=100.0, bytes=20.0)) == 2.0


def test_table_gives_ratios_and_the_share_of_the_ceiling():
    def row(name, seconds, **other):
        return Measurement("window", 64, False, name, seconds, **other)

    lines = table(
        [
            row(OURS, 0.2, floor_seconds=0.05, peak_bytes=3_000_000),
            row(PRODUCTS, 0.16),
            row(GATHERING, 3.0, peak_bytes=40_000_000),
            row(AUTHORS, None, note="not run: takes about 9 GB"),
        ]
    ).split("\n")
    cells = [cell.strip() for cell in lines[2].strip("| ").split("|")]
    assert cells == ["64²", "0.2", "0.16", "1.25", "3", "15", "—", "—", "25 %", "3", "40", "—"]
    assert lines[-1] == "64²: authors' algorithm not run: takes about 9 GB."


def test_slope_is_the_exponent():
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_limits_refuse_what_is_too_large_or_was_too_slow():
    limits = Limits(baseline_bytes=5e9)
    assert limits.refusal(4e9) == ""
    assert limits.refusal(14.4e9) == "not run: takes about 14 GB"
    before = [Measurement("window", side, True, GATHERING, s) for side, s in ((64, 2.0), (99, 7.0))]
    assert Limits(seconds=8.0).refusal(0.0, before) == ""
    assert Limits(seconds=5.0).refusal(0.0, before) == "not run: took 7 s at 99²"


def test_unknown_part(capsys):
    assert benchmark("everything") == 2
    assert "choose from" in capsys.readouterr().err
