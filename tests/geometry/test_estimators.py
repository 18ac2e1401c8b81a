"""Every estimator on toy scenes with known pose."""

import logging

import numpy as np
import pytest
import torch
from two_view_scenes import K_A, make_scene, random_matches

from n3match.geometry import (
    PoseStatus,
    essential_from_pose,
    estimate_relative_pose_from_matches,
    pose_error_deg,
    rotation_error_deg,
)
from n3match.geometry.estimators import ESTIMATORS, choose_estimator

pytestmark = pytest.mark.arithmetic

SAMPLING = ["opencv_ransac", "opencv_usac", "kornia"]
try:
    import poselib  # noqa: F401

    SAMPLING.append("poselib")
except ImportError:
    pass


def _estimate(scene, estimator, **options):
    # RANSAC keeps the best of its samples unrefined: give it a few more than OpenCV's default.
    if estimator == "opencv_ransac":
        options.setdefault("max_iterations", 5000)
    return estimate_relative_pose_from_matches(
        scene.points0, scene.points1, **scene.cameras, estimator=estimator, **options
    )


def _check_pose(result, scene, rotation_limit, translation_limit):
    assert result.status is PoseStatus.OK, result.detail
    assert result.ok
    assert result.R.dtype == result.t.dtype == result.E.dtype == np.float64
    np.testing.assert_allclose(result.R @ result.R.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(result.R) == pytest.approx(1.0)
    assert np.linalg.norm(result.t) == pytest.approx(1.0)
    expected_E = essential_from_pose(torch.tensor(result.R), torch.tensor(result.t))
    np.testing.assert_allclose(result.E, expected_E.numpy())
    assert rotation_error_deg(result.R, scene.R) < rotation_limit
    # With the sign: cheirality tells t from −t.
    assert np.degrees(np.arccos(np.clip(result.t @ scene.t, -1, 1))) < translation_limit


@pytest.mark.parametrize("two_cameras", [False, True])
@pytest.mark.parametrize("kind", ["general", "forward"])
@pytest.mark.parametrize("estimator", SAMPLING)
def test_pose_among_outliers(estimator, kind, two_cameras):
    scene = make_scene(kind, count=300, outliers=200, seed=1, two_cameras=two_cameras)
    result = _estimate(scene, estimator)
    _check_pose(result, scene, 1.0, 4.0)
    assert result.estimator == estimator
    assert result.inliers.shape == scene.true.shape
    assert result.inliers.dtype == bool
    assert result.num_inliers == result.inliers.sum()
    assert np.mean(scene.true[result.inliers]) > 0.95
    assert np.mean(result.inliers[scene.true]) > 0.7
    assert result.homography_support < 0.9
    assert result.log10_false_alarms < -50


@pytest.mark.parametrize("estimator", [*SAMPLING, "eight_point"])
def test_exact_matches_give_the_exact_pose(estimator):
    scene = make_scene("general", count=120, noise=0.0, two_cameras=True)
    _check_pose(_estimate(scene, estimator), scene, 1e-3, 1e-2)


@pytest.mark.parametrize("estimator", SAMPLING)
def test_a_plane_is_no_failure_but_reported(estimator):
    scene = make_scene("planar", noise=0.3, outliers=100, seed=2)
    result = _estimate(scene, estimator)
    _check_pose(result, scene, 2.0, 6.0)
    assert result.homography_support > 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("estimator", SAMPLING)
def test_a_plane_with_two_explanations_is_never_a_wrong_pose(estimator, seed):
    scene = make_scene("forward_planar", noise=0.2, seed=seed)
    result = _estimate(scene, estimator, seed=seed)
    if result.ok:
        _check_pose(result, scene, 3.0, 10.0)
    else:
        assert result.status is PoseStatus.DEGENERATE
        assert "plane" in result.detail
        assert result.R is result.t is result.E is None
        assert result.homography_support > 0.9


@pytest.mark.parametrize("estimator", [*SAMPLING, "eight_point"])
def test_points_beyond_a_thousand_baselines(estimator):
    scene = make_scene("far", noise=0.002, count=300)
    result = _estimate(scene, estimator, threshold=0.1)
    _check_pose(result, scene, 0.1, 5.0)
    assert result.num_inliers > 250


@pytest.mark.parametrize("estimator", SAMPLING)
def test_a_few_near_points_among_very_far_ones_fix_the_translation(estimator):
    scene = make_scene("near_and_far", noise=0.3, count=500, seed=3)
    result = _estimate(scene, estimator)
    _check_pose(result, scene, 0.5, 20.0)
    assert result.num_inliers > 0.8 * len(scene.true)


PROGRESSIVE = [name for name in SAMPLING if name in ("opencv_usac", "poselib")]


@pytest.mark.parametrize("estimator", PROGRESSIVE)
def test_sampling_by_weight_draws_the_best_first(estimator):
    scene = make_scene("general", count=60, outliers=1500, noise=0.0, two_cameras=True, seed=2)
    rng = np.random.default_rng(0)
    mixed = rng.permutation(len(scene.true))  # weighted in no order
    true = scene.true[mixed]
    weights = np.where(true, 2.0, 1.0) + rng.uniform(0, 0.5, len(true))

    def estimate(weights, sampling):
        return estimate_relative_pose_from_matches(
            scene.points0[mixed], scene.points1[mixed], **scene.cameras, estimator=estimator,
            weights=weights, sampling=sampling, max_iterations=100, verify=False,
        )

    def error(pose):
        return float(pose_error_deg(pose.R, pose.t, scene.R, scene.t)) if pose.ok else 180.0

    # A hundred samples of five, 4 % of the matches right: only if these come first.
    found = estimate(weights, "by_weight")
    assert error(found) < 5.0
    assert error(estimate(weights, "uniform")) > 20.0
    assert error(estimate(3 - weights, "by_weight")) > 20.0
    assert np.mean(found.inliers[true]) > 0.7  # the mask is in the order of the matches
    assert np.mean(found.inliers[~true]) < 0.1


def test_sampling_that_cannot_be_is_named():
    scene = make_scene("general", noise=0.2)
    weights = np.ones(len(scene.true))
    with pytest.raises(ValueError, match=r"sampling must be one of .* got 'best'"):
        _estimate(scene, "opencv_usac", weights=weights, sampling="best")
    with pytest.raises(ValueError, match=r"'by_weight' is for .*, got estimator 'opencv_ransac'"):
        _estimate(scene, "opencv_ransac", weights=weights, sampling="by_weight")
    with pytest.raises(ValueError, match="sampling: 'by_weight' needs weights, got None"):
        _estimate(scene, "opencv_usac", sampling="by_weight")
    seen = []
    ranked = np.arange(len(scene.true), 0, -1.0)

    def own(problem):
        seen.append(problem.best_first)

    _estimate(scene, own, weights=ranked, sampling="by_weight")
    np.testing.assert_array_equal(seen[0], np.arange(len(ranked)))


def test_eight_point_uses_the_weights():
    scene = make_scene("general", count=300, outliers=300, noise=0.2, two_cameras=True)
    weights = scene.true * np.random.default_rng(0).uniform(0.3, 1.0, 600)
    result = _estimate(scene, "eight_point", weights=weights)
    _check_pose(result, scene, 1.0, 4.0)
    assert not result.inliers[~scene.true].any()
    assert not _estimate(scene, "eight_point").ok  # equal weights: the outliers ruin it


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5, 0.8])
def test_eight_point_on_a_plane_is_degenerate(noise):
    scene = make_scene("planar", noise=noise)
    assert _estimate(scene, "eight_point").status is PoseStatus.DEGENERATE


def test_eight_point_counts_positive_weights():
    scene = make_scene("general")
    weights = np.zeros(len(scene.true))
    weights[:7] = 1.0
    result = _estimate(scene, "eight_point", weights=weights)
    assert result.status is PoseStatus.TOO_FEW_MATCHES


@pytest.mark.parametrize("estimator", SAMPLING)
def test_same_seed_same_result_and_seeds_matter(estimator):
    scene = make_scene("general", count=100, outliers=200, noise=1.0)
    # Few samples, so that the outcome depends on which.
    options = {"max_iterations": 30, "verify": False, "confidence": 0.999999}
    runs = [_estimate(scene, estimator, seed=s, **options) for s in (0, 0, 5, 5, *range(6, 16))]
    assert all(run.R is not None for run in runs)
    np.testing.assert_array_equal(runs[0].R, runs[1].R)
    np.testing.assert_array_equal(runs[2].R, runs[3].R)
    np.testing.assert_array_equal(runs[2].inliers, runs[3].inliers)
    # PoseLib ends in the same optimum from many samples: some seed must differ, not all.
    assert any(not np.array_equal(runs[0].R, run.R) for run in runs[2:])


@pytest.mark.parametrize("estimator", SAMPLING)
def test_calibrated_threshold_is_pixels_over_the_mean_focal_length(estimator):
    scene = make_scene("general", outliers=100)  # focal length 1000
    by_pixels = _estimate(scene, estimator, threshold=0.7)
    by_calibrated = _estimate(scene, estimator, threshold=50.0, threshold_calibrated=0.7e-3)
    np.testing.assert_allclose(by_pixels.R, by_calibrated.R)
    np.testing.assert_array_equal(by_pixels.inliers, by_calibrated.inliers)
    assert by_pixels.num_inliers > _estimate(scene, estimator, threshold=0.2).num_inliers


@pytest.mark.parametrize("estimator", SAMPLING)
def test_skew_is_taken_out(estimator):
    scene = make_scene("general", noise=0.2)
    shear = np.array([[1.0, 0.05, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    points1 = scene.points1 @ shear[:2, :2].T
    result = estimate_relative_pose_from_matches(
        scene.points0, points1, scene.K0, shear @ scene.K1, estimator=estimator
    )
    _check_pose(result, scene, 1.0, 4.0)


def test_tensors_and_float32_are_accepted():
    scene = make_scene("general", noise=0.1)
    result = estimate_relative_pose_from_matches(
        torch.tensor(scene.points0).float(),
        scene.points1.astype(np.float32),
        torch.tensor(scene.K0),
        scene.K1.tolist(),
        weights=torch.rand(len(scene.true)),
    )
    _check_pose(result, scene, 0.5, 2.0)


def test_verify_false_is_the_estimators_own_answer():
    scene = random_matches(300, seed=0)
    result = _estimate(scene, "opencv_ransac", verify=False)
    assert result.ok
    assert result.R is not None
    assert result.log10_false_alarms is None
    assert result.homography_support is None


def test_auto_is_poselib_if_installed_else_usac(monkeypatch, caplog):
    with caplog.at_level(logging.DEBUG, logger="n3match"):
        chosen = choose_estimator("auto", ESTIMATORS).name
    assert chosen == ("poselib" if "poselib" in SAMPLING else "opencv_usac")
    assert chosen in caplog.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_estimator("auto", ESTIMATORS).name == "opencv_usac"
    scene = make_scene("general")
    assert _estimate(scene, "auto").estimator == "opencv_usac"


def test_missing_poselib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "poselib", None)
    with pytest.raises(ImportError, match=r"pip install 'n3match\[poselib\]'"):
        _estimate(make_scene("general"), "poselib")


def test_opencv_errors_are_results(monkeypatch):
    import cv2

    def fail(*args, **kwargs):
        raise cv2.error("made to fail")

    monkeypatch.setattr(cv2, "findEssentialMat", fail)
    for estimator in ("opencv_ransac", "opencv_usac"):
        result = _estimate(make_scene("general"), estimator)
        assert result.status is PoseStatus.ESTIMATION_FAILED


@pytest.mark.parametrize("answer", [(None, None), (np.zeros((3, 3)), np.ones((400, 1), np.uint8))])
def test_no_matrix_is_a_result(monkeypatch, answer):
    import cv2

    monkeypatch.setattr(cv2, "findEssentialMat", lambda *args, **kwargs: answer)
    for estimator in ("opencv_ransac", "opencv_usac"):
        result = _estimate(make_scene("general", count=400), estimator)
        assert result.status is PoseStatus.ESTIMATION_FAILED


def test_of_a_stack_of_matrices_the_best_is_taken(monkeypatch):
    import cv2

    scene = make_scene("general", noise=0.0)
    good = essential_from_pose(torch.tensor(scene.R), torch.tensor(scene.t)).numpy()
    # Cheirality is all that tells stacked solutions apart: a wrong one has points behind.
    wrong = np.random.default_rng(0).normal(size=(2, 3, 3))
    stack = np.concatenate((wrong[0], good, np.full((3, 3), np.nan), wrong[1]))
    mask = np.ones((len(scene.true), 1), np.uint8)
    monkeypatch.setattr(cv2, "findEssentialMat", lambda *args, **kwargs: (stack, mask))
    result = _estimate(scene, "opencv_ransac", verify=False)
    assert pose_error_deg(result.R, result.t, scene.R, scene.t) < 1e-4


def test_five_exact_points():
    """OpenCV returns all solutions of five points; five matches can't support any of them."""
    scene = make_scene("general", count=5, noise=0.0)
    for estimator in SAMPLING:
        result = _estimate(scene, estimator)
        assert not result.ok
        raw = _estimate(scene, estimator, verify=False)
        assert raw.R is None or raw.R.shape == (3, 3)


def test_estimator_names():
    assert all(spec.name == name for name, spec in ESTIMATORS.items())
    assert set(ESTIMATORS) == {
        "poselib", "opencv_usac", "opencv_ransac", "kornia", "eight_point"
    }
    with pytest.raises(ValueError, match=r"estimator must be 'auto' or one of .*got 'magic'"):
        estimate_relative_pose_from_matches(
            np.zeros((9, 2)), np.zeros((9, 2)), K_A, K_A, estimator="magic"
        )
