"""Pixels, calibrated coordinates, lens distortion."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_view_scenes import DISTORTION_A, DISTORTION_B, K_A, K_B

from n3match.geometry import (
    denormalize_points,
    guess_focal,
    guess_intrinsics,
    normalize_points,
    undistort_points,
)

SKEWED = np.array([[900.0, 3.5, 640.0], [0.0, 880.0, 360.0], [0.0, 0.0, 1.0]])


def test_normalize_is_the_inverse_of_k_applied_to_homogeneous_points():
    points = torch.rand(7, 2, dtype=torch.float64) * 1000
    K = torch.tensor(SKEWED)
    homogeneous = torch.cat((points, torch.ones(7, 1, dtype=torch.float64)), 1)
    expected = (torch.linalg.inv(K) @ homogeneous.T).T[:, :2]
    torch.testing.assert_close(normalize_points(points, K), expected)


def test_batches_use_their_own_k_and_come_back():
    K = torch.tensor(np.stack((K_A, K_B, SKEWED)))
    points = torch.rand(3, 11, 2, dtype=torch.float64) * 900
    calibrated = normalize_points(points, K)
    for i in range(3):
        torch.testing.assert_close(calibrated[i], normalize_points(points[i], K[i]))
    torch.testing.assert_close(denormalize_points(calibrated, K), points)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"points must have shape .*N, 2.*\(5, 3\)"):
        normalize_points(torch.zeros(5, 3), torch.eye(3))
    with pytest.raises(ValueError, match=r"K must have shape"):
        denormalize_points(torch.zeros(5, 2), torch.eye(4))
    with pytest.raises(TypeError, match=r"points .*int64"):
        normalize_points(torch.zeros(5, 2, dtype=torch.int64), torch.eye(3))


def test_undistort_without_distortion_equals_normalize():
    points = np.random.default_rng(0).uniform(0, 1000, (9, 2))
    expected = normalize_points(torch.tensor(points), torch.tensor(SKEWED)).numpy()
    for distortion in (None, np.zeros(5), []):
        np.testing.assert_allclose(undistort_points(points, SKEWED, distortion), expected)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(
        st.floats(-0.3, 0.3),
        st.floats(-0.1, 0.1),
        st.floats(-2e-3, 2e-3),
        st.floats(-2e-3, 2e-3),
        st.floats(-0.02, 0.02),
    ),
    st.integers(0, 1000),
)
def test_undistort_inverts_opencv_projection(coefficients, seed):
    x = np.random.default_rng(seed).uniform((-0.55, -0.4), (0.55, 0.4), (50, 2))
    rays = np.c_[x, np.ones(50)]
    coefficients = np.array(coefficients)
    pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K_B, coefficients)
    recovered = undistort_points(pixels.reshape(-1, 2), K_B, coefficients)
    np.testing.assert_allclose(recovered, x, atol=1e-9)


@pytest.mark.parametrize("count", [4, 5, 8, 12, 14])
def test_all_lengths_of_coefficients(count):
    coefficients = np.array([-0.1, 0.05, 1e-3, -1e-3, 0.01, 0.02, 0.01, 0.003] + [1e-3] * 6)[:count]
    x = np.random.default_rng(1).uniform(-0.4, 0.4, (30, 2))
    pixels, _ = cv2.projectPoints(
        np.c_[x, np.ones(30)], np.zeros(3), np.zeros(3), K_A, coefficients
    )
    np.testing.assert_allclose(
        undistort_points(pixels.reshape(-1, 2), K_A, coefficients), x, atol=1e-8
    )


def test_a_lens_model_that_cannot_be_inverted_still_gives_finite_points():
    corner = np.array([[3000.0, 3000.0], [-2000.0, 500.0], [639.5, 479.5]])
    result = undistort_points(corner, K_A, np.array([-0.4, 0.0, 0.0, 0.0]))
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result[2], 0.0, atol=1e-12)


def test_no_points():
    assert undistort_points(np.zeros((0, 2)), K_A, DISTORTION_A).shape == (0, 2)
    assert undistort_points([], K_A, DISTORTION_B).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0, 3.0]], K_A, None), r"points must have shape \(N, 2\), got \(1, 3\)"),
        (([[1.0, np.nan]], K_A, None), r"points must be finite.*1 of 1 rows"),
        (([[1.0, 2.0]], np.zeros((3, 3)), None), "K must have positive focal lengths"),
        (([[1.0, 2.0]], np.ones((3, 3)), None), r"K must be \[\[fx, s, cx\]"),
        (([[1.0, 2.0]], np.eye(4), None), r"K must have shape \(3, 3\), got \(4, 4\)"),
        (([[1.0, 2.0]], K_A * np.nan, None), "K must be finite"),
        (([[1.0, 2.0]], K_A, [0.1, 0.2]), "distortion must hold 4, 5, 8, 12 or 14"),
        (([[1.0, 2.0]], K_A, [0.1, np.inf, 0, 0]), "distortion must be finite"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        undistort_points(*arguments)


def test_what_is_not_numbers_is_a_type_error():
    with pytest.raises(TypeError, match="points must be an array of real numbers"):
        undistort_points([["a", "b"]], K_A)


def test_guessed_cameras():
    np.testing.assert_array_equal(
        guess_intrinsics((640, 480)), [[768, 0, 319.5], [0, 768, 239.5], [0, 0, 1]]
    )
    np.testing.assert_array_equal(
        guess_intrinsics((640, 480), 700), [[700, 0, 319.5], [0, 700, 239.5], [0, 0, 1]]
    )
    np.testing.assert_array_equal(guess_intrinsics((480, 640))[:2, :2], 768 * np.eye(2))
    np.testing.assert_array_equal(guess_focal(np.array([[640, 480], [10, 20]])), [768, 24])


@pytest.mark.parametrize("focal", [0, -1, float("nan"), float("inf")])
def test_impossible_focal_lengths(focal):
    with pytest.raises(ValueError, match="focal"):
        guess_intrinsics((640, 480), focal)


def test_impossible_sizes():
    with pytest.raises(ValueError, match=r"size1 must be \(width, height\)"):
        guess_intrinsics((0, 5), name="size1")
