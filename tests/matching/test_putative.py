import numpy as np
import pytest

from n3match.matching import putative_matches

pytestmark = pytest.mark.arithmetic


def test_each_keypoint_of_image_0_is_joined_to_its_nearest():
    points0 = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)
    points1 = np.array([[10, 20], [30, 40]], dtype=np.float32)
    desc0 = np.array([[0.0, 1], [0, 2], [9, 0]])
    desc1 = np.array([[9.0, 0], [0, 0]])
    matches = putative_matches(points0, desc0, points1, desc1)
    assert len(matches) == 3
    assert matches.points0.dtype == matches.points1.dtype == np.float64
    np.testing.assert_array_equal(matches.points0, points0)
    np.testing.assert_array_equal(matches.points1, points1[[1, 1, 0]])
    np.testing.assert_array_equal(matches.index0, [0, 1, 2])
    np.testing.assert_array_equal(matches.index1, [1, 1, 0])
    np.testing.assert_array_equal(matches.mutual, [True, False, True])
    np.testing.assert_array_equal(matches.distance, [1, 2, 0])
    np.testing.assert_allclose(matches.ratio, [1 / 82**0.5, 2 / 85**0.5, 0], rtol=1e-6)
    assert matches.ratio.dtype == np.float32 and matches.mutual.dtype == bool
    # The second nearest of each is the other point of image 1, 20 px to the right and below.
    np.testing.assert_allclose(matches.apart, np.full(3, 800**0.5), rtol=1e-6)
    # Keypoints 0 and 1 claim the same one, at distances 1 and 2; of the third nobody else does.
    np.testing.assert_allclose(matches.back_ratio, [0.5, 2, 0], atol=2e-3)


def test_without_a_second_nearest_it_is_infinitely_far():
    matches = putative_matches(np.zeros((2, 2)), np.eye(2, 8), np.zeros((1, 2)), np.eye(1, 8))
    np.testing.assert_array_equal(matches.apart, [np.inf, np.inf])


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_keypoints_gives_no_matches(n, m):
    matches = putative_matches(
        np.zeros((n, 2)), np.zeros((n, 128)), np.zeros((m, 2)), np.zeros((m, 128))
    )
    assert len(matches) == 0
    assert matches.points0.shape == matches.points1.shape == (0, 2)
    assert matches.ratio.shape == matches.mutual.shape == matches.index1.shape == (0,)


def test_descriptors_of_a_blank_image_as_opencv_gives_them():
    image, keypoints = np.ones((7, 128)), np.ones((7, 2))
    blank = np.zeros((0, 2))
    assert len(putative_matches(keypoints, image, blank, None)) == 0
    assert len(putative_matches(blank, None, keypoints, image)) == 0
    assert len(putative_matches(blank, None, blank, None)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints0": np.zeros((4, 3))}, r"keypoints0: found shape \(4, 3\), wanted \(N, 2\)"),
        ({"keypoints1": np.zeros((3, 2))}, "keypoints1: found 3 rows for 4 descriptors"),
        ({"keypoints1": np.full((4, 2), np.nan)}, "keypoints1: found NaN or inf"),
        ({"desc0": np.full((4, 8), np.inf)}, "desc0: found NaN or inf"),
        ({"desc1": np.zeros((4, 9))}, "desc1: found 9 channels, wanted 8"),
        ({"desc1": None}, "keypoints1: found 4 rows for 0 descriptors"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    given = {
        "keypoints0": np.zeros((4, 2)),
        "desc0": np.zeros((4, 8)),
        "keypoints1": np.zeros((4, 2)),
        "desc1": np.zeros((4, 8)),
    }
    with pytest.raises(ValueError, match=message):
        putative_matches(**given | change)
