"""The parts of the verification, each with what it must and must not notice."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from two_view_scenes import K_A, make_scene, random_matches

from n3match.geometry import (
    PoseStatus,
    essential_from_pose,
    estimate_relative_pose_from_matches,
    rotation_error_deg,
    undistort_points,
)
from n3match.geometry.estimators import Estimate
from n3match.geometry.relative_pose import verify_pose
from n3match.geometry.verification.agreement import (
    Matches,
    epipolar_distance,
    inliers_of,
    rotation_distance,
)
from n3match.geometry.verification.planarity import (
    PlaneVerdict,
    compare_with_rival,
    find_plane,
    plane_dominates,
    points_on_a_line,
    poses_of,
)
from n3match.geometry.verification.rivals import rival_deg
from n3match.geometry.verification.rotation_only import (
    find_rotation,
    fit_rotation,
    has_parallax,
    translation_beside_rotation,
)
from n3match.geometry.verification.support import (
    _log_binomial_tail,
    count_distinct,
    log10_false_alarms,
    noise_in_thresholds,
    samples_worth_drawing,
)
from n3match.geometry.verification.uncertainty import pose_deviation_deg

pytestmark = pytest.mark.arithmetic

PX = 1e-3  # one pixel in calibrated units


def _calibrated(scene):
    return tuple(undistort_points(p, K_A) for p in (scene.points0, scene.points1))


def _matches(scene):
    return Matches(*_calibrated(scene), PX, len(scene.true))


def _angle(a, b):
    return np.degrees(np.arccos(np.clip(a @ b, -1, 1)))


def test_alarms_fall_with_support_and_rise_with_putative_matches():
    alarms = []
    for count in (0, 15, 40, 120):
        scene = make_scene("general", count=count, outliers=500 - count)
        matches = _matches(scene)
        distance = epipolar_distance(essential_from_pose(scene.R, scene.t))
        alarms.append(log10_false_alarms(matches, distance))
    assert alarms[0] == 0.0
    assert alarms[0] > alarms[2] > alarms[3]
    more = log10_false_alarms(replace(matches, num_putative=5000), distance)
    assert alarms[3] < more <= 0
    nobody = np.zeros(len(matches), bool)
    assert log10_false_alarms(matches, distance, nobody) == 0.0


def test_a_fixed_model_has_its_chance_share_of_random_matches():
    """The heart of the test: the measured probability is the one that wrong matches have."""
    scene = random_matches(5000, 0)
    x0, x1 = _calibrated(scene)
    distance = epipolar_distance(essential_from_pose(np.eye(3), np.array([0.6, 0.8, 0.0])))
    inside = np.count_nonzero(distance(x0, x1) < PX)
    from n3match.geometry.verification.support import _chance, _mismatched

    p = _chance(distance(*_mismatched(x0, x1)), PX)
    assert binom.cdf(inside, 5000, p) > 1e-4
    assert p < 3 * inside / 5000


def test_samples_are_as_many_as_can_matter():
    # Of 60 picked out of 2000 nearly half would have to agree, of 600 not picked a thirtieth.
    few = replace(_matches(random_matches(60, 0)), num_putative=2000)
    many = _matches(random_matches(600, 0))
    assert samples_worth_drawing(few, 0.9999, 100_000) == 5000
    assert 20_000 < samples_worth_drawing(many, 0.9999, 100_000) <= 100_000
    assert samples_worth_drawing(many, 0.9999, 3000) == 3000
    assert samples_worth_drawing(many, 0.5, 10**9) < samples_worth_drawing(many, 0.9999, 10**9)


@pytest.mark.parametrize("noise", [0.5, 0.7, 1.5, 2.5])
def test_noise_is_told_on_both_sides_of_the_threshold(noise):
    scene = make_scene("general", count=500, outliers=500, noise=noise)
    distance = epipolar_distance(essential_from_pose(scene.R, scene.t))
    assert noise_in_thresholds(_matches(scene), distance) == pytest.approx(noise, rel=0.15)


def test_deviation_is_that_of_poses_fitted_again_and_again():
    exact = make_scene("general", count=100, noise=0.0, seed=0)
    told = pose_deviation_deg(exact.R, exact.t, *_calibrated(exact), 1.0 * PX)
    rng = np.random.default_rng(1)
    off = []
    for _ in range(60):
        points = [p + rng.normal(size=p.shape) for p in (exact.points0, exact.points1)]
        pose = estimate_relative_pose_from_matches(
            *points, K_A, K_A, estimator="opencv_usac", threshold=4.0, verify=False
        )
        off.append(max(_angle(pose.t, exact.t), rotation_error_deg(pose.R, exact.R)))
    # A root mean square about two axes, by an estimator that isn't quite least squares.
    assert 0.7 * told < np.sqrt(np.mean(np.square(off))) < 3 * told
    assert pose_deviation_deg(exact.R, exact.t, *(x[:4] for x in _calibrated(exact)), PX) == np.inf


def test_noise_that_looks_like_parallax_determines_no_pose():
    exact, noisy = (make_scene("far", count=200, noise=noise, seed=0) for noise in (0.0, 0.2))
    least = 100 * pose_deviation_deg(exact.R, exact.t, *_calibrated(exact), 0.002 * PX)
    told = pose_deviation_deg(exact.R, exact.t, *_calibrated(noisy), 0.2 * PX)
    assert 5 < 0.8 * least < told
    # Distances of the matches themselves count where they are larger than the noise told.
    told_less = pose_deviation_deg(exact.R, exact.t, *_calibrated(noisy), 0.01 * PX)
    assert told_less == pytest.approx(told, rel=0.3)


def test_log_tail_has_no_underflow():
    assert _log_binomial_tail(30, 1000, 0.01) == pytest.approx(
        np.log(binom.sf(29, 1000, 0.01)), rel=1e-6
    )
    tail = _log_binomial_tail(900, 1000, 1e-3)
    assert np.isfinite(tail)
    assert tail < _log_binomial_tail(200, 1000, 1e-3) < _log_binomial_tail(50, 1000, 1e-3)
    assert _log_binomial_tail(12, 10, 0.5) == pytest.approx(10 * np.log(0.5))


def test_points_count_once_in_the_image_with_fewer():
    x0 = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1e-6]])
    x1 = np.array([[5.0, 5.0], [5.0, 5.0], [6.0, 5.0], [7.0, 5.0]])
    mask = np.ones(4, bool)
    assert count_distinct(x0, x1, mask, 1e-3) == 3
    assert count_distinct(x0, x1, np.array([1, 1, 0, 0], bool), 1e-3) == 1
    assert count_distinct(x0, x1, ~mask, 1e-3) == 0


def test_rotation_distance_is_infinite_behind_the_camera():
    half_turn = np.diag([1.0, -1.0, -1.0])
    x = np.array([[0.1, 0.2]])
    assert rotation_distance(half_turn)(x, x) == np.inf
    assert rotation_distance(np.eye(3))(x, x + np.array([3.0, 4.0])) == pytest.approx(5.0)


def test_rotation_fit_ignores_a_third_of_outliers():
    scene = make_scene("rotation", count=200, outliers=100)
    x0, x1 = _calibrated(scene)
    turned = scene.R @ np.array([[1, -0.01, 0], [0.01, 1, 0.005], [0, -0.005, 1]])
    assert rotation_error_deg(fit_rotation(x0, x1, turned, PX), scene.R) < 0.03


def test_rotation_is_found_only_where_more_than_chance_agrees():
    for kind in ("rotation", "far"):
        scene = make_scene(kind, count=200, outliers=50)
        rotation = find_rotation(_matches(scene), scene.R, scene.true)
        assert rotation.explained[scene.true].mean() > 0.8
        assert rotation.explained[~scene.true].mean() < 0.05
    scene = random_matches(250, 0)
    assert find_rotation(_matches(scene), np.eye(3), np.ones(250, bool)) is None


@pytest.mark.parametrize(
    ("kind", "noise", "expected"),
    [
        ("near_and_far", 0.3, True),  # a few near points prove it
        ("far", 0.001, True),  # below the threshold, but far above the noise
        ("far", 0.5, False),  # drowned in noise
        ("rotation", 0.5, False),
    ],
)
def test_parallax(kind, noise, expected):
    scene = make_scene(kind, count=300, noise=noise)
    matches = _matches(scene)
    t = scene.t if kind != "rotation" else np.array([1.0, 0.0, 0.0])
    inliers = inliers_of(scene.R, t, matches.x0, matches.x1, PX)
    rotation = find_rotation(matches, scene.R, inliers)
    assert rotation is not None
    assert has_parallax(matches, scene.R, t, inliers, rotation) == expected


def test_translation_that_the_estimator_missed_is_found():
    scene = make_scene("near_and_far", count=500, outliers=60, noise=0.3)
    matches = _matches(scene)
    wrong_t = np.array([0.0, 1.0, 0.0])
    agreeing = inliers_of(scene.R, wrong_t, matches.x0, matches.x1, PX)
    verdict = verify_pose(matches, Estimate(scene.R, wrong_t, agreeing))
    assert verdict.status is PoseStatus.OK
    assert _angle(verdict.t, scene.t) < 3
    assert rotation_error_deg(verdict.R, scene.R) < 0.2
    assert "off the rotation" in verdict.detail


def test_no_translation_is_made_up_from_outliers():
    for seed in range(5):
        scene = make_scene("rotation", count=300, outliers=300, seed=seed)
        matches = _matches(scene)
        rotation = find_rotation(matches, scene.R, scene.true)
        assert translation_beside_rotation(matches, rotation) is None


def test_points_on_a_line():
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 50)
    line = np.c_[x, 0.3 * x + 0.1]
    assert points_on_a_line(line, PX)
    assert points_on_a_line(line[:1], PX)
    line[0, 1] += 0.2
    assert not points_on_a_line(line, PX)


def test_plane_is_found_and_dominates_only_flat_scenes():
    for kind, expected in (("planar", True), ("general", False)):
        scene = make_scene(kind, noise=0.3)
        matches = _matches(scene)
        plane = find_plane(matches, scene.true)
        distance = epipolar_distance(essential_from_pose(scene.R, scene.t))
        dominates = plane_dominates(matches, distance, scene.true, plane)
        assert dominates == expected
    assert find_plane(matches, np.arange(len(matches)) < 3) is None


def test_a_dozen_points_off_the_plane_settle_it():
    flat, solid = make_scene("planar", noise=0.3), make_scene("general", noise=0.3, count=12)
    x0, x1 = (np.r_[a, b] for a, b in zip(_calibrated(flat), _calibrated(solid)))
    inliers = inliers_of(flat.R, flat.t, x0, x1, 2 * PX)
    matches = Matches(x0, x1, PX, len(x0))
    plane = find_plane(matches, inliers)
    distance = epipolar_distance(essential_from_pose(flat.R, flat.t))
    assert not plane_dominates(matches, distance, inliers, plane)


def test_the_two_poses_of_a_plane():
    # Sideways: the second pose has points behind a camera, and is replaced by the first.
    scene = make_scene("planar", noise=0.2)
    matches = _matches(scene)
    plane = find_plane(matches, scene.true)
    verdict, *_ = compare_with_rival(matches, scene.R, scene.t, plane)
    assert verdict is PlaneVerdict.KEEP
    wrong_R, wrong_t = _second_pose(plane.H, scene)
    verdict, R, t = compare_with_rival(matches, wrong_R, wrong_t, plane)
    assert verdict is PlaneVerdict.REPLACE
    assert rotation_error_deg(R, scene.R) < 0.5
    assert _angle(t, scene.t) < 2
    # Forward: both poses have all points in front.
    scene = make_scene("forward_planar", noise=0.2)
    matches = _matches(scene)
    plane = find_plane(matches, scene.true)
    verdict, *_ = compare_with_rival(matches, scene.R, scene.t, plane)
    assert verdict is PlaneVerdict.AMBIGUOUS


def test_the_pose_that_replaces_a_planes_other_one_is_judged_by_its_own_inliers():
    scene = make_scene("planar", noise=0.2, count=60, seed=3)
    matches = replace(_matches(scene), logits=np.full(60, 1.5), num_putative=1000)
    plane = find_plane(matches, scene.true)
    right, wrong = (scene.R, scene.t), _second_pose(plane.H, scene)
    poses = []
    for pose in (right, wrong):
        inliers = inliers_of(*pose, matches.x0, matches.x1, PX)
        poses.append(verify_pose(matches, Estimate(*pose, inliers)))
    assert poses[0].ok and poses[1].ok
    assert poses[1].pair_probability == pytest.approx(poses[0].pair_probability, abs=0.02)


def _second_pose(H, scene):
    x0, x1 = _calibrated(scene)
    others = [p for p in poses_of(H) if rotation_error_deg(p[0], scene.R) > 2]
    return max(others, key=lambda p: np.count_nonzero(inliers_of(*p, x0, x1, 2 * PX)))


def test_inliers_of_a_pose_are_close_and_in_front():
    scene = make_scene("general", outliers=100, noise=0.2)
    x0, x1 = _calibrated(scene)
    inliers = inliers_of(scene.R, scene.t, x0, x1, PX)
    assert inliers[scene.true].mean() > 0.97
    assert inliers[~scene.true].mean() < 0.05
    assert not inliers_of(scene.R, -scene.t, x0, x1, PX)[scene.true].any()


def test_a_rival_is_found_where_there_is_one():
    scene = make_scene("forward_planar", noise=0.5, count=100)
    matches = _matches(scene)
    plane = find_plane(matches, scene.true)
    R, t = _second_pose(plane.H, scene)
    apart = max(rotation_error_deg(R, scene.R), _angle(t, scene.t))
    # From the plane's poses, and from halves of the matches alone.
    for known in (plane, None):
        told = rival_deg(matches, scene.R, scene.t, 0.5 * PX, known, flat=True)
        assert told == pytest.approx(apart, abs=5)


def test_there_is_no_rival_in_a_scene_of_depth_nor_where_many_matches_speak_against_it():
    solid = make_scene("general", noise=0.5, count=60, outliers=10)
    assert rival_deg(_matches(solid), solid.R, solid.t, 0.5 * PX) is None
    flat, beside = make_scene("planar", noise=0.5), make_scene("general", noise=0.5, count=40)
    x0, x1 = (np.r_[a, b] for a, b in zip(_calibrated(flat), _calibrated(beside)))
    matches = Matches(x0, x1, PX, len(x0))
    plane = find_plane(_matches(flat), flat.true)
    assert rival_deg(matches, flat.R, flat.t, 0.5 * PX, plane, flat=True) is None


def test_few_matches_have_no_rival():
    scene = make_scene("general", noise=0.5, count=5)
    assert rival_deg(_matches(scene), scene.R, scene.t, 0.5 * PX) is None
