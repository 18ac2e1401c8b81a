"""`n3match match` end to end, and files that are written whole."""

import csv
import json
import os

import h5py
import numpy as np
import pytest
import torch
from demo_photos import CAMERAS, PAIR, PHOTO0, PHOTO1, R, T, blank, run_command

from n3match.files.whole import whole_file
from n3match.geometry import essential_from_pose, sampson_distance, undistort_points
from n3match.pipelines.cli import main

FEW = ["--max-keypoints", "700"]


def read_csv(path) -> tuple[list[str], np.ndarray]:
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, np.array(rows, dtype=float).reshape(-1, 5)


def share_right(points0, points1) -> float:
    """Share of matches within 3 px of their epipolar line under the known pose."""
    K, distortion = np.array(PAIR["images"][0]["K"]), np.array(PAIR["images"][0]["distortion"])
    x0, x1 = (torch.from_numpy(undistort_points(p, K, distortion)) for p in (points0, points1))
    E = essential_from_pose(torch.from_numpy(R), torch.from_numpy(T))
    return float((sampson_distance(x0, x1, E).sqrt() * K[0, 0] < 3).double().mean())


def test_command_writes_the_same_matches_as_csv_and_hdf5(tmp_path, capsys):
    done = run_command(
        "match", PHOTO0, PHOTO1, *CAMERAS, *FEW, "-o", "m.csv", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "written    m.csv" in done.stdout
    header, rows = read_csv(tmp_path / "m.csv")
    assert header == ["x0", "y0", "x1", "y1", "probability"]
    assert len(rows) >= 20
    assert (rows[:, 4] > 0.5).all() and (rows[:, 4] <= 1).all()

    path = tmp_path / "m.h5"
    assert main(["match", str(PHOTO0), str(PHOTO1), *CAMERAS, *FEW, "--out", str(path)]) == 0
    assert f"{len(rows)} kept" in capsys.readouterr().out
    with h5py.File(path) as file:
        np.testing.assert_allclose(file["points0"][:], rows[:, :2], atol=1e-4)
        np.testing.assert_allclose(file["points1"][:], rows[:, 2:4], atol=1e-4)
        np.testing.assert_allclose(file["probability"][:], rows[:, 4], atol=1e-4)
        for i, photo in enumerate((PHOTO0, PHOTO1)):
            keypoints, index = file[f"keypoints{i}"][:], file[f"index{i}"][:]
            np.testing.assert_array_equal(keypoints[index], file[f"points{i}"][:])
            assert file.attrs[f"image{i}"] == str(photo)
            assert tuple(file.attrs[f"size{i}"]) == (768, 1024)
            np.testing.assert_allclose(file.attrs[f"K{i}"], PAIR["images"][i]["K"], rtol=1e-6)
            assert file.attrs[f"intrinsics{i}"] == "given"
        assert file.attrs["format"] == "n3match-matches-2"
        assert file.attrs["filter"] == "sift"
        assert file.attrs["num_putative"] == len(file["keypoints0"])
    assert sorted(os.listdir(tmp_path)) == ["m.csv", "m.h5"]


def test_json_for_programs(tmp_path):
    done = run_command(
        "match", PHOTO0, PHOTO1, *CAMERAS, *FEW, "-o", "m.csv", "--json", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    _, rows = read_csv(tmp_path / "m.csv")
    assert result["matches"]["kept"] == len(rows) < result["matches"]["found"]
    assert (result["written"], result["picture"], result["filter"]) == ("m.csv", None, "sift")
    assert 0.5 < result["pair_probability"] < 1
    assert set(result["seconds"]) >= {"read", "sift", "matching", "filter"}
    for i, image in enumerate(result["images"]):
        assert (image["width"], image["height"]) == (768, 1024)
        assert image["intrinsics"] == "given" and image["turned"] is False
        np.testing.assert_allclose(image["K"], PAIR["images"][i]["K"], rtol=1e-6)


def test_filter_keeps_a_larger_share_of_right_matches(tmp_path):
    shares = {}
    for filter in ("sift", "none"):
        path = tmp_path / f"{filter}.csv"
        argv = [str(PHOTO0), str(PHOTO1), *CAMERAS, "--max-keypoints", "1500", "--filter", filter]
        assert main(["match", *argv, "-o", str(path)]) == 0
        _, rows = read_csv(path)
        shares[filter] = share_right(rows[:, :2], rows[:, 2:4])
        if filter == "none":
            assert len(rows) > 1400
            assert (rows[:, 4] == 1).all()
    assert shares["sift"] > 1.5 * shares["none"]


def test_reduced_photographs_give_points_in_the_files_pixels(tmp_path):
    argv = ["match", str(PHOTO0), str(PHOTO1), *CAMERAS, "--max-size", "700"]
    assert main([*argv, "-o", str(tmp_path / "m.csv")]) == 0
    _, rows = read_csv(tmp_path / "m.csv")
    assert rows[:, [0, 2]].max() > 700 and rows[:, [1, 3]].max() > 900
    assert share_right(rows[:, :2], rows[:, 2:4]) > 0.1


@pytest.mark.parametrize("name", ["m.csv", "m.h5", "m.HDF5"])
def test_blank_photographs_give_a_file_without_matches(tmp_path, name):
    photo = str(blank(tmp_path / "blank.png"))
    assert main(["match", photo, photo, "-o", str(tmp_path / name)]) == 0
    if name == "m.csv":
        assert len(read_csv(tmp_path / name)[1]) == 0
    else:
        with h5py.File(tmp_path / name) as file:
            assert file["points0"].shape == file["points1"].shape == (0, 2)
            assert file["probability"].shape == file["index0"].shape == (0,)
            assert file.attrs["intrinsics0"] == "assumed"


def test_plot_of_matches(tmp_path):
    photo = str(blank(tmp_path / "blank.png"))
    assert main(["match", photo, photo, "-o", str(tmp_path / "m.csv"), "--plot",
                 str(tmp_path / "m.png")]) == 0
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "matches.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("power cut")
    assert path.read_text() == "old"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["matches.csv"]
