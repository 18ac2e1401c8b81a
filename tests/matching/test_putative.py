from dataclasses import replace

import numpy as np
import pytest

from n3match.matching import exclusive_logits, one_to_one, putative_matches

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


def _descriptors(rng, count, binary):
    """Few values, so that distances tie, and some are 0."""
    return rng.integers(0, 4, (count, 12)).astype(np.uint8 if binary else np.float32)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("n", "m"), [(60, 45), (45, 60), (1, 5), (5, 1), (2, 2), (1, 1), (0, 3), (3, 0)]
)
def test_second_nearest_neighbours_are_those_among_two_both_ways(n, m, binary):
    rng = np.random.default_rng(n + 100 * m)
    desc0, desc1 = (_descriptors(rng, count, binary) for count in (n, m))
    given = rng.random((n, 2)), desc0, rng.random((m, 2)), desc1
    nearest = putative_matches(*given, binary=binary)
    found = putative_matches(*given, binary=binary, second_nearest=True)

    if binary:
        bits = np.unpackbits(desc0[:, None] ^ desc1[None], axis=-1)
        distance = bits.sum(-1).astype(float)
    else:
        distance = np.linalg.norm(desc0[:, None].astype(float) - desc1[None], axis=-1)
    there = np.argsort(distance, axis=1, kind="stable")[:, :2]
    back = np.argsort(distance, axis=0, kind="stable")[:2]
    near = {(i, j) for i in range(n) for j in there[i].tolist() if i in back[:, j]} if m else set()
    rows = list(zip(found.index0.tolist(), found.index1.tolist()))
    assert len(set(rows)) == len(rows)
    assert {row for row, is_near in zip(rows, found.near_mutual) if is_near} == near
    assert found.near_mutual[found.mutual].all()

    alone = found.nearest()
    for name, values in vars(nearest).items():
        np.testing.assert_array_equal(getattr(alone, name), values, err_msg=name)
    assert found.near_mutual[len(nearest) :].all() and not found.mutual[len(nearest) :].any()

    def ratio(distance, other):
        return min(distance / other, 2) if other > 0 else (2 if distance > 0 else 1)

    for row in range(len(nearest), len(found)):
        i, j = rows[row]
        assert found.distance[row] == pytest.approx(distance[i, j], abs=1e-5)
        assert found.ratio[row] == pytest.approx(ratio(distance[i, j], distance[i].min()), abs=1e-5)
        others = [distance[k, j] for k in back[:, j] if k != i]
        wanted = ratio(distance[i, j], others[0]) if others else 1
        assert found.back_ratio[row] == pytest.approx(wanted, abs=1e-5)
        apart = np.linalg.norm(given[2][j] - given[2][there[i, 0]])
        assert found.apart[row] == pytest.approx(apart, rel=1e-6)
        np.testing.assert_array_equal(found.points0[row], given[0][i])
        np.testing.assert_array_equal(found.points1[row], given[2][j])


def test_a_filter_that_looks_at_second_nearest_neighbours_is_told_which_are_near_both_ways():
    rng = np.random.default_rng(0)
    given = rng.random((30, 2)), rng.random((30, 8)), rng.random((40, 2)), rng.random((40, 8))
    found = putative_matches(*given, second_nearest=True)
    names = ("ratio", "mutual")
    asked = found.side_info(names, None, second_nearest=True)
    np.testing.assert_array_equal(asked[:, 1], found.near_mutual)
    np.testing.assert_array_equal(found.side_info(names, None)[:, 1], found.mutual)
    # Where they weren't sought nothing is known of them, and rows may share a keypoint.
    alone = found.nearest()
    assert replace(alone, index0=np.zeros(30, int)).nearest().index0.shape == (30,)
    np.testing.assert_array_equal(
        alone.side_info(names, None, second_nearest=True)[:, 1], alone.mutual
    )


def test_of_matches_that_share_a_keypoint_the_likeliest_stays():
    index0, index1 = np.array([0, 0, 1, 2, 3, 3]), np.array([5, 6, 6, 7, 8, 8])
    logits = np.array([1.0, 3, 2, -1, 2, 2])
    kept = one_to_one(index0, index1, logits)
    np.testing.assert_array_equal(kept, [False, True, False, False, True, False])
    none = np.zeros(0, dtype=int)
    assert one_to_one(none, none, np.zeros(0)).shape == (0,)
    # Of two that can't both be right: neither, the one or the other.
    odds = np.exp(logits)
    odds[0] /= 1 + odds[1]
    odds[2] /= 1 + odds[1]
    odds[5] /= 1 + odds[4]
    found = exclusive_logits(index0, index1, logits)
    np.testing.assert_allclose(np.exp(found), odds)
    np.testing.assert_array_equal(found > 0, kept)
    assert exclusive_logits(none, none, np.zeros(0)).shape == (0,)
    np.testing.assert_array_equal(one_to_one([0, 0], [1, 2], [np.nan, 0.5]), [False, True])
    np.testing.assert_array_equal(exclusive_logits([0, 0], [1, 2], [-np.inf, 0.5]), [-np.inf, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((3, 1))}, "logits must have shape"),
        ({"logits": np.zeros(2)}, "index0, index1 and logits must have one length, got 3, 3 and 2"),
    ],
)
def test_what_cant_be_made_one_to_one_is_refused_by_name(change, message):
    given = {"index0": np.arange(3), "index1": np.arange(3), "logits": np.ones(3)}
    with pytest.raises(ValueError, match=message):
        one_to_one(**given | change)


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
