"""The OpenCV plug: the same DMatch objects come back, wrong use is told."""

import warnings

import cv2
import numpy as np
import pytest
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene

from n3match.plugins.opencv import filter_matches
from n3match.plugins.opencv.information import putative_of_rows


def _as_opencv(scene):
    keypoints0 = [cv2.KeyPoint(float(x), float(y), 3.0) for x, y in scene.points0]
    keypoints1 = [cv2.KeyPoint(float(x), float(y), 3.0) for x, y in scene.points1]
    matches = [cv2.DMatch(i, i, 1.0) for i in range(len(keypoints0))]
    return keypoints0, keypoints1, matches


@pytest.mark.parametrize("cameras", [True, False])
@pytest.mark.parametrize("with_side", [True, False])
def test_keeps_the_right_ones_of_the_same_objects(cameras, with_side):
    scene = make_scene(200, 600, seed=2)
    keypoints0, keypoints1, matches = _as_opencv(scene)
    # Given in another order than the keypoints.
    matches = [matches[i] for i in np.random.default_rng(0).permutation(len(matches))]
    options = {"K1": K0, "K2": K1} if cameras else {}
    if with_side:
        options["side_info"] = scene.side_info[[m.queryIdx for m in matches]]
    kept = filter_matches(SIZE0, SIZE1, keypoints0, keypoints1, matches, **options)
    given = {id(match) for match in matches}
    assert all(id(match) in given for match in kept)
    right = scene.right[[match.queryIdx for match in kept]]
    assert right.mean() > 0.7
    assert right.sum() >= 0.7 * scene.right.sum()
    order = [id(match) for match in matches]
    positions = [order.index(id(match)) for match in kept]
    assert positions == sorted(positions)


def test_sizes_and_angles_of_the_keypoints_count():
    """Right matches that turn alike have higher logits than where orientations are unknown."""
    scene = make_scene(150, 1350, seed=3)
    plain = _as_opencv(scene)
    rng = np.random.default_rng(0)
    count = len(scene.right)
    angle0, size0 = rng.uniform(0, 360, count), np.exp(rng.normal(1.2, 0.6, count))
    turn = np.where(scene.right, rng.normal(20, 5, count), rng.uniform(0, 360, count))
    scale = np.where(scene.right, 0.1, 0.8) * rng.normal(0, 1, count)
    told = [
        [
            cv2.KeyPoint(float(x), float(y), float(size), float(angle % 360))
            for (x, y), size, angle in zip(points, sizes, angles)
        ]
        for points, sizes, angles in (
            (scene.points0, size0, angle0),
            (scene.points1, size0 * np.exp(scale), angle0 + turn),
        )
    ]

    def quality(keypoints0, keypoints1):
        kept = filter_matches(SIZE0, SIZE1, keypoints0, keypoints1, plain[2], K1=K0, K2=K1)
        right = scene.right[[match.queryIdx for match in kept]].sum()
        return 2 * right / (len(kept) + scene.right.sum())  # F1

    assert quality(*told) > quality(*plain[:2])


def test_no_matches():
    assert filter_matches(SIZE0, SIZE1, [], [], []) == []


def test_index_past_the_keypoints():
    keypoints0, keypoints1, matches = _as_opencv(make_scene(10, 0))
    with pytest.raises(ValueError, match=r"matches1to2: trainIdx .* keypoints2 holds 5"):
        filter_matches(SIZE0, SIZE1, keypoints0, keypoints1[:5], matches)


@pytest.mark.parametrize("size", [(0, 5), (5,), (-1, 3)])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size1 must be"):
        filter_matches(size, SIZE1, [], [], [])


FOCAL = np.array([[1.17, 0, 0.5], [0, 1.17, 0.4], [0, 0, 1]])  # shares of the width
MILLIMETRES = np.array([[4.2, 0, 2.9], [0, 4.2, 2.1], [0, 0, 1]])
DOUBLE_SIZE = np.array([[1800.0, 0, 1100], [0, 1800, 767], [0, 0, 1]])


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (FOCAL, "K1 has a focal length of 1.17"),
        (MILLIMETRES, "K1 has a focal length of 4.2"),
        (DOUBLE_SIZE, r"K1 has its principal point at \(1100, 767\), outside the image"),
        (np.zeros((3, 3)), "K1 must have positive focal lengths"),
    ],
)
def test_camera_in_other_units(K, message):
    scene = make_scene(20, 0)
    with pytest.raises(ValueError, match=message):
        filter_matches(SIZE0, SIZE1, *_as_opencv(scene), K1=K, K2=K1)


def test_keypoints_of_another_image_size():
    scene = make_scene(20, 0)
    with pytest.raises(ValueError, match=r"keypoints2: .* outside the image of 400 × 500"):
        filter_matches(SIZE0, (400, 500), *_as_opencv(scene))


def test_descriptors_beside_other_keypoints():
    keypoints0, keypoints1, matches = _as_opencv(make_scene(10, 0))
    descriptors = np.zeros((10, 4), np.float32)
    arguments = (SIZE0, SIZE1, keypoints0, keypoints1, matches)
    with pytest.raises(ValueError, match="descriptors2: found None rows for 10 keypoints"):
        filter_matches(*arguments, descriptors1=descriptors)
    with pytest.raises(ValueError, match="side_info and descriptors: found both"):
        filter_matches(*arguments, descriptors1=descriptors, side_info=np.zeros((10, 2)))


def test_arguments_of_match_gms_in_their_places():
    """As OpenCV's sample gms_matcher.py calls it, by position and by name."""
    arguments = (SIZE0, SIZE1, *_as_opencv(make_scene(100, 200, seed=1)))
    plain = [match.queryIdx for match in filter_matches(*arguments)]
    with pytest.warns(UserWarning, match="thresholdFactor are of matchGMS and have no effect"):
        by_place = filter_matches(*arguments, True, True, 6.0)
    with pytest.warns(UserWarning, match="no effect"):
        by_name = filter_matches(
            *arguments, withRotation=False, withScale=False, thresholdFactor=6.0
        )
    assert [m.queryIdx for m in by_place] == [m.queryIdx for m in by_name] == plain


def test_that_they_have_no_effect_is_said_once():
    arguments = (SIZE0, SIZE1, *_as_opencv(make_scene(10, 0)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            filter_matches(*arguments, True, False)
    assert len(said) == 1 and said[0].filename == __file__


def _rows(distances, trains):
    return [
        tuple(cv2.DMatch(i, int(t), float(d)) for t, d in zip(train, distance))
        for i, (train, distance) in enumerate(zip(trains, distances))
    ]


def test_rows_stand_for_their_first_match():
    """The result of `knnMatch` as it is; a row without a match is no match."""
    scene = make_scene(60, 1200, seed=2)
    keypoints0, keypoints1, matches = _as_opencv(scene)
    rng = np.random.default_rng(0)
    first = np.where(scene.right, 80.3, 200.1) + rng.uniform(0, 20, len(matches))
    second = first / scene.side_info[:, 0]
    others = rng.permutation(len(matches))
    rows = _rows(np.stack([first, second], 1), np.stack([np.arange(len(matches)), others], 1))
    kept = filter_matches(SIZE0, SIZE1, keypoints0, keypoints1, [(), *rows], K1=K0, K2=K1)
    given = {id(row[0]) for row in rows}
    assert all(id(match) in given for match in kept)
    right = scene.right[[match.queryIdx for match in kept]]
    single = filter_matches(SIZE0, SIZE1, keypoints0, keypoints1, matches, K1=K0, K2=K1)

    def quality(right_kept, kept):
        return 2 * right_kept / (len(kept) + scene.right.sum())

    assert quality(right.sum(), kept) > quality(
        scene.right[[m.queryIdx for m in single]].sum(), single
    )
    # Rows of one, and an empty list, tell as little as single matches do.
    lone = filter_matches(
        SIZE0, SIZE1, keypoints0, keypoints1, [[m] for m in matches], K1=K0, K2=K1
    )
    assert [m.queryIdx for m in lone] == [m.queryIdx for m in single]


def test_a_second_neighbour_past_the_keypoints_is_told():
    keypoints0, keypoints1, _ = _as_opencv(make_scene(3, 0))
    rows = _rows([[1.5, 2.5]] * 3, [[0, 1], [1, 2], [2, 3]])
    with pytest.raises(ValueError, match=r"trainIdx .* keypoints2 holds 3"):
        filter_matches(SIZE0, SIZE1, keypoints0, keypoints1, rows)


def test_rows_of_binary_descriptors_are_compared_alone():
    """Ratios of Hamming distances are spread otherwise than those that other filters learnt."""
    _, keypoints1, _ = _as_opencv(make_scene(30, 60))
    trains = [[i, (i + 1) % 90] for i in range(90)]
    told = putative_of_rows(_rows([[20, 60]] * 90, trains), keypoints1, keypoints1)
    names = ("ratio", "mutual", "distance")
    np.testing.assert_array_equal(told.side_info(names, None), [[1, 1, 0]] * 90)
    known = told.side_info(names, None, binary=True)
    np.testing.assert_allclose(known, [[1 / 3, 1, 0]] * 90)
    told = putative_of_rows(_rows([[20.5, 60]] * 90, trains), keypoints1, keypoints1)
    assert (told.side_info(names, None)[:, 0] < 0.4).all() and (told.distance == 20.5).all()
