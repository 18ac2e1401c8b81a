"""`n3match evaluate-pose-noise`: the same noise for all, what is kept, what is used again."""

import csv
import zlib

import cv2
import numpy as np
import pytest
from tiny_denoisers import blurring_weights, random_weights
from toy_scene import write_scene

from n3match.datasets.images import read_image_gray
from n3match.pipelines.cli import main
from n3match.pipelines.denoising.evaluation_noise import noisy_image
from n3match.pipelines.evaluation import noise_evaluation


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scene(folder / "toy", 3)
    return folder


@pytest.fixture(scope="module")
def blur(tmp_path_factory):
    return blurring_weights(tmp_path_factory.mktemp("weights") / "blur.safetensors")


def run(scenes, *arguments):
    options = ["--pairs", 2, "--max-keypoints", 150, "--filter", "mutual-ratio"]
    return main(["evaluate-pose-noise", *map(str, (scenes, *options, *arguments))])


def rows(out):
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_for_each_pair_noise_and_method(scenes, blur, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--sigma", 10, 40, "--methods", "noisy", "cv2-nlm", "--weights", blur)
    assert run(scenes, *arguments, "--out", out) == 0
    printed = capsys.readouterr().out
    assert printed == (out / "table.md").read_text()
    found = rows(out)
    assert len(found) == 2 * (1 + 2 * 3)
    pairs = {(row["name0"], row["name1"]) for row in found}
    assert len(pairs) == 2
    assert {(float(r["sigma"]), r["method"]) for r in found} == {
        (0, "noisy"), *((s, m) for s in (10, 40) for m in ("noisy", "cv2-nlm", "blur"))
    }
    for row in found:
        assert int(row["kept_right"]) <= int(row["kept"]) <= int(row["matches"]) <= 150
        assert int(row["inliers"]) <= int(row["kept"])
        assert (row["status"] == "ok") == (float(row["error_deg"]) < 180)

    def right(sigma, method):
        return np.mean([
            int(r["kept_right"]) for r in found
            if (float(r["sigma"]), r["method"]) == (sigma, method)
        ])

    # Noise costs matches; the network that blurs brings some back.
    assert right(0, "noisy") > right(10, "noisy") > right(40, "noisy")
    assert right(40, "blur") > right(40, "noisy")
    for cell in ("no noise", "cv2-nlm", "mAP@5", "inliers"):
        assert cell in printed
    # 2 methods that take time × 2 levels × the photographs of the pairs.
    views = {name for pair in pairs for name in pair}
    assert len(list((out / "images").iterdir())) == 2 * 2 * len(views)


def test_differences_are_on_the_same_pairs(scenes, blur, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--sigma", 30, "--methods", "noisy", "cv2-nlm", "--weights", blur)
    assert run(scenes, *arguments, "--against", "noisy", "blur", "--out", out) == 0
    printed = capsys.readouterr().out
    of = {
        (row["method"], (row["name0"], row["name1"])): row
        for row in rows(out) if float(row["sigma"])
    }
    pairs = sorted({pair for _, pair in of})
    for other, methods in (("noisy", ("cv2-nlm", "blur")), ("blur", ("noisy", "cv2-nlm"))):
        table = printed.split(f"Less those of {other} on")[1].split("Less those")[0]
        lines = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
        lines = {line[2]: line[3:5] for line in lines if len(line) > 4}
        for method in methods:
            found = [float(cell.split("[")[0]) for cell in lines[method]]
            own, theirs = ([of[name, pair] for pair in pairs] for name in (method, other))
            solved = [100.0 * (float(row["error_deg"]) < 5) for row in own + theirs]
            inliers = [int(row["inliers"]) for row in own + theirs]
            wanted = [np.subtract(*np.reshape(x, (2, -1))).mean() for x in (solved, inliers)]
            assert found == pytest.approx(wanted, abs=0.051)
        assert other not in lines


def test_images_are_the_noisy_ones_denoised(scenes, blur, tmp_path):
    out = tmp_path / "out"
    arguments = ("--sigma", 20, "--methods", "cv2-nlm", "--max-size", 120, "--out", out)
    assert run(scenes, *arguments) == 0
    (path,) = (out / "images").glob("toy-0-20-cv2-nlm-*.png")
    clean = read_image_gray(scenes / "toy" / "images" / "0.png")
    clean = cv2.resize(clean, (120, 90), interpolation=cv2.INTER_AREA).astype(np.float32)
    noisy = noisy_image(clean / np.float32(255), 20, zlib.crc32(b"toy/0.png"))
    noisy = np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)
    assert np.array_equal(read_image_gray(path), cv2.fastNlMeansDenoising(noisy, None, 20))


def test_a_stopped_run_goes_on_and_costs_only_what_is_missing(
    scenes, blur, tmp_path, monkeypatch, capsys
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = ("--sigma", 30, "--methods", "noisy", "cv2-nlm")
    assert run(scenes, *arguments, "--out", whole) == 0
    wanted = capsys.readouterr().out
    real, calls = noise_evaluation.features_of, []

    def counts(*given):
        calls.append(given)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(noise_evaluation, "features_of", counts)
    stop = 6
    assert run(scenes, *arguments, "--out", cut) == 130
    done = len(rows(cut))
    assert 0 < done < len(rows(whole))
    stop = 0
    calls.clear()
    assert run(scenes, *arguments, "--out", cut) == 0
    assert capsys.readouterr().out == wanted
    assert rows(cut) == rows(whole)
    assert 0 < len(calls) <= 6
    calls.clear()
    assert run(scenes, *arguments, "--out", cut) == 0
    assert not calls
    # Another filter: other rows, from the images that are there.
    stamps = {p: p.stat().st_mtime_ns for p in (cut / "images").iterdir()}
    assert run(scenes, *arguments, "--out", cut, "--filter", "ratio") == 0
    assert calls
    assert {p: p.stat().st_mtime_ns for p in (cut / "images").iterdir()} == stamps
    assert {r["settings"] for r in rows(cut)}.isdisjoint(r["settings"] for r in rows(whole))


def test_networks_are_left_out_where_the_noise_is_another(scenes, tmp_path, capsys):
    weights = random_weights(tmp_path / "n25.safetensors", sigma=(25, 25))
    arguments = ("--sigma", 25, 50, "--methods", "--weights", weights, "--out", tmp_path / "out")
    assert run(scenes, *arguments) == 0
    assert "n25 is not for noise of σ 50." in capsys.readouterr().out
    assert {(float(r["sigma"]), r["method"]) for r in rows(tmp_path / "out")} == {
        (0, "noisy"), (25, "n25")
    }


def test_errors_are_one_line(scenes, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.csv").write_text("a,b\n")
    raw = random_weights(tmp_path / "raw.safetensors", maps=("a", "b"))
    for arguments, word in (
        ([tmp_path], "no scene"),
        ([scenes, "--sigma", "0"], "sigma"),
        ([scenes, "--weights", "absent"], "absent"),
        ([scenes, "--weights", "sift"], "not a denoising network"),
        ([scenes, "--methods"], "methods"),
        ([scenes, "--filter", "nothing"], "filters"),
        ([scenes, "--pairs", "0"], "--pairs"),
        ([scenes, "--methods", "noisy", "--against", "blur"], "--against: found blur"),
        ([scenes, "--methods", "noisy", "--out", tmp_path / "other"], "not results of"),
        ([scenes, "--methods", "--weights", raw, "--sigma", "25"], "none of the methods"),
    ):
        assert main(["evaluate-pose-noise", *map(str, arguments)]) == 2
        err = capsys.readouterr().err
        assert word in err and err.count("\n") == 1
