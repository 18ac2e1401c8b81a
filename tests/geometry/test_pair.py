"""Is a pair real: what evidence says, and what statuses make of it."""

from dataclasses import replace

import numpy as np
import pytest
from two_view_scenes import K_A, make_scene, random_matches

from n3match.geometry import (
    PoseStatus,
    essential_from_pose,
    estimate_fundamental_from_matches,
    estimate_relative_pose_from_matches,
    fundamental,
    relative_pose,
    rotation_error_deg,
    sampson_distance,
    undistort_points,
)
from n3match.geometry.verification.agreement import Matches
from n3match.geometry.verification.pair import (
    evidence_name,
    pair_evidence,
    pair_probability,
)
from n3match.weights.verdict import (
    ESSENTIAL,
    FUNDAMENTAL,
    GEOMETRIES,
    PairVerdict,
    read_verdict,
    shipped_verdict,
)

PX = 1e-3


def _matches(scene, **known):
    x0, x1 = (undistort_points(p, K_A) for p in (scene.points0, scene.points1))
    return Matches(x0, x1, PX, 2000, **known)


def _change(count: int, right: np.ndarray) -> np.ndarray:
    """Keypoints that don't turn where right, and turn anyhow elsewhere."""
    angle = np.where(right, 0.0, np.random.default_rng(0).uniform(-np.pi, np.pi, count))
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)


def test_more_trusted_inliers_are_more_probable():
    found = []
    for count in (3, 12, 40, 200):
        scene = make_scene("general", count=count)
        matches = _matches(scene, logits=np.full(count, 2.0))
        found.append(pair_probability(matches, scene.true))
    assert found == sorted(found)
    assert found[0] < 0.5 < 0.9 < found[-1]


def test_a_filter_that_contradicts_itself_is_less_probable():
    scene = make_scene("general", count=30)
    crowd = make_scene("general", count=30, outliers=90)
    pure, mixed = (
        pair_probability(_matches(s, logits=np.full(len(s.true), 2.0)), s.true)
        for s in (scene, crowd)
    )
    assert mixed < pure


def test_keypoints_that_turn_together_are_more_probable():
    scene = make_scene("general", count=25)
    matches = _matches(scene, logits=np.full(25, 1.0))
    together, anyhow = (
        pair_probability(replace(matches, keypoint_change=_change(25, right)), scene.true)
        for right in (scene.true, ~scene.true)
    )
    assert anyhow < together


def test_nothing_is_improbable_whatever_is_known():
    scene = random_matches(30, 0)
    nothing = np.zeros(30, bool)
    for known in (
        {}, {"logits": np.full(30, 3.0)},
        {"logits": np.full(30, 3.0), "keypoint_change": _change(30, nothing)},
    ):
        for geometry in GEOMETRIES:
            matches = _matches(scene, **known)
            assert evidence_name(matches, geometry) in shipped_verdict().models
            assert pair_probability(matches, nothing, geometry) < 0.2


def test_keypoints_without_orientation_are_not_known_to_turn():
    scene = make_scene("general", count=40)
    logits = np.full(40, 3.0)
    unknown = _matches(scene, logits=logits, keypoint_change=np.zeros((40, 3)))
    assert evidence_name(unknown, FUNDAMENTAL) == "fundamental, logits"
    assert pair_evidence(unknown, scene.true) == pair_evidence(
        _matches(scene, logits=logits), scene.true
    )


def test_evidence_is_finite_for_any_inliers():
    scene = make_scene("general", count=40, outliers=10)
    matches = _matches(
        scene, logits=np.full(50, np.inf), keypoint_change=_change(50, scene.true)
    )
    points = replace(matches, x0=np.zeros((50, 2)), x1=np.zeros((50, 2)))
    for m in (matches, points):
        for count in (0, 1, 3, 4, 5, 50):
            evidence = pair_evidence(m, np.arange(50) < count)
            assert all(np.isfinite(value) for value in evidence.values())


def test_a_filters_few_picks_that_agree_are_a_pose():
    """36 matches of 2000 are no more than chance gives to whoever may pick them; but a filter that
    picks from wrong matches doesn't find such."""
    scene = make_scene("general", count=36, noise=0.3)
    options = {"num_putative": 2000, "weights": np.ones(36)}
    alone = estimate_relative_pose_from_matches(
        scene.points0, scene.points1, K_A, K_A, **options
    )
    known = {"logits": np.full(36, 3.0), "keypoint_change": _change(36, scene.true)}
    picked = estimate_relative_pose_from_matches(
        scene.points0, scene.points1, K_A, K_A, **options, **known
    )
    assert alone.status is PoseStatus.INSUFFICIENT_SUPPORT
    assert picked.ok
    assert picked.pair_probability >= shipped_verdict().threshold[ESSENTIAL]
    assert rotation_error_deg(picked.R, scene.R) < 1


def test_a_filters_wrong_picks_beside_a_rotation_are_no_parallax():
    """Of 270 wrong matches it keeps the five that agree best with a translation."""
    scene = make_scene("rotation", count=30, outliers=270, noise=0.2, seed=1)
    x0, x1 = (undistort_points(p, K_A) for p in (scene.points0, scene.points1))
    best = np.inf
    for t in np.random.default_rng(0).normal(size=(3000, 3)):
        distance = np.sqrt(sampson_distance(x0, x1, essential_from_pose(scene.R, t)))
        distance[scene.true] = np.inf
        fifth = np.partition(distance, 4)[4]
        if fifth < best:
            best, picked = fifth, distance <= fifth
    rows = np.flatnonzero(scene.true | picked)
    pose = estimate_relative_pose_from_matches(
        scene.points0[rows], scene.points1[rows], K_A, K_A, num_putative=300,
        logits=np.full(len(rows), 3.0),
    )
    assert len(rows) == 35
    assert pose.status is PoseStatus.NO_PARALLAX
    assert rotation_error_deg(pose.R, scene.R) < 0.2


@pytest.mark.parametrize("filtered", [True, False])
def test_least_probability_is_kept_to(filtered):
    scene = make_scene("general", count=200)
    known = {"logits": np.full(200, 3.0)} if filtered else {}
    size = (1280, 960)
    for estimate, cameras in (
        (estimate_relative_pose_from_matches, (K_A, K_A)),
        (estimate_fundamental_from_matches, (size, size)),
    ):
        free = estimate(scene.points0, scene.points1, *cameras, **known)
        strict = estimate(
            scene.points0, scene.points1, *cameras, min_pair_probability=1.0, **known
        )
        assert free.ok and 0.9 < free.pair_probability < 1
        assert strict.status is PoseStatus.INSUFFICIENT_SUPPORT
        assert strict.pair_probability == free.pair_probability
        assert "at least 1 wanted" in strict.detail


def test_without_cameras_more_is_wanted(monkeypatch):
    """What known cameras make a pose isn't enough for a fundamental matrix."""
    threshold = shipped_verdict().threshold
    assert threshold[ESSENTIAL] < threshold[FUNDAMENTAL]
    between = (threshold[ESSENTIAL] + threshold[FUNDAMENTAL]) / 2
    for module in (fundamental, relative_pose):
        monkeypatch.setattr(module, "pair_probability", lambda *_: between)
    scene = make_scene("general", count=200)
    logits, size = np.full(200, 3.0), (1280, 960)
    pose = estimate_relative_pose_from_matches(
        scene.points0, scene.points1, K_A, K_A, logits=logits
    )
    matrix = estimate_fundamental_from_matches(
        scene.points0, scene.points1, size, size, logits=logits
    )
    assert pose.ok
    assert matrix.status is PoseStatus.INSUFFICIENT_SUPPORT
    assert f"at least {threshold[FUNDAMENTAL]:g} wanted" in matrix.detail


def test_every_status_has_a_probability():
    rotation = make_scene("rotation", count=300)
    few = make_scene("general", count=4)
    wrong = random_matches(300, 0)
    turned, small, chance = (
        estimate_relative_pose_from_matches(s.points0, s.points1, K_A, K_A)
        for s in (rotation, few, wrong)
    )
    assert turned.status is PoseStatus.NO_PARALLAX and turned.pair_probability > 0.9
    assert small.status is PoseStatus.TOO_FEW_MATCHES and small.pair_probability < 0.2
    assert not chance.ok and chance.pair_probability < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.ones(19)}, r"logits must have shape \(20,\) without NaN, got \(19,\)"),
        ({"logits": np.full(20, np.nan)}, "logits must have shape"),
        ({"keypoint_change": np.ones((20, 2))}, r"of shape \(20, 3\), got \(20, 2\)"),
        ({"min_pair_probability": 1.5}, "min_pair_probability must be between 0 and 1, got 1.5"),
        ({"min_pair_probability": np.nan}, "min_pair_probability must be"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    scene = random_matches(20, 0)
    with pytest.raises(ValueError, match=message):
        estimate_relative_pose_from_matches(scene.points0, scene.points1, K_A, K_A, **changes)


def test_a_verdict_comes_back_from_its_file(tmp_path):
    models = {"essential, points": {"inliers": 2.0, "constant": -3.0}}
    verdict = PairVerdict({ESSENTIAL: 0.7, FUNDAMENTAL: 0.8}, models, {"a": 1})
    (tmp_path / "v.json").write_text(verdict.to_text(), encoding="utf-8")
    assert read_verdict(tmp_path / "v.json") == verdict
    half = PairVerdict({ESSENTIAL: 0.7}, models, {}).to_text()
    for text in ("", "[]", "{}", '{"format": "another"}', half):
        (tmp_path / "v.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"v\.json: no verdict of n3match"):
            read_verdict(tmp_path / "v.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_verdict(tmp_path / "none.json")


def test_few_inliers_in_a_crowd_are_not_enough():
    """Wrong matches aren't independent where a scene repeats itself: what chance doesn't give, it
    does."""
    scene = make_scene("general", count=19, noise=0.1)
    crowd = make_scene("general", count=19, outliers=130, noise=0.1)
    alone, crowded = (
        estimate_relative_pose_from_matches(s.points0, s.points1, K_A, K_A)
        for s in (scene, crowd)
    )
    assert alone.ok
    assert crowded.log10_false_alarms < -3
    assert crowded.status is PoseStatus.INSUFFICIENT_SUPPORT
