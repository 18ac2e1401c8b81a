import numpy as np
import pytest
import torch

from n3match.datasets.pairs.sample import (
    TRUE_MATCH_DISTANCE,
    essential_matrix,
    squared_epipolar_distances,
)
from n3match.datasets.synthetic.pairs import SyntheticPairs, random_keypoints
from n3match.datasets.synthetic.scenes import (
    SCENE_WEIGHTS,
    Camera,
    Scene,
    look_at,
    random_camera,
    random_scene,
    rotation,
)
from n3match.geometry import symmetric_epipolar_distance


def scene_of(planes=(), solids=(), num_boxes=0, backdrop=50.0):
    return Scene(
        kind="plane",
        normals=np.array([n for n, _ in planes], float).reshape(-1, 3),
        offsets=np.array([d for _, d in planes], float),
        to_local=np.array([m for m, _ in solids], float).reshape(-1, 3, 3),
        centres=np.array([c for _, c in solids], float).reshape(-1, 3),
        num_boxes=num_boxes,
        backdrop=backdrop,
        roughness=0.0,
        waves=np.zeros((0, 4)),
        steps=np.zeros((0, 4)),
        lattice=np.zeros((2, 3)),
    )


def depths(sample, chosen):
    """Depths (2, M) in cameras 0 and 1 of the points on the chosen rays (least squares)."""
    x = sample["x"][chosen].astype(np.float64)
    ray0 = np.c_[x[:, :2], np.ones(len(x))] @ sample["R"].T.astype(np.float64)
    ray1 = np.c_[x[:, 2:], np.ones(len(x))]
    # depth1 ray1 - depth0 R ray0 = t
    system = np.stack([-ray0, ray1], 2)
    t = sample["t"].astype(np.float64)
    return np.array([np.linalg.lstsq(a, t, rcond=None)[0] for a in system]).reshape(-1, 2).T


@pytest.mark.parametrize("kind", SCENE_WEIGHTS)
def test_sample_of_every_scene(kind):
    sample = SyntheticPairs(1, (301, 301), scenes=[kind]).sample(4)
    shapes = {"x": (301, 4), "side_info": (301, 5), "R": (3, 3), "t": (3,), "E": (3, 3)}
    shapes |= {"keypoint_change": (301, 3), "distances": (301,)}
    assert {key: value.shape for key, value in sample.items()} == shapes
    for key, value in sample.items():
        assert value.dtype == np.float32, key
        assert np.isfinite(value).all(), key
    R, t, E = (sample[key].astype(np.float64) for key in ("R", "t", "E"))
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(R) > 0
    np.testing.assert_allclose(np.linalg.norm(t), 1, atol=1e-6)
    np.testing.assert_allclose(E, np.cross(np.eye(3), t) @ R / np.sqrt(2), atol=1e-6)
    ratio, mutual, back_ratio, _, apart = sample["side_info"].T
    assert (ratio > 0).all()
    assert (ratio <= 1).all()
    assert set(np.unique(mutual)) <= {0.0, 1.0}
    assert (back_ratio[mutual > 0] <= 1).all()
    assert (back_ratio[mutual == 0] >= 1).all()
    assert np.abs(apart).max() <= 1


def test_keypoint_shapes_tell_right_matches_from_wrong_ones():
    """As on real photographs: right ones turn alike and keep their size within some 20 %."""
    pairs, looked_at = SyntheticPairs(3, (1000, 1000)), 0
    for index in range(20):
        sample = pairs.sample(index)
        cosine, sine, log_scale = sample["keypoint_change"].T
        np.testing.assert_allclose(np.hypot(cosine, sine), 1, atol=1e-6)
        right = (sample["distances"] < 1e-6) & (sample["side_info"][:, :2] @ [-1, 1] > 0.3)
        wrong = sample["distances"] > 1e-3
        if right.sum() < 10:  # the hardest pairs have too few to tell
            continue
        looked_at += 1
        length = [np.hypot(cosine[chosen].mean(), sine[chosen].mean()) for chosen in (right, wrong)]
        assert length[0] > 0.7 > length[1]
        spread = [
            np.subtract(*np.percentile(log_scale[chosen], [75, 25])) for chosen in (right, wrong)
        ]
        assert spread[0] < 0.6 * spread[1]
    assert looked_at >= 6


def test_keypoint_shapes_are_those_of_the_geometry():
    """Image 1 of a rolled camera turns every right match by the roll (no tilt, far scene)."""
    samples = SyntheticPairs(5, (800, 800), scenes=["plane"])
    differences = []
    for index in range(30):
        sample = samples.sample(index)
        right = (sample["distances"] < 1e-6) & (sample["side_info"][:, :2] @ [-1, 1] > 0.3)
        R = sample["R"]
        if R[2, 2] < 0.97 or right.sum() < 10:
            continue
        roll = np.arctan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1])
        cosine, sine, _ = sample["keypoint_change"][right].T
        differences.append(abs(np.angle(np.median(cosine) + 1j * np.median(sine)) - roll))
    differences = np.minimum(differences, 2 * np.pi - np.array(differences))
    assert len(differences) >= 5
    assert np.median(differences) < np.radians(8)


def test_distances_agree_with_the_library():
    sample = SyntheticPairs(2, (400, 400)).sample(0)
    x = torch.from_numpy(sample["x"]).double()
    want = symmetric_epipolar_distance(x[:, :2], x[:, 2:], torch.from_numpy(sample["E"]).double())
    np.testing.assert_allclose(sample["distances"], want.numpy(), rtol=1e-3, atol=1e-10)


def test_distance_of_a_known_match():
    # Sideways motion: epipolar lines are rows, so the distance is the difference in y, twice.
    E = essential_matrix(np.eye(3), np.array([1.0, 0, 0]))
    x = np.array([[0.1, 0.2, 0.4, 0.2], [0.1, 0.2, -0.4, 0.23]])
    np.testing.assert_allclose(squared_epipolar_distances(x, E), [0, 2 * 0.03**2], atol=1e-9)


def test_distance_at_the_epipoles_is_finite():
    E = essential_matrix(np.eye(3), np.array([0.0, 0, 1]))
    assert np.isfinite(squared_epipolar_distances(np.zeros((1, 4)), E)).all()


def test_true_matches_are_there_and_lie_before_both_cameras():
    pairs = SyntheticPairs(3, (1000, 1000))
    rng = np.random.default_rng(0)
    excess, in_front = [], []
    for index in range(40):
        sample = pairs.sample(index)
        x = sample["x"].copy()
        x[:, 2:] = x[rng.permutation(len(x)), 2:]
        chance = (squared_epipolar_distances(x, sample["E"]) < TRUE_MATCH_DISTANCE).mean()
        true = sample["distances"] < TRUE_MATCH_DISTANCE
        excess.append(true.mean() - chance)
        sure = (sample["distances"] < 1e-6) & (sample["side_info"][:, :2] @ [-1, 1] > 0.3)
        in_front += (depths(sample, sure) > 0).all(0).tolist()
    assert np.min(excess) > 0.0
    # Almost no parallax can put a noisy point behind a camera, a wrong sign of t most of them.
    assert len(in_front) > 500
    assert np.mean(in_front) > 0.85


def test_shares_and_rotations_cover_the_range():
    pairs = SyntheticPairs(4, (300, 300))
    shares, angles = [], []
    for index in range(150):
        sample = pairs.sample(index)
        shares.append((sample["distances"] < TRUE_MATCH_DISTANCE).mean())
        angles.append(np.degrees(np.arccos(np.clip((np.trace(sample["R"]) - 1) / 2, -1, 1))))
    assert 0.05 < np.median(shares) < 0.3
    assert np.quantile(shares, 0.1) < 0.06
    assert np.max(shares) > 0.5
    assert 10 < np.median(angles) < 60
    assert np.max(angles) > 150


def test_side_information_and_shared_ends_look_like_descriptors():
    pairs = SyntheticPairs(5, (2000, 2000))
    true_side, false_side, distinct = [], [], []
    for index in range(25):
        sample = pairs.sample(index)
        true = sample["distances"] < 4e-6
        wrong = sample["distances"] > TRUE_MATCH_DISTANCE
        true_side.append(sample["side_info"][true])
        false_side.append(sample["side_info"][wrong])
        ends = sample["x"][wrong][:, 2:]
        distinct.append(len(np.unique(ends, axis=0)) / len(ends))
    true_side, false_side = np.concatenate(true_side), np.concatenate(false_side)
    # Real RootSIFT pairs: medians of the ratio 0.66 and 0.964, mutual 0.84 and 0.27, ends 0.49.
    assert 0.6 < np.median(true_side[:, 0]) < 0.9 < np.median(false_side[:, 0]) < 0.98
    assert 0.15 < false_side[:, 1].mean() < 0.4 < 0.6 < true_side[:, 1].mean() < 0.9
    assert 0.35 < np.median(distinct) < 0.7


def test_deterministic_and_independent_of_order():
    pairs = SyntheticPairs(6, (200, 400))
    first = [pairs.sample(i) for i in range(4)]
    again = [SyntheticPairs(6, (200, 400)).sample(i) for i in (3, 2, 1, 0)][::-1]
    for a, b in zip(first, again):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    other = SyntheticPairs(7, (200, 400)).sample(0)
    assert not np.array_equal(other["R"], first[0]["R"])
    assert not np.array_equal(first[0]["R"], first[1]["R"])


def test_number_of_matches():
    pairs = SyntheticPairs(8, (50, 53))
    assert {len(pairs.sample(i)["x"]) for i in range(60)} == {50, 51, 52, 53}
    assert len(pairs.sample(0, num_matches=77)["x"]) == 77
    assert len(SyntheticPairs(8, (8, 8)).sample(1)["x"]) == 8


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"num_matches": (7, 20)}, "num_matches"),
        ({"num_matches": (30, 20)}, "num_matches"),
        ({"seed": -1}, "seed"),
        ({"scenes": ["moon"]}, "moon"),
    ],
)
def test_bad_arguments(kwargs, name):
    with pytest.raises(ValueError, match=name):
        SyntheticPairs(**kwargs)


def test_bad_count():
    with pytest.raises(ValueError, match="num_matches"):
        SyntheticPairs().sample(0, num_matches=3)


def test_rays_meet_planes_boxes_and_balls_where_they_should():
    directions = np.array([[0.0, 0, 1], [0.5, 0, 1], [0, -2, 1]]).T
    origin = np.zeros(3)
    wall = ([0.0, 0, 1], 4.0)
    box = (np.eye(3) / 0.5, [0.0, 0, 2])  # cube of side 1: its near face is at z = 1.5
    ball = (np.eye(3) / 0.5, [0.0, 0, 1])  # unit diameter: nearest point at z = 0.5
    plain = scene_of([wall]).cast(origin, directions)
    np.testing.assert_allclose(plain, [4, 4, 4])
    with_box = scene_of([wall], [box], num_boxes=1).cast(origin, directions)
    np.testing.assert_allclose(with_box, [1.5, 4, 4])
    with_both = scene_of([wall], [box, ball], num_boxes=1).cast(origin, directions)
    np.testing.assert_allclose(with_both[0], 0.5)
    # The ray (0.5, 0, 1) s: |ray s - centre| = 0.5 at 1.25 s² - 2 s + 0.75 = 0, s = 0.6.
    np.testing.assert_allclose(with_both[1], 0.6)
    nothing = scene_of(backdrop=10.0).cast(origin, directions)
    np.testing.assert_allclose(nothing * np.linalg.norm(directions, axis=0), 10)


def test_a_box_hides_what_is_behind_it():
    box = (np.eye(3) / 0.5, [0.0, 0, 2])
    scene = scene_of([([0.0, 0, 1], 4.0)], [box], num_boxes=1)
    ends = np.array([[0.0, 0, 4], [3, 0, 4]]).T
    np.testing.assert_allclose(scene.cast(np.zeros(3), ends), [1.5 / 4, 1])


def test_look_at_puts_the_target_on_the_axis():
    centre, target = np.array([0.3, -0.2, 0.1]), np.array([1.0, 2, 3])
    for roll in (0.0, 1.0):
        R = look_at(centre, target, np.array([0.0, 1, 0]), roll)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        local = R @ (target - centre)
        np.testing.assert_allclose(local[:2], 0, atol=1e-12)
        assert local[2] > 0
    # Without roll, "down" has no component along the image's x axis.
    assert abs((look_at(centre, target, np.array([0.0, 1, 0]), 0) @ [0, 1, 0])[0]) < 1e-12


def test_rotation_about_z():
    turned = rotation(np.array([0.0, 0, 2]), np.pi / 2) @ [1, 0, 0]
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-12)


def test_keypoints_stay_inside_and_are_uneven():
    camera = Camera(0.8, 0.5, 700.0)
    unevenness = []
    for seed in range(20):
        points = random_keypoints(np.random.default_rng(seed), 2000, camera)
        assert points.shape == (2000, 2)
        assert (np.abs(points) <= np.float32([0.8, 0.5])).all()
        counts = np.histogram2d(*points.T, bins=10)[0]
        unevenness.append(counts.var() / counts.mean())
    # Uniform points would give 1.
    assert np.median(unevenness) > 5


def test_fields_of_view():
    rng = np.random.default_rng(0)
    longer = [max(c.half_width, c.half_height) for c in (random_camera(rng) for _ in range(300))]
    degrees = 2 * np.degrees(np.arctan(longer))
    assert 29.9 < degrees.min() < 36
    assert 75 < degrees.max() < 95.1


def test_unknown_scene_is_refused():
    with pytest.raises(ValueError, match="kind"):
        random_scene(np.random.default_rng(0), "moon")
