"""Fundamental matrices of images with unknown cameras, and scenes that don't determine one."""

import numpy as np
import pytest
from two_view_scenes import HEIGHT, WIDTH, make_scene

from n3match.geometry import PoseStatus, estimate_fundamental_from_matches

SIZE = (WIDTH, HEIGHT)


def estimate(scene, estimator="opencv_usac", **options):
    return estimate_fundamental_from_matches(
        scene.points0, scene.points1, SIZE, SIZE, estimator=estimator, **options
    )


@pytest.mark.parametrize("estimator", ["opencv_usac", "poselib"])
def test_general_scene(estimator):
    if estimator == "poselib":
        pytest.importorskip("poselib")
    scene = make_scene("general", outliers=200)
    found = estimate(scene, estimator)
    assert found.status is PoseStatus.OK and found.ok
    np.testing.assert_allclose(np.linalg.norm(found.F), 1.0)
    x0, x1 = (np.c_[p, np.ones(len(p))] for p in (scene.points0, scene.points1))
    lines = x0 @ found.F.T
    off = np.abs((lines * x1).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(off[scene.true]) < 0.6  # noise of half a pixel
    assert found.inliers[scene.true].mean() > 0.9
    assert found.inliers[~scene.true].mean() < 0.1
    assert found.homography_support < 0.7
    again = estimate(scene, estimator)
    np.testing.assert_array_equal(found.F, again.F)


@pytest.mark.parametrize(
    "kind, status", [("planar", PoseStatus.DEGENERATE), ("rotation", PoseStatus.NO_PARALLAX)]
)
@pytest.mark.parametrize("outliers", [0, 200])
def test_one_homography_is_no_fundamental_matrix(kind, status, outliers):
    scene = make_scene(kind, outliers=outliers)
    found = estimate(scene)
    assert found.status is status
    assert found.F is None and not found.ok
    assert found.homography_support > 0.95
    moved = np.c_[scene.points0, np.ones(len(scene.points0))] @ found.homography.T
    off = np.linalg.norm(moved[:, :2] / moved[:, 2:] - scene.points1, axis=1)
    assert np.median(off[scene.true]) < 1.0


def test_hopeless_matches():
    rng = np.random.default_rng(0)
    points0, points1 = rng.random((2, 300, 2)) * SIZE
    found = estimate_fundamental_from_matches(
        points0, points1, SIZE, SIZE, estimator="opencv_usac"
    )
    assert found.status in (PoseStatus.INSUFFICIENT_SUPPORT, PoseStatus.ESTIMATION_FAILED)
    assert found.F is None
    few = estimate_fundamental_from_matches(points0[:6], points1[:6], SIZE, SIZE)
    assert few.status is PoseStatus.TOO_FEW_MATCHES and "got 6" in few.detail
    line = np.c_[np.arange(50.0), np.arange(50.0)]
    flat = estimate_fundamental_from_matches(line, points1[:50], SIZE, SIZE)
    assert flat.status is PoseStatus.DEGENERATE


def test_wrong_arguments_are_named():
    points = np.zeros((9, 2))
    for arguments, name in (
        ((points, points[:8], SIZE, SIZE), "points0 and points1"),
        ((points, points, (0, 480), SIZE), "size0"),
        ((points, points, SIZE, (640,)), "size1"),
    ):
        with pytest.raises(ValueError, match=name):
            estimate_fundamental_from_matches(*arguments)
    with pytest.raises(ValueError, match="estimator"):
        estimate_fundamental_from_matches(points, points, SIZE, SIZE, estimator="kornia")
