"""What is known of a match beside its points."""

import cv2
import numpy as np
import pytest

from n3match.matching import (
    extract_sift,
    is_gradient_histogram,
    keypoint_change,
    putative_matches,
    side_info_columns,
    side_info_of_matches,
)
from n3match.matching.side_info import (
    NEUTRAL,
    SIDE_INFO,
    relative_apart,
    relative_distance,
)


def test_known_values():
    sizes_angles0 = np.array([[2.0, 10.0], [4.0, 350.0], [3.0, 0.0]])
    sizes_angles1 = np.array([[4.0, 100.0], [4.0, 20.0], [1.0, 180.0]])
    found = keypoint_change(sizes_angles0, sizes_angles1, focal0=500, focal1=1000)
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
        features[0].sizes_angles[matches.index0], features[1].sizes_angles[matches.index1]
    )[matches.mutual & (matches.ratio < 0.6)]
    assert len(found) > 50
    np.testing.assert_allclose(np.median(found, 0), [0, 1, np.log(2)], atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes_angles0": np.zeros((4, 3))}, r"sizes_angles0 must have shape \(N, 2\)"),
        ({"sizes_angles1": np.full((4, 2), np.nan)}, "sizes_angles1 holds NaN"),
        ({"sizes_angles1": np.zeros((3, 2))}, "one length, got 4 and 3"),
        ({"focal1": 0.0}, "focal1 must be a positive number"),
    ],
)
def test_bad_input(change, message):
    good = {"sizes_angles0": np.ones((4, 2)), "sizes_angles1": np.ones((4, 2))}
    with pytest.raises(ValueError, match=message):
        keypoint_change(**{**good, **change})


def _described(seed: int, *counts: int):
    rng = np.random.default_rng(seed)
    return [
        array for n in counts
        for array in (rng.uniform(0, 500, (n, 2)), rng.random((n, 128)).astype(np.float32))
    ]


def test_matches_made_elsewhere():
    """The columns by their definition, from all distances."""
    points0, desc0, points1, desc1 = _described(0, 30, 40)
    distance = np.linalg.norm(desc0[:, None] - desc1[None], axis=-1)
    nearest, back = distance.argmin(1), distance.argmin(0)
    assert len(np.unique(nearest)) < 30
    index0 = np.arange(30)[::-1]
    index1 = nearest[index0]
    index1[0] = (index1[0] + 1) % 40  # not the nearest
    found = side_info_of_matches(
        SIDE_INFO, index0, index1, points0, desc0, points1, desc1, 300.0
    )
    np.testing.assert_array_equal(found[0], [*NEUTRAL.values()])
    ordered = np.argsort(distance, axis=1)
    shortest = np.sort(distance, axis=1)
    rest = index0[1:]
    np.testing.assert_allclose(found[1:, 0], (shortest[:, 0] / shortest[:, 1])[rest], rtol=1e-5)
    np.testing.assert_array_equal(found[1:, 1], (back[nearest] == np.arange(30))[rest])
    others = np.where(np.arange(30)[:, None] == np.arange(30), np.inf, distance.T[nearest])
    np.testing.assert_allclose(
        found[1:, 2], (shortest[:, 0] / others.min(1))[rest].clip(0, 2), rtol=1e-3
    )
    np.testing.assert_allclose(
        found[1:, 3], relative_distance(shortest[:, 0])[rest], atol=1e-5
    )
    apart = np.linalg.norm(points1[ordered[:, 0]] - points1[ordered[:, 1]], axis=1)
    np.testing.assert_allclose(found[1:, 4], relative_apart(apart, 300.0)[rest], atol=1e-5)
    unknown = side_info_of_matches(
        SIDE_INFO, index0, index1, points0, desc0, points1, desc1, None
    )
    assert not unknown[:, 4].any()
    assert side_info_of_matches((), index0, index1, points0, desc0, points1, desc1, 1.0) is None


@pytest.mark.parametrize("names", [("ratio", "mutual"), SIDE_INFO])
def test_matches_that_share_no_keypoint_are_mutual(names):
    """The matcher has made them so; the other columns are those of the pass over all keypoints."""
    points0, desc0, points1, desc1 = _described(1, 30, 40)
    whole = putative_matches(points0, desc0, points1, desc1)
    rows = np.flatnonzero(whole.mutual)[::-1]
    index1 = whole.index1[rows].copy()
    index1[0] = np.setdiff1d(np.arange(40), whole.index1)[0]
    found = side_info_of_matches(names, rows, index1, points0, desc0, points1, desc1, 300.0)
    np.testing.assert_allclose(found[1:], whole.side_info(names, 300.0)[rows[1:]], rtol=1e-5)
    assert found[0, :2].tolist() == [1.0, 1.0]


def test_only_histograms_of_gradients_count_as_sift():
    rng = np.random.default_rng(0)
    assert is_gradient_histogram(rng.random((5, 128)))
    for other in (rng.normal(size=(5, 128)), rng.random((5, 256)), np.zeros((0, 128))):
        assert not is_gradient_histogram(other)


def test_columns_go_by_name():
    ratio, mutual = np.array([0.5, 0.9], np.float32), np.array([True, False])
    columns = side_info_columns(("mutual", "ratio"), ratio, mutual)
    np.testing.assert_allclose(columns, [[1, 0.5], [0, 0.9]], rtol=1e-6)
    assert side_info_columns((), ratio, mutual) is None
    with pytest.raises(ValueError, match="scale"):
        side_info_columns(("ratio", "scale"), ratio, mutual)


def test_columns_that_are_not_known_are_neutral():
    apart = np.array([1.0, np.inf])
    found = side_info_columns(
        SIDE_INFO, np.array([0.5, 0.9]), np.array([True, False]), apart=apart, focal1=1000.0
    )
    np.testing.assert_array_equal(found[:, 2], [NEUTRAL["back_ratio"]] * 2)
    np.testing.assert_array_equal(found[:, 3], [NEUTRAL["distance"]] * 2)
    np.testing.assert_allclose(found[:, 4], [-1, 0], atol=1e-12)


def test_distances_are_relative_to_their_mean():
    np.testing.assert_allclose(relative_distance([1, 2, 3]), [-0.5, 0, 0.5])
    np.testing.assert_allclose(relative_distance([10, 20, 30]), [-0.5, 0, 0.5])
    np.testing.assert_allclose(relative_distance([1, np.nan, 3]), [-0.5, 0, 0.5])
    for unknown in ([np.nan, np.nan], [0, 0], []):
        np.testing.assert_array_equal(relative_distance(unknown), np.zeros(len(unknown)))


def test_how_far_apart_goes_by_its_logarithm():
    focal = 1000.0
    pixels = [0, 1, 31.6227766, 1000, 5000, np.inf]
    np.testing.assert_allclose(relative_apart(pixels, focal), [-1, -1, 0, 1, 1, 0], atol=1e-7)
