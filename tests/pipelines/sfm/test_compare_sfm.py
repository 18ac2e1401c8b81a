"""`n3match compare-sfm`: alignment, the table, wrong use."""

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from n3match.pipelines.cli import main
from n3match.pipelines.common.result_rows import write_rows
from n3match.pipelines.sfm.pose_alignment import pose_errors
from n3match.pipelines.sfm.runs import SfmResult, report


def poses(centres, rotations) -> dict:
    return {f"{i}.jpg": (R, -R @ c) for i, (R, c) in enumerate(zip(rotations, centres))}


def transformed(given, scale, A, b, skip=()) -> dict:
    """The same cameras in a world with X_given = s A X + b."""
    found = {}
    for name, (R, t) in given.items():
        centre = A.T @ (-R.T @ t - b) / scale
        if name not in skip:
            found[name] = (R @ A, -R @ A @ centre)
    return found


@pytest.mark.parametrize("on_a_line", [False, True])
def test_a_similarity_is_no_error_and_a_moved_camera_is(on_a_line):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 3)) * ([10, 0, 0] if on_a_line else [10, 5, 2])
    given = poses(centres, Rotation.random(8, random_state=1).as_matrix())
    A = Rotation.random(random_state=2).as_matrix()
    found = transformed(given, 0.37, A, np.array([3.0, -8, 1]), skip={"3.jpg"})
    errors = pose_errors(found, given)
    assert len(errors.rotation) == 7
    np.testing.assert_allclose(errors.rotation, 0, atol=1e-4)
    np.testing.assert_allclose(errors.position, 0, atol=1e-9)
    R, t = found["5.jpg"]
    turn = Rotation.from_euler("y", 6, degrees=True).as_matrix()
    found["5.jpg"] = turn @ R, turn @ t
    errors = pose_errors(found, given)
    assert errors.rotation.argmax() == 4 and 4 < errors.rotation[4] < 6.5
    assert np.median(errors.rotation) < 1.5


def test_two_cameras_have_no_error():
    given = poses(np.eye(3), [np.eye(3)] * 3)
    assert pose_errors({name: given[name] for name in ("0.jpg", "1.jpg")}, given) is None


def result(method, seed, points, rotation) -> SfmResult:
    return SfmResult(
        "town", method, seed, 9, 8, points, 0.51, rotation, 1.25, 4000, 2.0, 3.25, 4.5
    )


def test_table_shows_means_over_seeds_and_csv_every_run(tmp_path):
    results = [
        result("ratio", 0, 100, 0.5), result("ratio", 1, 300, 1.5),
        result("sift", 0, 150, float("nan")),
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in
             report(results).splitlines()]
    assert len(lines) == 4
    assert lines[2][:7] == ["town", "ratio", "8 of 9", "200", "0.51", "1.00", "1.25"]
    assert lines[3][5] == "—"
    write_rows(tmp_path / "results.csv", SfmResult, results)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[0].startswith("scene,method,seed") and len(rows) == 4


def test_wrong_use_is_told(tmp_path, capsys, shared_data):
    def line(*argv):
        assert main(["compare-sfm", *map(str, argv)]) == 2
        return capsys.readouterr().err

    scenes = shared_data / "scenes" / "dev"
    assert "absent" in line(tmp_path / "absent")
    assert "no scene in it" in line(tmp_path)
    assert "nowhere" in line(scenes, "--only", "nowhere", "--methods", "ratio")
    assert "no-such-weights" in line(scenes, "--methods", "no-such-weights+verify")
    assert "--seeds must be at least 1" in line(scenes, "--seeds", "0")


def test_without_pycolmap_it_says_what_to_install(monkeypatch, capsys, shared_data):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    scenes = shared_data / "scenes" / "dev"
    assert main(["compare-sfm", str(scenes), "--only", "chalmers7", "--methods", "ratio"]) == 2
    assert 'pip install "n3match[colmap]"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_shared_scene_is_reconstructed_either_way(tmp_path, shared_data, capsys):
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    scenes = shared_data / "scenes" / "dev"
    argv = ["compare-sfm", str(scenes), "--only", "chalmers7", "--max-keypoints", "600"]
    assert main([*argv, "--methods", "ratio", "sift", "sift+verify", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    rows = (tmp_path / "results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["ratio", "sift", "sift+verify"]
    for row in rows:
        registered, rotation = int(row.split(",")[4]), float(row.split(",")[7])
        assert registered >= 5 and rotation < 2
