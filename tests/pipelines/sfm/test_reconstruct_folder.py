"""`n3match reconstruct`: a folder of photographs to poses, a picture and a summary."""

import json
import os
import sys

import numpy as np
import pytest
from killed import die_before, run_until_killed
from relief import poses, write_photographs
from scipy.spatial.transform import Rotation

from n3match.pipelines.cli import main
from n3match.pipelines.common.plots.reconstruction import draw_reconstruction, upright_axes
from n3match.pipelines.sfm import folder_model
from n3match.pipelines.sfm.pose_alignment import pose_errors
from n3match.plugins.colmap.model import read_colmap_model

COUNT = 6


def run(*argv) -> int:
    argv = [*map(str, argv), "--max-keypoints", "500", "--threads", "1", "--device", "cpu"]
    return main(["reconstruct", *argv, "--one-camera"])


def model_of(out) -> dict:
    model = read_colmap_model(out / "sparse")
    return {image.name: (image.R, image.t) for image in model.images.values()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    out = tmp_path_factory.mktemp("made") / "out"
    assert run(folder, out) == 0
    return out


def test_every_camera_is_where_it_was(made):
    known = {f"5-{i}.png": pose for i, pose in enumerate(poses(COUNT))}
    errors = pose_errors(model_of(made), known)
    assert len(errors.rotation) == COUNT
    assert np.median(errors.rotation) < 1 and np.median(errors.position) < 0.03
    assert sorted(os.listdir(made)) == [
        "database.db", "reconstruction.png", "sparse", "summary.json"
    ]
    assert (made / "reconstruction.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((made / "summary.json").read_text())
    assert summary["registered"] == summary["photographs"] == COUNT
    assert summary["without_pose"] == summary["problems"] == []
    assert summary["left_out"] == []
    assert summary["guessed_focal_lengths"] == COUNT and summary["pairs"] == 15
    assert summary["points"] > 100 and 0 < summary["reprojection_error_px"] < 1
    assert all(abs(f / 480 - 1) < 0.1 for f in summary["focal_lengths_px"].values())


@pytest.mark.parametrize("where", ["_map", "_summary", "write_whole"])
def test_goes_on_after_sigkill_and_gives_the_same(folder, made, tmp_path, where):
    out = tmp_path / "out"
    run_until_killed(lambda: run(folder, out), die_before(folder_model, where))
    assert run(folder, out) == 0
    assert sorted(os.listdir(out)) == sorted(os.listdir(made))
    found, wanted = model_of(out), model_of(made)
    assert found.keys() == wanted.keys()
    for name, (R, t) in wanted.items():
        np.testing.assert_allclose(found[name][0], R, atol=1e-9)
        np.testing.assert_allclose(found[name][1], t, atol=1e-9)


def test_a_finished_one_is_told_again_and_another_made_anew(folder, made, capsys, monkeypatch):
    before = (made / "sparse" / "images.bin").stat().st_mtime_ns
    assert run(folder, made) == 0
    out = capsys.readouterr().out
    assert "done before" in out and f"{COUNT} of {COUNT} photographs" in out
    assert (made / "sparse" / "images.bin").stat().st_mtime_ns == before
    monkeypatch.setattr(folder_model, "map_largest", lambda *_, **__: None)
    assert run(folder, made, "--sequential", "2") == 1
    assert "model      none" in capsys.readouterr().out
    assert json.loads((made / "summary.json").read_text())["registered"] == 0


def test_wrong_use_is_told(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "out") == 2
    assert "found 0 photographs, wanted 3 or more" in capsys.readouterr().err
    assert run(folder, folder / "out") == 2
    assert "lies in" in capsys.readouterr().err and not (folder / "out").exists()
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert run(folder, tmp_path / "out") == 2
    assert 'pip install "n3match[colmap]"' in capsys.readouterr().err


def test_from_above_is_along_what_the_cameras_call_up(tmp_path):
    turn = Rotation.random(random_state=3).as_matrix()
    angles = np.linspace(0, 5, 9)
    R = np.array([Rotation.from_euler("y", a).as_matrix() for a in angles]) @ turn.T
    centres = np.stack([4 * np.cos(angles), 0 * angles, 2 * np.sin(angles)], 1) @ turn.T
    axes = upright_axes(R, centres)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(axes[1], turn @ [0, -1, 0], atol=1e-9)
    none = np.zeros((0, 3))
    draw_reconstruction(tmp_path / "p.png", none, none.astype(np.uint8), R[:1], centres[:1])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
