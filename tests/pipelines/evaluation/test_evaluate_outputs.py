"""What evaluate-pose writes beside its rows: figures, seconds by stage, shares of processes."""

import os
from dataclasses import replace

import cv2
import numpy as np
import prepared
import pytest
from toy_pairs import make_record, parse, run, table_rows, timeless, write_store
from toy_scene import write_scene

from n3match.pipelines import cli
from n3match.pipelines.common.result_rows import read_rows, write_rows
from n3match.pipelines.evaluation import evaluate_pose
from n3match.pipelines.evaluation.figures import (
    binned_means,
    plot_worst_pairs,
    recall_curve,
    worst_pairs,
)
from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.records import PoseResult


def picture(path):
    image = cv2.imread(str(path))
    assert image is not None
    return image


def count_colour(image, rgb):
    return int((np.abs(image.astype(int) - np.array(rgb[::-1])).max(2) < 40).sum())


def test_recall_curve_of_known_errors():
    x, y = recall_curve([3.0, 1.0, 180.0, 25.0, 3.0])
    assert x.tolist() == [0, 1, 3, 3, 20]
    assert y.tolist() == [0, 0.2, 0.6, 0.6, 0.6]


def test_means_over_groups_of_equal_number():
    x = np.array([5.0, 1, 3, 4, 2, 6])
    means = binned_means(x, 10 * x, bins=3)
    assert means[0].tolist() == [1.5, 3.5, 5.5]
    assert means[1].tolist() == [15, 35, 55]
    assert binned_means(np.array([2.0]), np.array([7.0]))[1].tolist() == [7.0]


def test_worst_pairs_come_first(tmp_path):
    turned = (5.0, 0.0, 90.0, 40.0)
    records = [make_record(true=40, turned_deg=d, name=str(i)) for i, d in enumerate(turned)]
    store = write_store(tmp_path / "s.h5", records)
    results = run(store, ["none", "mutual"], ["eight_point", "opencv_usac"])
    assert worst_pairs(results, "mutual", 3) == [("s.h5", 2), ("s.h5", 3), ("s.h5", 0)]


def test_pictures_show_right_and_wrong_matches(tmp_path):
    record = replace(make_record(true=40, false=30), size0=(1280, 960))
    store = write_store(tmp_path / "s.h5", [record])
    results = run(store, ["none", "ratio"], ["eight_point"])
    photos = tmp_path / "scenes" / "toy" / "images"
    photos.mkdir(parents=True)
    # Only image 0 is there: image 1 is drawn on grey.
    cv2.imwrite(str(photos / "0a.png"), np.full((960, 1280, 3), (200, 40, 40), np.uint8))
    os.rename(photos / "0a.png", photos / "0a")
    found = {}
    for label in ("none", "ratio"):
        (tmp_path / label).mkdir()
        stale = tmp_path / label / "07-old.png"
        stale.write_bytes(b"")
        (path,) = plot_worst_pairs(
            tmp_path / label, results, FilterSource.parse(label), [store], [tmp_path / "scenes"], 3
        )
        assert path.name == "01-toy-0a-0b.png"
        assert not stale.exists()
        image = picture(path)
        left, right = np.array_split(image[100:], 2, axis=1)
        assert np.median(left[..., 0]) > np.median(left[..., 2]) + 30  # blue, as the photograph
        assert np.ptp(np.median(right, axis=(0, 1))) < 5  # grey
        found[label] = [count_colour(image, c) for c in ((0x57, 0xD9, 0x68), (0xFF, 0x5A, 0x4F))]
    green, red = found["none"]
    assert green > 100
    assert red > 100
    # The ratio test keeps 10 of the 30 wrong matches.
    assert found["ratio"][1] < red


def test_command_writes_figures_and_seconds(tmp_path, capsys):
    records = [make_record(true=60, false=30 * i, seed=i, name=str(i)) for i in range(3)]
    store, out = write_store(tmp_path / "s.h5", records), tmp_path / "out"
    arguments = (
        store, "--filters", "none", "mutual-ratio", "--estimators", "opencv_ransac", "eight_point",
        "--out", out, "--workers", 1, "--worst", 2,
    )  # fmt: skip
    assert evaluate_pose.main(parse(*arguments)) == 0
    report = capsys.readouterr().out
    figures = out / "figures"
    assert picture(figures / "recall.png").shape[1] > picture(figures / "precision.png").shape[1]
    assert len(list((figures / "worst").iterdir())) == 2
    rows = table_rows(report)
    seconds = rows["Median seconds of a pair by stage (one thread):", "mutual-ratio"]
    assert len(seconds) == 4  # no photographs: read pair, run filter, two estimators
    assert all(float(cell) >= 0 for cell in seconds)
    median = np.median(
        [r.estimator_ms for r in read_rows(out / "results.csv", PoseResult)
         if (r.filter, r.estimator) == ("mutual-ratio", "eight_point")]
    )  # fmt: skip
    assert float(seconds[-1]) == pytest.approx(median / 1000, abs=6e-4)
    assert evaluate_pose.main(parse(*arguments, "--worst", 0)) == 0
    assert capsys.readouterr().out == report


def test_several_budgets_in_one_run(tmp_path, capsys):
    scenes = tmp_path / "scenes"
    write_scene(scenes / "toy", 3)
    out = tmp_path / "out"
    arguments = parse(
        scenes, "--filters", "mutual-ratio", "--estimators", "opencv_usac", "--out", out,
        "--keypoints", 40, 60, "--limit", 2, "--workers", 1, "--worst", 1,
    )  # fmt: skip
    assert evaluate_pose.main(arguments) == 0
    report = capsys.readouterr().out
    few, many = report.split("## ")[1:]
    assert few.startswith("40 keypoints per image\n\n2 pairs of 1 scene, 40 putative")
    assert many.startswith("60 keypoints per image\n\n2 pairs of 1 scene, 60 putative")
    assert "| features | matching | read pair |" in " ".join(few.split())
    assert {r.store for r in read_rows(out / "results.csv", PoseResult)} == {
        "scenes-40.h5", "scenes-60.h5"
    }
    # A photograph, not grey: the pictures of the scenes are found.
    (path,) = (out / "figures" / "60" / "worst").iterdir()
    assert picture(path)[200:].std() > 10
    made = (out / "figures" / "40" / "stage-times.json").stat().st_mtime_ns
    assert evaluate_pose.main(arguments) == 0
    assert capsys.readouterr().out == report
    assert (out / "figures" / "40" / "stage-times.json").stat().st_mtime_ns == made


def test_budgets_need_scenes(tmp_path):
    store = write_store(tmp_path / "s.h5", [make_record(true=20)])
    with pytest.raises(ValueError, match=r"--keypoints: several numbers need sources .*s\.h5"):
        evaluate_pose.main(parse(store, "--keypoints", 100, 200))
    with pytest.raises(ValueError, match="--keypoints must be at least 1, got 0"):
        evaluate_pose.main(parse(store, "--keypoints", 0))


def test_processes_share_the_pairs(tmp_path):
    records = [make_record(true=60, false=30, seed=i, name=str(i)) for i in range(5)]
    store = write_store(tmp_path / "s.h5", records)
    options = ["--filters", "none", "ratio", "--estimators", "opencv_ransac", "--worst", "0"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    evaluate_pose.main(parse(store, *options, "--out", alone, "--workers", 1))
    # What a job that was stopped left behind: the first two pairs, in a file of a process.
    left = [r for r in read_rows(alone / "results.csv", PoseResult) if r.pair < 2]
    shared.mkdir()
    write_rows(shared / "results.1.csv", PoseResult, [replace(r, filter_ms=1e6) for r in left])
    outputs = [tmp_path / f"output-{rank}" for rank in range(2)]
    command = ["evaluate-pose", str(store), *options, "--out", str(shared)]
    prepared.finish(prepared.start_ranks(cli.main, command, count=2, outputs=outputs))
    assert outputs[0].read_text() == (shared / "table.md").read_text()
    assert outputs[1].read_text() == ""
    assert sorted(p.name for p in shared.iterdir()) == ["figures", "results.csv", "table.md"]

    rows = read_rows(shared / "results.csv", PoseResult)
    assert [timeless(r) for r in rows] == [
        timeless(r) for r in read_rows(alone / "results.csv", PoseResult)
    ]
    assert [r.filter_ms == 1e6 for r in rows] == [r.pair < 2 for r in rows]
