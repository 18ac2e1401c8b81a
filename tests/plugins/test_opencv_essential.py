"""find_essential_mat and recover_pose beside OpenCV's own, on scenes with a known pose."""

import cv2
import numpy as np
import pytest
from bundled_pair import DISTORTION, error_deg, features
from bundled_pair import K as PHOTO_K
from putative_scenes import K0, K1, make_scene
from scipy.spatial.transform import Rotation

from n3match.geometry import pose_error_deg
from n3match.matching.side_info import SIDE_INFO
from n3match.plugins.opencv import find_essential_mat, match_information, recover_pose

DISTORTION0 = np.array([-0.12, 0.05, 0.0, 0.0])
DISTORTION1 = np.array([-0.2, 0.08, 1e-3, -5e-4, 0.01])


def _error(rotation, translation, scene):
    return float(pose_error_deg(rotation, np.ravel(translation), scene.R, scene.t))


def _distorted(points, K, coefficients):
    rays = np.c_[(points - K[:2, 2]) / K[0, 0], np.ones(len(points))]
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, coefficients)[0][:, 0]


def _one_camera(scene):
    """Points of image 1 as a camera like camera 0 sees them."""
    return (scene.points1 - K1[:2, 2]) / K1[0, 0] * K0[0, 0] + K0[:2, 2]


@pytest.fixture(scope="module")
def scene():
    return make_scene(250, 750, seed=21)


def _check(E, mask, scene):
    """E and mask of OpenCV's form, nearly all inliers right."""
    assert E.shape == (3, 3) and E.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(E), 1.0)
    assert (
        mask.shape == (len(scene.right), 1) and mask.dtype == np.uint8 and set(mask.flat) == {0, 1}
    )
    assert scene.right[mask[:, 0] > 0].mean() > 0.9
    assert mask.sum() > 0.5 * scene.right.sum()


def test_one_camera_beside_opencv(scene):
    points2 = _one_camera(scene)
    E, mask = find_essential_mat(scene.points0, points2, K0, cv2.RANSAC, 0.999, 1.0)
    _check(E, mask, scene)
    _, R, t, _ = cv2.recoverPose(E, scene.points0, points2, K0, mask=mask.copy())
    assert _error(R, t, scene) < 2.0
    # OpenCV's own gets there from the right matches alone: the same matrix up to sign.
    right = scene.right
    expected, _ = cv2.findEssentialMat(
        scene.points0[right], points2[right], K0, cv2.RANSAC, 0.999, 1.0
    )
    expected /= np.linalg.norm(expected)
    assert min(np.linalg.norm(E - expected), np.linalg.norm(E + expected)) < 0.1


def test_two_cameras_with_distortion(scene):
    points1 = _distorted(scene.points0, K0, DISTORTION0)
    points2 = _distorted(scene.points1, K1, DISTORTION1)
    E, mask = find_essential_mat(
        points1, points2, K0, DISTORTION0, K1, DISTORTION1, cv2.USAC_MAGSAC, 0.999, 1.0
    )
    _check(E, mask, scene)
    count, R, t, out = recover_pose(E, points1, points2, K0, DISTORTION0, K1, DISTORTION1, mask)
    assert _error(R, t, scene) < 2.0
    assert t.shape == (3, 1) and count == np.count_nonzero(out) > 0.9 * mask.sum()
    # The lens matters: as if there were none, fewer agree.
    _, plain = find_essential_mat(points1, points2, K0, None, K1, None, cv2.USAC_MAGSAC)
    assert plain.sum() < mask.sum()


@pytest.mark.parametrize(
    "method",
    [cv2.LMEDS, cv2.USAC_DEFAULT, cv2.USAC_ACCURATE, cv2.USAC_PROSAC, "opencv_usac"],
)
def test_methods(scene, method):
    E, mask = find_essential_mat(
        scene.points0, scene.points1, K0, None, K1, None, method=method, side_info=scene.side_info
    )
    _check(E, mask, scene)


def test_usac_parameters_are_followed(scene):
    params = cv2.UsacParams()
    params.threshold, params.confidence = 1.0, 0.999
    E, mask = find_essential_mat(scene.points0, scene.points1, K0, K1, None, None, params)
    _check(E, mask, scene)
    params.threshold = 0.2
    _, fewer = find_essential_mat(scene.points0, scene.points1, K0, K1, None, None, params)
    assert fewer.sum() < 0.7 * mask.sum()


def test_layouts_keywords_and_focal_length_say_the_same(scene):
    points2 = _one_camera(scene)
    E, mask = find_essential_mat(scene.points0, points2, K0)
    again = [
        find_essential_mat(scene.points0[:, None], points2[None], cameraMatrix=K0, method=8),
        find_essential_mat(scene.points0, points2, 900.0, (511.5, 383.5)),
    ]
    for other, other_mask in again:
        np.testing.assert_array_equal(other, E)
        np.testing.assert_array_equal(other_mask, mask)
    given = np.zeros_like(mask)
    find_essential_mat(scene.points0, points2, K0, mask=given)
    np.testing.assert_array_equal(given, mask)


def test_calibrated_points_with_the_identity(scene):
    x1, x2 = ((p - K[:2, 2]) / K[0, 0] for p, K in ((scene.points0, K0), (scene.points1, K1)))
    E, mask = find_essential_mat(x1, x2, np.eye(3), threshold=1 / 800)
    _check(E, mask, scene)


@pytest.mark.parametrize("count", [0, 4, 30])
def test_no_pose_is_none_and_zeros(count):
    rng = np.random.default_rng(0)
    points1, points2 = (rng.uniform(0, 700, (count, 2)) for _ in range(2))
    E, mask = find_essential_mat(points1, points2, K0)
    assert E is None
    assert mask.shape == (count, 1) and mask.dtype == np.uint8 and not mask.any()


def _far_scene(distance, count=300):
    rng = np.random.default_rng(3)
    R = Rotation.from_euler("xyz", [1, -3, 1], degrees=True).as_matrix()
    t = np.array([-0.9, 0.2, 0.25])
    t /= np.linalg.norm(t)
    X = np.c_[rng.uniform(-0.4, 0.4, (count, 2)), np.ones(count)]
    X *= rng.uniform(distance, 2 * distance, count)[:, None]
    Y = X @ R.T + t
    points = [P @ K0.T for P in (X, Y)]
    points1, points2 = (p[:, :2] / p[:, 2:] for p in points)
    t_cross = np.cross(np.eye(3), t) * -1
    return points1, points2, t_cross @ R, R, t


def test_no_distance_is_too_far():
    """OpenCV loses all points farther than 50 baselines, and with them the right pose."""
    for distance, opencv_keeps in ((5, True), (100, False)):
        points1, points2, E, R, t = _far_scene(distance)
        theirs = cv2.recoverPose(E, points1, points2, K0)
        assert (theirs[0] == 300) == opencv_keeps
        count, R_found, t_found, mask = recover_pose(E, points1, points2, K0)
        assert count == 300
        np.testing.assert_allclose(R_found, R, atol=1e-9)
        np.testing.assert_allclose(t_found[:, 0], t, atol=1e-9)
        assert mask.shape == (300, 1) and mask.dtype == np.uint8
        if opencv_keeps:
            np.testing.assert_allclose(theirs[1], R, atol=1e-6)
            np.testing.assert_array_equal(theirs[3].ravel(), mask.ravel())


def test_only_the_masked_vote_and_the_mask_given_is_left_alone():
    points1, points2, E, R, _ = _far_scene(5)
    mask = np.zeros((300, 1), np.uint8)
    mask[:50] = 1
    given = mask.copy()
    count, R_found, _, out = recover_pose(E, points1, points2, K0, mask=given)
    np.testing.assert_array_equal(given, mask)
    np.testing.assert_array_equal(out, mask)
    assert count == 50
    np.testing.assert_allclose(R_found, R, atol=1e-9)


def test_from_matches_of_two_cameras(scene):
    count, E, R, t, mask = recover_pose(scene.points0, scene.points1, K0, None, K1, None)
    assert _error(R, t, scene) < 2.0
    assert E.shape == (3, 3) and count == np.count_nonzero(mask) > 0.5 * scene.right.sum()
    rng = np.random.default_rng(0)
    noise = [rng.uniform(0, 700, (40, 2)) for _ in range(2)]
    count, E, R, t, mask = recover_pose(*noise, K0, None, K1, None)
    assert count == 0 and E is None and R is None and t is None and not mask.any()


def test_match_information_is_what_a_hard_pair_needs():
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features("SIFT")
    matches = cv2.BFMatcher().match(descriptors1, descriptors2)
    points1 = np.float32([keypoints1[m.queryIdx].pt for m in matches])
    points2 = np.float32([keypoints2[m.trainIdx].pt for m in matches])
    known = match_information(keypoints1, keypoints2, matches, descriptors1, descriptors2)
    assert known["side_info"].shape == (len(matches), len(SIDE_INFO))
    assert known["sizes_angles1"].shape == (len(matches), 2)
    cameras = (PHOTO_K, DISTORTION, PHOTO_K, DISTORTION)
    E, mask = find_essential_mat(points1, points2, *cameras, cv2.USAC_MAGSAC, **known)
    count, R, t, _ = recover_pose(E, points1, points2, *cameras, mask)
    assert count > 40 and error_deg(R, t) < 3.0


MILLIMETRES = np.array([[4.2, 0, 2.9], [0, 4.2, 2.1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((MILLIMETRES,), {}, ValueError, "cameraMatrix has a focal length of 4.2, but its points"),
        ((K0, None, MILLIMETRES, None), {}, ValueError, "cameraMatrix2 has a focal length of 4.2"),
        ((np.eye(3, 4),), {}, ValueError, r"cameraMatrix must have shape \(3, 3\)"),
        ((K0, 3), {}, ValueError, "method must be one of cv2.RANSAC"),
        ((K0, None, K1), {}, TypeError, "fit none of"),
        ((K0,), {"colour": 3}, TypeError, "fit none of"),
        ((K0,), {"threshold": -1}, ValueError, "threshold"),
        ((K0,), {"mask": np.zeros(3, np.uint8)}, ValueError, "mask must have shape"),
        ((K0,), {"filter": None, "side_info": np.zeros((20, 2))}, ValueError, "side_info: found"),
    ],
)
def test_wrong_use_of_find_essential_mat(arguments, options, error, message):
    scene = make_scene(20, 0)
    with pytest.raises(error, match=message):
        find_essential_mat(scene.points0, scene.points1, *arguments, **options)


def test_wrong_use_of_recover_pose():
    points1, points2, E, _, _ = _far_scene(5)
    with pytest.raises(TypeError, match="distanceThresh"):
        recover_pose(E, points1, points2, K0, 50.0)
    with pytest.raises(TypeError, match="distanceThresh"):
        recover_pose(E, points1, points2, K0, distanceThresh=50.0)
    with pytest.raises(ValueError, match="E must be finite and not zero"):
        recover_pose(np.zeros((3, 3)), points1, points2, K0)
    with pytest.raises(ValueError, match="E is None: no essential matrix was found"):
        recover_pose(None, points1, points2, K0)
    with pytest.raises(ValueError, match="same number of points"):
        recover_pose(E, points1[:7], points2, K0)
    with pytest.raises(ValueError, match="mask must have shape"):
        recover_pose(E, points1, points2, K0, mask=np.ones((7, 1), np.uint8))
