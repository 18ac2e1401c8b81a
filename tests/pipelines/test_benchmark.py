"""The benchmark command runs and reports what it says; its numbers are not asserted."""

import csv

import pytest

from n3match.pipelines import benchmark
from n3match.pipelines.benchmarks.measure import peak_bytes


def test_operator_table(tmp_path, capsys):
    arguments = ["ops", "--sizes", "40", "--batch", "1", "--repeats", "1", "--memory-size", "50"]
    assert benchmark.main([*arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "tiled / products" in printed
    with (tmp_path / "benchmark-ops.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["operator"] for row in rows] == [
        "B=1 N=40", "B=1 N=40 with gradients", "B=1 N=50 with gradients",
    ]
    assert all(float(row["tiled, s"]) > 0 for row in rows[:2])


def test_matching_table_compares_the_same_answer(capsys):
    assert benchmark.main(["matching", "--sizes", "60", "--repeats", "1"]) == 0
    assert "100.00 %" in capsys.readouterr().out


def _hold(megabytes):
    return lambda: bytearray(b"\x01" * (megabytes << 20))


def test_peak_memory_sees_what_a_call_takes():
    small, large = peak_bytes(_hold, 1), peak_bytes(_hold, 64)
    assert large - small > 48 << 20


def test_unknown_part(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["everything"])
    assert "choose from" in capsys.readouterr().err
