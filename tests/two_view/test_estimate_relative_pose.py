"""estimate_relative_pose with the shipped filter: known poses, and every hopeless input."""

import numpy as np
import pytest
import two_view_scenes
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene, pose_error_deg

import n3match
from n3match import PoseStatus
from n3match.two_view import pose_from_logits

pytestmark = pytest.mark.arithmetic

ESTIMATORS = ["opencv_usac", "opencv_ransac", "poselib"]


def _estimator(name):
    if name == "poselib":
        pytest.importorskip("poselib", reason="PoseLib is an optional extra")
    return name


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("motion", ["side", "forward"])
@pytest.mark.parametrize("with_side", [True, False])
def test_known_pose_among_wrong_matches(estimator, motion, with_side):
    scene = make_scene(200, 800, motion=motion)
    pose = n3match.estimate_relative_pose(
        scene.points0,
        scene.points1,
        K0,
        K1,
        side_info=scene.side_info if with_side else None,
        estimator=_estimator(estimator),
    )
    assert pose.status is PoseStatus.OK
    assert pose_error_deg(pose, scene) < 2.0
    assert pose.inliers.shape == pose.probability.shape == (1000,)
    assert scene.right[pose.inliers].mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(pose.t), 1.0)


@pytest.mark.parametrize("with_side", [True, False])
def test_filter_tells_right_from_wrong(with_side):
    scene = make_scene(150, 850, seed=3)
    logits = n3match.match_logits(
        scene.points0, scene.points1, K0, K1, side_info=scene.side_info if with_side else None
    )
    kept = logits > 0
    assert scene.right[kept].mean() > 0.7
    assert kept[scene.right].mean() > 0.7


def test_few_clean_matches_are_enough():
    scene = make_scene(40, 0, seed=5)
    pose = n3match.estimate_relative_pose(scene.points0, scene.points1, K0, K1)
    assert pose.ok
    assert pose_error_deg(pose, scene) < 5.0


def _logits(scene, net, order=slice(None), moved=1.0):
    return n3match.match_logits(
        scene.points0[order] * moved, scene.points1[order], K0, K1,
        side_info=scene.side_info[order], filter=net,
    )


@pytest.fixture(scope="module")
def filter_in_double():
    return n3match.MatchFilter.from_pretrained("sift").double()


@pytest.mark.parametrize("seed", [6, 12])
def test_match_order_does_not_matter(seed, filter_in_double):
    # In float64, where a choice between two neighbours at the same distance would show.
    scene = make_scene(100, 300, seed=seed)
    order = np.random.default_rng(0).permutation(400)
    a = _logits(scene, filter_in_double)
    np.testing.assert_allclose(_logits(scene, filter_in_double, order), a[order], atol=1e-8)


@pytest.mark.parametrize("seed", [6, 12])
def test_float32_costs_a_logit_little(seed, filter_in_double):
    # The second pass sees the logarithm of each match's distance to its epipolar line: of a match
    # on it, coordinates that differ in float32's last digit already move the logit by 1e-3.
    scene = make_scene(100, 300, seed=seed)
    truth = _logits(scene, filter_in_double)
    rng = np.random.default_rng(0)
    moved = max(
        np.abs(_logits(scene, filter_in_double, moved=1 + rng.uniform(-1, 1, (400, 2)) * 2**-24)
               - truth).max()
        for _ in range(8)
    )
    assert moved < 0.02
    # Every layer rounds as well; together they move a logit up to twice as far as that.
    for order in (np.arange(400), rng.permutation(400)):
        np.testing.assert_allclose(_logits(scene, "sift", order), truth[order], atol=4 * moved)


def test_same_seed_same_pose():
    scene = make_scene(100, 400, seed=7)
    a, b = (
        n3match.estimate_relative_pose(scene.points0, scene.points1, K0, K1, seed=4)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a.R, b.R)
    np.testing.assert_array_equal(a.inliers, b.inliers)


def test_without_filter():
    scene = make_scene(500, 200, seed=8)
    pose = n3match.estimate_relative_pose(scene.points0, scene.points1, K0, K1, filter=None)
    assert pose.ok
    assert pose.probability is None
    assert pose_error_deg(pose, scene) < 2.0


@pytest.mark.parametrize("count", [0, 1, 4, 5, 7, 8])
def test_few_matches_are_an_ordinary_result(count):
    scene = make_scene(count, 0, seed=9)
    pose = n3match.estimate_relative_pose(scene.points0, scene.points1, K0, K1)
    assert pose.inliers.shape == (count,)
    if count < 5:
        assert pose.status is PoseStatus.TOO_FEW_MATCHES
    if not pose.ok:
        assert pose.t is None and pose.E is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pure_outliers_give_no_pose(seed, estimator):
    rng = np.random.default_rng(seed)
    pose = n3match.estimate_relative_pose(
        rng.uniform((0, 0), SIZE0, (1500, 2)),
        rng.uniform((0, 0), SIZE1, (1500, 2)),
        K0,
        K1,
        side_info=np.stack([rng.uniform(0.85, 1, 1500), rng.random(1500) < 0.3], 1),
        estimator=_estimator(estimator),
    )
    assert not pose.ok
    assert pose.R is None


def test_identical_images_give_no_translation():
    scene = make_scene(400, 0, seed=10)
    pose = n3match.estimate_relative_pose(scene.points0, scene.points0, K0, K0)
    assert pose.status is PoseStatus.NO_PARALLAX
    np.testing.assert_allclose(pose.R, np.eye(3), atol=1e-3)
    assert pose.t is None


def test_what_the_filter_refuses_is_no_parallax():
    """Matches refused, which agree with each other: the rotation of those kept is the answer."""
    scene = two_view_scenes.make_scene("near_and_far", noise=0.2)
    cameras = scene.K0, scene.K1
    turned = np.c_[scene.points0, np.ones(len(scene.true))] @ np.linalg.inv(scene.K0).T @ scene.R.T
    turned = turned @ scene.K1.T
    near = np.linalg.norm(turned[:, :2] / turned[:, 2:] - scene.points1, axis=1) > 5
    assert 20 < np.count_nonzero(near) < 60
    points = scene.points0, scene.points1
    kept = pose_from_logits(*points, *cameras, np.where(near, -3.0, 3.0))
    assert kept.status is PoseStatus.NO_PARALLAX
    assert pose_from_logits(*points, *cameras, np.full(len(near), 3.0)).ok


def test_all_points_in_one_place():
    points = np.full((300, 2), 100.0)
    pose = n3match.estimate_relative_pose(points, points + 7, K0, K1)
    assert pose.status is not PoseStatus.OK
    assert pose.t is None


BAD_MATCHES = [
    ({"points0": np.full((20, 2), np.nan)}, ValueError, "points.*finite"),
    ({"points1": np.full((20, 2), np.inf)}, ValueError, "points.*finite"),
    ({"points0": np.zeros((20, 3))}, ValueError, "points.*shape"),
    ({"points0": np.zeros((19, 2))}, ValueError, "points0 and points1"),
    ({"K0": np.zeros((3, 3))}, ValueError, "K"),
    ({"K1": np.full((3, 3), np.nan)}, ValueError, "K"),
    ({"K1": np.eye(4)}, ValueError, "K"),
    ({"estimator": "magic"}, ValueError, "estimator"),
    ({"threshold": -1.0}, ValueError, "threshold"),
]
BAD_FILTERS = [
    ({"side_info": np.zeros((20, 6))}, ValueError, "side_info must have shape"),
    ({"side_info": np.full((20, 2), np.nan)}, ValueError, "side_info holds NaN"),
    ({"filter": "no-such"}, FileNotFoundError, "shipped"),
    ({"filter": 3}, TypeError, "filter must be"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        *BAD_MATCHES,
        *BAD_FILTERS,
        *(({"filter": None, **change}, error, message) for change, error, message in BAD_MATCHES),
    ],
)
def test_bad_input_is_named(change, error, message):
    scene = make_scene(20, 0)
    good = {"points0": scene.points0, "points1": scene.points1, "K0": K0, "K1": K1}
    with pytest.raises(error, match=message):
        n3match.estimate_relative_pose(**{**good, **change})
