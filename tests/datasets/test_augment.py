import dataclasses

import numpy as np
import pytest

from n3match.datasets.pairs import augment as aug
from n3match.datasets.pairs.sample import (
    TRUE_MATCH_DISTANCE,
    essential_matrix,
    make_sample,
    squared_epipolar_distances,
)
from n3match.matching.side_info import NEUTRAL


@pytest.fixture
def exact():
    """31 noise-free matches of a known motion, without any wrong one; arrays are read-only."""
    rng = np.random.default_rng(5)
    points = rng.uniform([-1, -1, 3], [1, 1, 6], (31, 3))
    R = aug.roll_rotation(0.2) @ aug._tilt_rotation(np.array([0.1, -0.3]))
    t = np.array([1.0, 0.2, -0.3])
    moved = points @ R.T + t
    x = np.c_[points[:, :2] / points[:, 2:], moved[:, :2] / moved[:, 2:]]
    ratio, mutual = rng.uniform(0.3, 1, 31), rng.random(31) < 0.5
    back_ratio = np.where(mutual, rng.uniform(0.3, 1, 31), rng.uniform(1, 1.5, 31))
    side_info = np.c_[ratio, mutual, back_ratio, rng.uniform(-0.5, 0.5, (31, 2))]
    sample = make_sample(x, side_info, np.zeros((31, 3)), R, t)
    return frozen({**sample, "keypoint_change": expected_change(sample)})


def expected_change(sample, step=1e-5):
    """Keypoint changes (N, 3) of small patches parallel to image 0, by finite differences."""
    x, R, t = (sample[key].astype(np.float64) for key in ("x", "R", "t"))
    changes = []
    for x0, y0, x1, y1 in x:
        system = np.stack([-R @ [x0, y0, 1], [x1, y1, 1]], 1)
        depth = np.linalg.lstsq(system, t, rcond=None)[0][0]

        def seen(x, y, depth=depth):
            moved = R @ (depth * np.array([x, y, 1])) + t
            return moved[:2] / moved[2]

        J = np.stack([seen(x0 + step, y0) - seen(x0, y0), seen(x0, y0 + step) - seen(x0, y0)], 1)
        J /= step
        mirrored = np.array([J[0, 0] + J[1, 1], J[1, 0] - J[0, 1]])
        changes.append([*(mirrored / np.hypot(*mirrored)), 0.5 * np.log(abs(np.linalg.det(J)))])
    return np.array(changes, np.float32)


@pytest.fixture
def mixed(exact):
    """The exact matches and 100 wrong ones."""
    return frozen(aug.add_outliers(exact, np.random.default_rng(6), 100))


def frozen(sample):
    sample = {key: value.copy() for key, value in sample.items()}
    for value in sample.values():
        value.flags.writeable = False
    return sample


def assert_consistent(sample):
    """E belongs to R and t, R is a rotation, and the distances are those of the points to E."""
    R, t = sample["R"].astype(np.float64), sample["t"].astype(np.float64)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(t), 1, atol=1e-6)
    np.testing.assert_allclose(sample["E"], essential_matrix(R, t), atol=1e-6)
    want = squared_epipolar_distances(sample["x"], sample["E"])
    np.testing.assert_allclose(sample["distances"], want, rtol=1e-2, atol=1e-9)
    assert {value.dtype for value in sample.values()} == {np.dtype(np.float32)}


def in_front(sample):
    """Whether each match's point lies before both cameras (least squares on the two rays)."""
    x, R, t = (sample[key].astype(np.float64) for key in ("x", "R", "t"))
    found = []
    for x0, y0, x1, y1 in x:
        system = np.stack([-R @ [x0, y0, 1], [x1, y1, 1]], 1)
        found.append((np.linalg.lstsq(system, t, rcond=None)[0] > 0).all())
    return np.array(found)


def rotate_in_plane(sample, angle0, angle1):
    return aug.rotate_cameras(sample, aug.roll_rotation(angle0), aug.roll_rotation(angle1))


ISOMETRIES = {
    "swap": aug.swap_images,
    "mirror": aug.mirror,
    "roll": lambda sample: rotate_in_plane(sample, 0.7, -2.5),
    "half turn": lambda sample: rotate_in_plane(sample, np.pi, 0.0),
}


@pytest.mark.parametrize("name", ISOMETRIES)
def test_isometries_keep_distances_and_geometry(mixed, name):
    changed = ISOMETRIES[name](mixed)
    if name in ("swap", "mirror"):
        np.testing.assert_array_equal(changed["distances"], mixed["distances"])
    else:  # worked out anew, from float32 coordinates
        np.testing.assert_allclose(changed["distances"], mixed["distances"], rtol=2e-3, atol=1e-9)
    assert_consistent(changed)
    assert not np.allclose(changed["x"], mixed["x"], atol=1e-2)
    assert in_front(aug.take(changed, slice(0, 31))).all()


def test_swap_and_mirror_undo_themselves(mixed):
    for change in (aug.swap_images, aug.mirror):
        twice = change(change(mixed))
        for key in mixed:
            np.testing.assert_allclose(twice[key], mixed[key], atol=1e-6)


@pytest.mark.parametrize(("name", "tolerance"), [("mirror", 2e-3), ("roll", 2e-3), ("swap", 0.25)])
def test_keypoint_changes_follow_the_geometry(exact, name, tolerance):
    """Exactly where a patch parallel to image 0 stays so; it is another one after a swap."""
    changed = ISOMETRIES[name](exact)
    wanted = expected_change(changed)
    np.testing.assert_allclose(changed["keypoint_change"], wanted, atol=tolerance)
    assert np.abs(changed["keypoint_change"] - exact["keypoint_change"]).max() > 0.3


def test_keypoint_changes_follow_tilted_and_rescaled_cameras(exact):
    tilts = aug._tilt_rotation(np.array([0.05, 0.03])), aug._tilt_rotation(np.array([-0.04, 0.05]))
    changed = aug.rotate_cameras(exact, aug.roll_rotation(2) @ tilts[0], tilts[1])
    np.testing.assert_allclose(changed["keypoint_change"], expected_change(changed), atol=0.15)
    scaled = aug.focal_error(exact, 1.1, 0.9)["keypoint_change"] - exact["keypoint_change"]
    np.testing.assert_allclose(scaled, np.tile([0, 0, np.log(0.9 / 1.1)], (31, 1)), atol=1e-6)


def test_unknown_keypoint_changes_stay_unknown(exact):
    unknown = aug.drop_keypoint_change(exact)
    assert not unknown["keypoint_change"].any()
    for change in ISOMETRIES.values():
        assert not change(unknown)["keypoint_change"].any()


def test_roll_turns_x_towards_y(exact):
    turned = rotate_in_plane(exact, np.pi / 2, 0.0)
    np.testing.assert_allclose(turned["x"][:, 0], -exact["x"][:, 1], atol=1e-6)
    np.testing.assert_allclose(turned["x"][:, 1], exact["x"][:, 0], atol=1e-6)
    np.testing.assert_allclose(turned["x"][:, 2:], exact["x"][:, 2:], atol=1e-6)


def test_rotated_cameras_stay_exact(exact, mixed):
    rotations = (
        aug._tilt_rotation(np.array([0.1, 0.05])),
        aug.roll_rotation(2) @ aug._tilt_rotation(np.array([-0.08, 0.1])),
    )
    turned = aug.rotate_cameras(exact, *rotations)
    assert turned["distances"].max() < 1e-11
    assert_consistent(turned)
    assert in_front(turned).all()
    assert_consistent(aug.rotate_cameras(mixed, *rotations))


def test_points_turned_out_of_view_are_left_out(exact):
    turned = aug.rotate_cameras(exact, aug._tilt_rotation(np.array([np.pi, 0])), np.eye(3))
    assert len(turned["x"]) == len(turned["side_info"]) == len(turned["keypoint_change"]) == 0


def test_focal_error_keeps_labels_and_pose(mixed):
    changed = aug.focal_error(mixed, 1.02, 0.97)
    np.testing.assert_allclose(changed["x"], mixed["x"] * [1.02, 1.02, 0.97, 0.97], rtol=1e-6)
    for key in ("distances", "R", "t", "E", "side_info"):
        np.testing.assert_array_equal(changed[key], mixed[key])


def test_subsample_takes_matching_rows(mixed):
    chosen = aug.subsample(mixed, np.random.default_rng(0), 40)
    assert len(chosen["x"]) == 40
    rows = {tuple(np.r_[row]) for row in zip(*(mixed[k] for k in aug_keys()))}
    got = {tuple(np.r_[row]) for row in zip(*(chosen[k] for k in aug_keys()))}
    assert got <= rows
    assert len(got) == 40
    assert aug.subsample(mixed, np.random.default_rng(0), 131) is mixed


def aug_keys():
    return ("x", "side_info", "keypoint_change", "distances")


@pytest.mark.parametrize("share", [0.05, 0.24, 0.5])
def test_subsample_reaches_a_share(mixed, share):
    chosen = aug.subsample(mixed, np.random.default_rng(0), 60, true_share=share)
    true = chosen["distances"] < TRUE_MATCH_DISTANCE
    assert len(true) <= 61
    assert abs(true.mean() - share) < 0.02
    # Shuffled: not all of one kind first.
    assert not (np.diff(true.astype(int)) <= 0).all()


def test_subsample_without_the_wanted_kind(exact):
    chosen = aug.subsample(exact, np.random.default_rng(0), 20, true_share=0.3)
    assert len(chosen["x"]) >= 1
    assert (chosen["distances"] < TRUE_MATCH_DISTANCE).all()
    with pytest.raises(ValueError, match="true_share"):
        aug.subsample(exact, np.random.default_rng(0), 20, true_share=1.0)


def test_crop_keeps_a_window_of_one_image(mixed):
    for seed in range(10):
        kept = aug.crop(mixed, np.random.default_rng(seed), least=10)
        assert 10 <= len(kept["x"]) <= 131
        rows = {tuple(row) for row in kept["x"]}
        left_out = np.array([tuple(row) not in rows for row in mixed["x"]])
        outside = (mixed["x"] < kept["x"].min(0)) | (mixed["x"] > kept["x"].max(0))
        by_image = outside[:, :2].any(1), outside[:, 2:].any(1)
        assert any((o == left_out).all() for o in by_image)
    everything = aug.crop(mixed, np.random.default_rng(0), least=131)
    assert len(everything["x"]) == 131


def test_outliers_use_the_keypoints_of_the_pair(mixed, exact):
    assert len(mixed["x"]) == 131
    assert_consistent(mixed)
    np.testing.assert_array_equal(mixed["x"][:31], exact["x"])
    for columns in (slice(0, 2), slice(2, 4)):
        known = {tuple(row) for row in exact["x"][:, columns]}
        assert {tuple(row) for row in mixed["x"][31:, columns]} <= known
    assert (mixed["distances"][31:] > TRUE_MATCH_DISTANCE).mean() > 0.7
    # The side information of wrong matches is taken over where the pair has some.
    more = aug.add_outliers(mixed, np.random.default_rng(1), 50)
    wrong = mixed["side_info"][mixed["distances"] >= TRUE_MATCH_DISTANCE]
    assert {tuple(row) for row in more["side_info"][131:]} <= {tuple(row) for row in wrong}


def test_keypoint_changes_of_added_outliers_are_those_of_wrong_matches(mixed):
    more = aug.add_outliers(mixed, np.random.default_rng(1), 50)
    wrong = mixed["keypoint_change"][mixed["distances"] >= TRUE_MATCH_DISTANCE]
    assert {tuple(row) for row in more["keypoint_change"][131:]} <= {tuple(row) for row in wrong}


def test_dropped_side_is_neutral(mixed):
    neutral = np.float32([*NEUTRAL.values()])
    assert (aug.drop_side_info(mixed)["side_info"] == neutral).all()
    partly = aug.drop_candidates(mixed)["side_info"]
    np.testing.assert_array_equal(partly[:, :2], mixed["side_info"][:, :2])
    assert (partly[:, 2:] == neutral[2:]).all()


def test_swapped_ratios_are_those_of_the_other_direction(mixed):
    side_info, swapped = mixed["side_info"], aug.swap_images(mixed)["side_info"]
    mutual = side_info[:, 1] > 0
    assert mutual.any() and not mutual.all()
    np.testing.assert_array_equal(swapped[mutual][:, [2, 1, 0, 3, 4]], side_info[mutual])
    np.testing.assert_array_equal(swapped[~mutual], side_info[~mutual])


def test_augment_without_augmentation_is_the_identity(mixed):
    same = aug.augment(mixed, np.random.default_rng(0), 131, aug.NO_AUGMENTATION)
    for key in mixed:
        np.testing.assert_allclose(same[key], mixed[key], atol=1e-6)


def test_augment_is_consistent_and_deterministic(mixed):
    everything = aug.Augmentation(focal=0.0, crop=0.5, outliers=0.5, reshare=0.5, swap=0.5)
    for seed in range(30):
        sample, again = (
            aug.augment(mixed, np.random.default_rng(seed), 90, everything) for _ in range(2)
        )
        assert_consistent(sample)
        assert 8 <= len(sample["x"]) <= 91
        for key in sample:
            np.testing.assert_array_equal(sample[key], again[key])
        ratio, mutual = sample["side_info"].T[:2]
        assert ((ratio > 0) & (ratio <= 1)).all()
        assert set(np.unique(mutual)) <= {0.0, 1.0}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(aug.Augmentation)])
def test_each_setting_changes_something(mixed, name):
    config = dataclasses.replace(aug.NO_AUGMENTATION, **{name: 1.0})
    changed = aug.augment(mixed, np.random.default_rng(3), 100, config)
    plain = aug.augment(mixed, np.random.default_rng(3), 100, aug.NO_AUGMENTATION)
    assert any(
        changed[k].shape != plain[k].shape or not np.allclose(changed[k], plain[k], atol=1e-5)
        for k in plain
    )


@pytest.mark.parametrize(("name", "value"), [("swap", 1.2), ("mirror", -0.1), ("focal", -1)])
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=name):
        aug.Augmentation(**{name: value})


def test_bad_number_of_matches(mixed):
    with pytest.raises(ValueError, match="num_matches"):
        aug.augment(mixed, np.random.default_rng(0), 0)
