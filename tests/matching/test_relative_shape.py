"""Turn and change of size from keypoints' own orientations and sizes."""

import cv2
import numpy as np
import pytest

from n3match.matching import extract_sift, keypoint_change, putative_matches


def test_known_values():
    shapes0 = np.array([[2.0, 10.0], [4.0, 350.0], [3.0, 0.0]])
    shapes1 = np.array([[4.0, 100.0], [4.0, 20.0], [1.0, 180.0]])
    found = keypoint_change(shapes0, shapes1, focal0=500, focal1=1000)
    turn = np.radians([90, 30, 180])
    np.testing.assert_allclose(found[:, 0], np.cos(turn), atol=1e-12)
    np.testing.assert_allclose(found[:, 1], np.sin(turn), atol=1e-12)
    np.testing.assert_allclose(found[:, 2], np.log([2 / 2, 1 / 2, 1 / 6]), atol=1e-12)


def test_what_is_not_known_is_zero():
    known, unknown = [5.0, 45.0], [0.0, -1.0]
    np.testing.assert_array_equal(keypoint_change([known, unknown], [unknown, known]), 0)
    half = keypoint_change([[5.0, -1.0]], [[10.0, 30.0]])
    np.testing.assert_allclose(half, [[0, 0, np.log(2)]])


def test_no_matches():
    assert keypoint_change(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0, 3)


def test_a_turned_and_enlarged_photograph():
    """SIFT on an image and on its copy turned by a quarter, clockwise, and twice as large."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.random((240, 320)), (0, 0), 2)
    image = np.uint8(255 * (noise - noise.min()) / np.ptp(noise))
    turned = cv2.rotate(cv2.resize(image, None, fx=2, fy=2), cv2.ROTATE_90_CLOCKWISE)
    features = [extract_sift(i, 500) for i in (image, turned)]
    matches = putative_matches(
        features[0].keypoints, features[0].descriptors,
        features[1].keypoints, features[1].descriptors,
    )
    found = keypoint_change(
        features[0].shapes[matches.index0], features[1].shapes[matches.index1]
    )[matches.mutual & (matches.ratio < 0.6)]
    assert len(found) > 50
    np.testing.assert_allclose(np.median(found, 0), [0, 1, np.log(2)], atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes0": np.zeros((4, 3))}, r"shapes0 must have shape \(N, 2\)"),
        ({"shapes1": np.full((4, 2), np.nan)}, "shapes1 holds NaN"),
        ({"shapes1": np.zeros((3, 2))}, "one length, got 4 and 3"),
        ({"focal1": 0.0}, "focal1 must be positive"),
    ],
)
def test_bad_input(change, message):
    good = {"shapes0": np.ones((4, 2)), "shapes1": np.ones((4, 2))}
    with pytest.raises(ValueError, match=message):
        keypoint_change(**{**good, **change})
