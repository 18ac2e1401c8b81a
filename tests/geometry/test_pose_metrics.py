"""Pose errors and their summaries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from n3match.geometry import (
    mean_average_precision,
    pose_auc,
    pose_error_deg,
    rotation_error_deg,
    translation_error_deg,
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(0.0, 180.0), st.integers(0, 1000))
def test_rotation_error_is_the_angle_turned(angle, seed):
    axis = np.random.default_rng(seed).normal(size=3)
    axis /= np.linalg.norm(axis)
    R_gt = Rotation.random(random_state=seed).as_matrix()
    R = R_gt @ Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
    assert rotation_error_deg(R, R_gt).item() == pytest.approx(angle, abs=1e-6)


def test_small_rotations_keep_their_digits():
    R = Rotation.from_rotvec([1e-9, 0.0, 0.0]).as_matrix()
    assert rotation_error_deg(R, np.eye(3)).item() == pytest.approx(np.degrees(1e-9), rel=1e-6)


@pytest.mark.parametrize(
    ("t", "t_gt", "expected"),
    [
        ([1.0, 0.0, 0.0], [5.0, 0.0, 0.0], 0.0),
        ([1.0, 0.0, 0.0], [-2.0, 0.0, 0.0], 0.0),  # the sign is ignored
        ([1.0, 0.0, 0.0], [0.0, 1e-200, 0.0], 90.0),
        ([1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], 45.0),
        ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0], 90.0),  # no direction is no right answer
        ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0], 90.0),
    ],
)
def test_translation_error(t, t_gt, expected):
    result = translation_error_deg(torch.tensor(t).double(), torch.tensor(t_gt).double())
    assert result.item() == pytest.approx(expected, abs=1e-9)


def test_pose_error_is_the_larger_and_batches():
    R = torch.tensor(Rotation.from_rotvec([[0, 0, 0.1], [0, 0.4, 0]]).as_matrix())
    t = torch.tensor([[1.0, 0.2, 0.0], [1.0, 0.0, 0.0]]).double()
    eye, x = torch.eye(3).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    errors = pose_error_deg(R, t, eye, x)
    expected = [np.degrees(np.arctan(0.2)), np.degrees(0.4)]
    torch.testing.assert_close(errors, torch.tensor(expected))
    assert pose_error_deg(np.eye(3), np.ones(3), np.eye(3), np.ones(3)).shape == ()


def test_nan_pose_has_nan_error():
    nan = torch.full((3, 3), torch.nan)
    assert rotation_error_deg(nan, torch.eye(3)).isnan()
    assert pose_error_deg(nan, nan[0], torch.eye(3), torch.ones(3)).isnan()


def test_error_arguments():
    with pytest.raises(ValueError, match=r"R must have shape \(..., 3, 3\), got \(3,\)"):
        rotation_error_deg(torch.ones(3), torch.eye(3))
    with pytest.raises(TypeError, match="t must be a tensor or an array, got list"):
        translation_error_deg([1.0, 0.0, 0.0], torch.ones(3))


def test_map_by_hand():
    errors = [1.0, 4.999, 5.0, 9.0, 12.0, 19.0, 40.0, 180.0]
    # acc(5) = 2/8, acc(10) = 4/8, acc(15) = 5/8, acc(20) = 6/8
    assert mean_average_precision(errors) == {
        5: 2 / 8,
        10: (2 / 8 + 4 / 8) / 2,
        20: (2 + 4 + 5 + 6) / 8 / 4,
    }


def test_auc_by_hand():
    # One pair with error 2: recall rises straight from (0, 0) to (2, 1), then stays.
    assert pose_auc([2.0], (4,))[4] == pytest.approx((1.0 + 2.0) / 4)
    # Two pairs, one beyond: rises to 1/2 at 2, then stays.
    assert pose_auc([2.0, 180.0], (4,))[4] == pytest.approx((0.5 + 1.0) / 4)
    assert pose_auc([180.0], (5,))[5] == 0.0
    assert pose_auc([0.0, 0.0], (5,))[5] == pytest.approx(1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 180), min_size=1, max_size=40))
def test_auc_equals_a_fine_numerical_integral(errors):
    ordered = np.sort(errors)
    recall = np.arange(1, len(ordered) + 1) / len(ordered)
    for threshold, value in pose_auc(errors, (5, 13.5, 20)).items():
        below = ordered < threshold
        x = np.linspace(0, threshold, 40_001)
        xs, ys = np.r_[0.0, ordered[below]], np.r_[0.0, recall[below]]
        y = np.interp(x, xs, ys)
        integral = np.mean((y[1:] + y[:-1]) / 2)
        assert value == pytest.approx(integral, abs=2e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 180), min_size=1, max_size=40))
def test_summaries_are_shares_and_grow_with_the_threshold(errors):
    for summary in (mean_average_precision, pose_auc):
        values = list(summary(errors, (5, 10, 20)).values())
        assert all(0.0 <= v <= 1.0 for v in values)
    m = mean_average_precision(errors)
    assert m[5] <= m[10] <= m[20]
    halved = np.array(errors) / 2
    assert mean_average_precision(halved)[20] >= m[20]


@pytest.mark.parametrize("summary", [mean_average_precision, pose_auc])
def test_bad_errors(summary):
    for errors in ([], [np.nan, 1.0], [-1.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="errors must"):
            summary(errors)
    assert summary([np.inf, 1.0])[5] <= 0.5  # a failure may be given as infinity


def test_bad_thresholds():
    with pytest.raises(ValueError, match="multiples of 5 degrees, got 7"):
        mean_average_precision([1.0], (7,))
    for threshold in (0, -5, np.nan, np.inf):
        with pytest.raises(ValueError, match="thresholds must be"):
            pose_auc([1.0], (threshold,))
        with pytest.raises(ValueError, match="thresholds must be"):
            mean_average_precision([1.0], (threshold,))
