"""Photographs changed on purpose: another look, the same geometry."""

import cv2
import numpy as np
import pytest

from n3match.datasets.pairs.changed_photographs import change_photograph, shrink_photograph
from n3match.matching import extract_sift, putative_matches


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    texture = np.zeros((300, 400), np.float32)
    for size in (5, 12, 30):
        coarse = rng.random((300 // size + 2, 400 // size + 2), dtype=np.float32)
        texture += cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def dots(image, places):
    """The image with bright spots at the places (x, y)."""
    dotted = np.zeros_like(image)
    for x, y in places:
        cv2.circle(dotted, (int(x), int(y)), 6, 255, -1, cv2.LINE_AA)
    return dotted


def centres(image):
    _, labels = cv2.connectedComponents((image > 128).astype(np.uint8))
    weights = [np.where(labels == i, image, 0).astype(float) for i in range(1, labels.max() + 1)]
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([[(x * w).sum(), (y * w).sum()] / w.sum() for w in weights])


def test_points_come_back_to_the_photograph(image):
    places = np.array([[60, 40], [340, 50], [200, 150], [80, 250], [300, 260]])
    turned = shrunk = 0
    for seed in range(40):
        changed = change_photograph(image, np.random.default_rng(seed))
        # The same geometry, without the rest: spots that stay spots.
        back = changed.back
        forward = cv2.invertAffineTransform(back)
        size = changed.image.shape[::-1]
        seen = cv2.warpAffine(dots(image, places), forward, size, flags=cv2.INTER_AREA)
        found = changed.points(centres(seen))
        for place in places:
            assert np.linalg.norm(found - place, axis=1).min() < 1.0
        scale = np.sqrt(abs(np.linalg.det(back[:, :2])))
        turned += abs(back[0, 1]) > 1e-3
        shrunk += scale > 1.01
        assert 0.99 < scale < 3.0
    assert 0 < turned < 40 and 0 < shrunk < 40


def test_sizes_and_angles_come_back_to_the_photograph(image):
    """Most descriptors that are found again have their sizes and orientations again."""
    plain, enough = extract_sift(image, 300), 0
    for seed in range(40):
        changed = change_photograph(image, np.random.default_rng(seed))
        features = extract_sift(changed.image, 300)
        points = changed.points(features.keypoints.astype(float))
        sizes_angles = changed.sizes_angles(features.sizes_angles)
        matches = putative_matches(
            plain.keypoints, plain.descriptors, points, features.descriptors
        )
        apart = np.linalg.norm(matches.points0 - matches.points1, axis=1)
        right = matches.mutual & (apart < 2)
        if right.sum() < 20:
            continue
        enough += 1
        before = plain.sizes_angles[matches.index0[right]]
        after = sizes_angles[matches.index1[right]]
        turn = np.abs((before[:, 1] - after[:, 1] + 180) % 360 - 180)
        assert np.median(turn) < 15
        assert np.median(np.abs(np.log(before[:, 0] / after[:, 0]))) < 0.3
    assert enough > 20


def test_it_looks_different_and_is_drawn_anew(image):
    looks = [change_photograph(image, np.random.default_rng(seed)).image for seed in range(8)]
    again = change_photograph(image, np.random.default_rng(3)).image
    np.testing.assert_array_equal(again, looks[3])
    assert len({look.tobytes() for look in looks}) == 8
    assert all(look.dtype == np.uint8 and look.ndim == 2 for look in looks)


def test_a_smaller_photograph_keeps_its_edges(image):
    half = shrink_photograph(image, 0.5)
    assert half.image.shape == (150, 200)
    corners = np.array([[-0.5, -0.5], [199.5, 149.5]])
    np.testing.assert_allclose(half.points(corners), [[-0.5, -0.5], [399.5, 299.5]])
    np.testing.assert_allclose(half.sizes_angles(np.array([[3.0, 20.0]])), [[6.0, 20.0]])
