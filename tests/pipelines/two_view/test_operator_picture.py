"""The picture of soft neighbours turning hard: its points, its weights, its file."""

import os

import cv2
import numpy as np
import pytest
from demo_photos import run_command

from n3match.pipelines.common.plots.operator import (
    NEIGHBOURS,
    POINTS,
    TEMPERATURES,
    draw_operator,
    make_scene,
    weights_at,
    what_to_see,
)


@pytest.mark.parametrize("seed", range(5))
def test_every_seed_goes_from_uniform_to_hard(seed):
    scene = make_scene(seed)
    assert scene.points.shape == (POINTS, 2)
    np.testing.assert_allclose(scene.distances, (scene.points**2).sum(1))
    assert (np.diff(scene.distances) >= 0).all()
    weights = weights_at(scene.distances, TEMPERATURES, "poster")
    assert weights.shape == (len(TEMPERATURES), POINTS, NEIGHBOURS)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[0], 1 / POINTS, atol=0.04)
    np.testing.assert_allclose(weights[-1][:NEIGHBOURS], np.eye(NEIGHBOURS), atol=0.01)


def test_what_is_said_of_the_released_recursion_holds():
    near = make_scene(0).distances[:NEIGHBOURS]
    first, second = np.diff(near)
    w = weights_at(near, [first / 40, first / 740, min(first, second) / 750], "released")
    for k in (1, 2):
        np.testing.assert_allclose(w[:2, :, k], [[0.5, 0.5, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(w[2], np.eye(NEIGHBOURS), atol=1e-9)


def test_weights_come_from_the_definition():
    d, t = np.array([0.3, 0.7, 1.1]), 0.5
    w1 = np.exp(-d / t) / np.exp(-d / t).sum()
    a2 = -d / t + np.log(1 - w1) / t
    w = weights_at(d, [t], "poster")[0]
    np.testing.assert_allclose(w[:, 0], w1)
    np.testing.assert_allclose(w[:, 1], np.exp(a2) / np.exp(a2).sum())


def test_the_picture_is_the_same_for_the_same_seed(tmp_path):
    pictures = []
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        draw_operator(tmp_path / name, seed)
        pictures.append(cv2.imread(str(tmp_path / name)))
    assert pictures[0].shape[1] == 1600
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()


def test_lines_give_the_shares_of_the_scene():
    lines = what_to_see(make_scene(0))
    assert max(map(len, lines)) <= 90
    assert "the hard nearest neighbours, in order: 100 %, 100 %, 100 %" in "\n".join(lines)


def test_command(tmp_path):
    done = run_command("demo", "--operator", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the hard nearest neighbours, in order" in done.stdout
    assert 'recursion="poster"' in done.stdout
    assert done.stdout.endswith("picture    n3match-operator.png\n")
    assert os.listdir(tmp_path) == ["n3match-operator.png"]
    assert cv2.imread(str(tmp_path / "n3match-operator.png")).shape[1] == 1600


def test_command_takes_another_name_and_refuses_a_wrong_one(tmp_path):
    assert run_command("demo", "--operator", "--out", "x.png", cwd=tmp_path).returncode == 0
    done = run_command("demo", "--operator", "--out", "x.jpg", cwd=tmp_path)
    assert done.returncode == 2 and "ends in .png" in done.stderr
    assert os.listdir(tmp_path) == ["x.png"]
