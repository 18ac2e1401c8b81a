"""No crash and no confident wrong pose: what has no answer must say so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from two_view_scenes import HEIGHT, K_A, WIDTH, make_scene, random_matches

from n3match.geometry import (
    PoseStatus,
    essential_from_pose,
    estimate_relative_pose_from_matches,
    rotation_error_deg,
    undistort_points,
)
from n3match.geometry.estimators import ESTIMATORS
from n3match.geometry.verification.agreement import Matches, epipolar_distance
from n3match.geometry.verification.support import log10_false_alarms
from n3match.weights.verdict import ESSENTIAL, shipped_verdict

pytestmark = pytest.mark.arithmetic

try:
    import poselib  # noqa: F401

    ALL = sorted(ESTIMATORS)
except ImportError:
    ALL = sorted(set(ESTIMATORS) - {"poselib"})
SAMPLING = [name for name in ALL if name != "eight_point"]


def _estimate(points0, points1, estimator, **options):
    return estimate_relative_pose_from_matches(
        points0, points1, K_A, K_A, estimator=estimator, **options
    )


def _assert_consistent(result, count):
    assert isinstance(result.status, PoseStatus)
    assert result.inliers.shape == (count,)
    assert result.inliers.dtype == bool
    assert result.ok == (result.status == "ok")
    if result.ok:
        assert result.R.shape == result.E.shape == (3, 3)
        assert result.t.shape == (3,)
        assert all(np.isfinite(a).all() for a in (result.R, result.t, result.E))
    else:
        assert result.t is None
        assert result.E is None
        assert (result.R is not None) == (result.status is PoseStatus.NO_PARALLAX)
        assert result.detail


@pytest.mark.parametrize("count", [12, 100, 2000])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("estimator", ALL)
def test_random_matches_are_never_ok(estimator, seed, count):
    scene = random_matches(count, seed)
    # PoseLib's default of 100 000 samples takes seconds here; once is enough.
    options = {"max_iterations": 10_000} if estimator == "poselib" and seed else {}
    result = _estimate(scene.points0, scene.points1, estimator, seed=seed, **options)
    _assert_consistent(result, count)
    assert result.status in (PoseStatus.INSUFFICIENT_SUPPORT, PoseStatus.ESTIMATION_FAILED)


@pytest.mark.parametrize("seed", range(4))
def test_no_probability_asked_for_is_no_trust_in_chance(seed):
    scene = random_matches(60, seed)
    result = _estimate(
        scene.points0, scene.points1, "opencv_usac", seed=seed, num_putative=2000,
        logits=np.full(60, 0.5), min_pair_probability=0.0,
    )
    assert not result.ok


@pytest.mark.parametrize("estimator", SAMPLING)
def test_random_matches_onto_few_points_are_never_ok(estimator):
    """Nearest neighbours crowd: an epipole on a much-matched point would please them all."""
    rng = np.random.default_rng(0)
    points0 = rng.uniform((0, 0), (WIDTH, HEIGHT), (600, 2))
    points1 = rng.uniform((0, 0), (WIDTH, HEIGHT), (6, 2))[rng.integers(6, size=600)]
    for a, b in ((points0, points1), (points1, points0)):
        result = _estimate(a, b, estimator, max_iterations=5000)
        _assert_consistent(result, 600)
        assert not result.ok


@pytest.mark.parametrize("estimator", SAMPLING)
def test_a_filter_that_picked_agreeing_random_matches_is_seen_through(estimator):
    scene = random_matches(6000, seed=1)
    x0, x1 = (undistort_points(p, K_A) for p in (scene.points0, scene.points1))
    E = essential_from_pose(np.eye(3), np.array([1.0, 0.0, 0.0]))
    picked = epipolar_distance(E)(x0, x1) < 1e-3
    points0, points1 = scene.points0[picked], scene.points1[picked]
    told = _estimate(points0, points1, estimator, num_putative=6000)
    assert not told.ok
    # The number of putative matches is what makes the difference.
    alarms = [
        log10_false_alarms(Matches(x0[picked], x1[picked], 1e-3, n), epipolar_distance(E))
        for n in (len(points0), 6000)
    ]
    assert alarms[0] < -3 < alarms[1]


def test_a_small_share_of_true_matches_is_still_found():
    scene = make_scene("general", count=80, outliers=400, noise=0.4)
    for estimator in sorted({"poselib", "opencv_usac"} & set(ALL)):
        result = _estimate(scene.points0, scene.points1, estimator)
        assert result.ok
        assert rotation_error_deg(result.R, scene.R) < 2


@pytest.mark.parametrize("count", range(8))
@pytest.mark.parametrize("estimator", ALL)
def test_fewer_matches_than_the_solver_needs(estimator, count):
    scene = make_scene("general", count=count, noise=0.0)
    result = _estimate(scene.points0, scene.points1, estimator)
    _assert_consistent(result, count)
    fewest = 8 if estimator == "eight_point" else 5
    if count < fewest:
        assert result.status is PoseStatus.TOO_FEW_MATCHES
        assert str(count) in result.detail
    else:
        assert not result.ok  # 5 to 7 matches agree with something by chance alone


@pytest.mark.parametrize("empty", [[], np.zeros((0, 2)), np.zeros((0, 2), np.float32)])
def test_no_matches(empty):
    result = _estimate(empty, empty, "auto")
    assert result.status is PoseStatus.TOO_FEW_MATCHES
    assert result.num_inliers == 0


@pytest.mark.parametrize("estimator", ALL)
def test_identical_points(estimator):
    point = np.full((50, 2), 321.5)
    scattered = random_matches(50, 0).points0
    for a, b in ((point, point), (point, scattered), (scattered, point)):
        result = _estimate(a, b, estimator)
        _assert_consistent(result, 50)
        assert result.status is PoseStatus.DEGENERATE


@pytest.mark.parametrize("estimator", ALL)
def test_points_on_a_line(estimator):
    scene = make_scene("general", noise=0.0, count=200)
    line0 = np.c_[scene.points0[:, 0], 0.4 * scene.points0[:, 0] + 200]
    for a, b in ((line0, scene.points1), (scene.points1, line0), (line0, line0)):
        result = _estimate(a, b, estimator)
        _assert_consistent(result, 200)
        assert result.status is PoseStatus.DEGENERATE


@pytest.mark.parametrize("estimator", ALL)
def test_identical_images(estimator):
    points = random_matches(500, 3).points0
    result = _estimate(points, points, estimator)
    _assert_consistent(result, 500)
    assert result.status is PoseStatus.NO_PARALLAX
    assert rotation_error_deg(result.R, np.eye(3)) < 1e-4
    assert result.num_inliers == 500
    assert result.homography_support > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("estimator", ALL)
def test_pure_rotation_gives_the_rotation_only(estimator, noise):
    outliers = 0 if estimator == "eight_point" else 150
    scene = make_scene("rotation", noise=noise, outliers=outliers, count=300)
    result = _estimate(scene.points0, scene.points1, estimator)
    _assert_consistent(result, len(scene.true))
    assert result.status is PoseStatus.NO_PARALLAX
    assert rotation_error_deg(result.R, scene.R) < 0.1
    assert np.mean(result.inliers[scene.true]) > 0.75
    assert np.count_nonzero(result.inliers & ~scene.true) <= 3


@pytest.mark.parametrize("estimator", SAMPLING)
@pytest.mark.parametrize("kind", ["rotation", "far"])
def test_noise_above_the_threshold_is_no_parallax(kind, estimator):
    for noise in (1.0, 2.0):
        scene = make_scene(kind, noise=noise, outliers=100, count=300)
        result = _estimate(scene.points0, scene.points1, estimator)
        assert result.status is PoseStatus.NO_PARALLAX
        assert rotation_error_deg(result.R, scene.R) < 0.5


def test_a_narrow_noisy_view_leaves_the_pose_open():
    scene = make_scene("general", noise=2.0, count=2000)
    centre = np.array([800.0, 400.0])
    near = np.abs(scene.points0 - centre).max(axis=1) < 90
    points = scene.points0[near], scene.points1[near]
    assert len(points[0]) > 40
    result = _estimate(*points, "auto")
    assert result.status is PoseStatus.DEGENERATE
    assert "standard deviation" in result.detail
    assert result.pair_probability > shipped_verdict().threshold[ESSENTIAL]
    assert _estimate(scene.points0, scene.points1, "auto").ok


def test_pure_rotation_that_was_rounded_to_float32():
    scene = make_scene("rotation", noise=0.0, count=300)
    result = _estimate(scene.points0.astype(np.float32), scene.points1.astype(np.float32), "auto")
    assert result.status is PoseStatus.NO_PARALLAX


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 14).flatmap(
        lambda n: st.tuples(
            *(
                arrays(
                    np.float64,
                    (n, 2),
                    # Few different values, so that repeated points and lines are common.
                    elements=st.sampled_from([0.0, 1.0, 100.0, 640.0, 641.5, 1e4, -1e4, 1e12]),
                )
                for _ in range(2)
            )
        )
    ),
    st.sampled_from(ALL),
)
def test_nothing_finite_makes_it_raise(points, estimator):
    result = _estimate(*points, estimator, max_iterations=200)
    _assert_consistent(result, len(points[0]))


GOOD = random_matches(20, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points0": np.full((20, 2), np.nan)}, "points0 must be finite.*20 of 20 rows"),
        ({"points1": np.full((20, 2), np.inf)}, "points1 must be finite"),
        ({"points0": np.zeros((20, 3))}, r"points0 must have shape \(N, 2\), got \(20, 3\)"),
        ({"points1": np.zeros(20)}, r"points1 must have shape \(N, 2\), got \(20,\)"),
        ({"points1": np.zeros((19, 2))}, "same number of points, got 20 and 19"),
        ({"K0": np.zeros((3, 3))}, "K0 must have positive focal lengths"),
        ({"K1": np.diag([1000.0, 0.0, 1.0])}, "K1 must have positive focal lengths.*singular"),
        ({"K1": np.full((3, 3), np.nan)}, "K1 must be finite"),
        ({"K0": np.diag([500.0, 500.0, 2.0])}, r"K0 must be \[\[fx, s, cx\]"),
        ({"K0": np.eye(2)}, r"K0 must have shape \(3, 3\), got \(2, 2\)"),
        ({"weights": np.ones(19)}, r"weights must have shape \(20,\), got \(19,\)"),
        ({"weights": -np.ones(20)}, "weights must be finite and not negative"),
        ({"weights": np.full(20, np.nan)}, "weights must be finite and not negative"),
        ({"threshold": 0.0}, "threshold must be a positive number of pixels, got 0"),
        ({"threshold": np.nan}, "threshold must be"),
        ({"threshold_calibrated": -1.0}, "threshold_calibrated must be a positive number"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1"),
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_putative": 19}, r"num_putative must be at least .*\(20\), got 19"),
        ({"distortion0": [0.1]}, "distortion0 must hold 4, 5, 8, 12 or 14"),
        ({"distortion1": [np.nan] * 4}, "distortion1 must be finite"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"points0": GOOD.points0, "points1": GOOD.points1, "K0": K_A, "K1": K_A}
    with pytest.raises(ValueError, match=message):
        estimate_relative_pose_from_matches(**{**arguments, **changes})


def test_what_is_not_numbers_is_a_type_error():
    with pytest.raises(TypeError, match="points0 must be an array of real numbers"):
        estimate_relative_pose_from_matches([["a", "b"]], [[1, 2]], K_A, K_A)
