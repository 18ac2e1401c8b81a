"""Statuses on generated scenes that have no pose, or hide it."""

import zlib

import numpy as np
import pytest

from n3match.datasets.synthetic.degenerate import KINDS, K, degenerate_matches
from n3match.geometry import PoseStatus, essential_from_pose, sampson_distance
from n3match.pipelines.benchmarks.status import StatusCase, run_cases, status_report
from n3match.two_view import estimate_relative_pose


@pytest.mark.parametrize("kind", KINDS)
def test_right_matches_are_of_the_motions_and_others_are_not(kind):
    scene = degenerate_matches(kind, 0.0, 0.4, np.random.default_rng(1))
    again = degenerate_matches(kind, 0.0, 0.4, np.random.default_rng(1))
    np.testing.assert_array_equal(scene.points0, again.points0)
    x0, x1 = ((p - K[:2, 2]) / 1000 for p in (scene.points0, scene.points1))
    near = np.zeros(len(x0), bool)
    for R, t in scene.motions:
        if t.any():
            near |= np.sqrt(sampson_distance(x0, x1, essential_from_pose(R, t))) < 1e-9
        else:
            turned = np.c_[x0, np.ones(len(x0))] @ R.T
            near |= np.abs(turned[:, :2] / turned[:, 2:] - x1).max(axis=1) < 1e-9
    assert near[scene.right].all()
    assert not near[~scene.right].all()
    wanted = 0 if kind == "outliers" else 0.6
    assert np.mean(scene.right) == pytest.approx(wanted, abs=0.12)


def test_bad_arguments_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="kind must be one of"):
        degenerate_matches("hill", 0.0, 0.0, rng)
    with pytest.raises(ValueError, match="wrong must be at least 0 and below 1, got 1"):
        degenerate_matches("far", 0.0, 1.0, rng)


def test_nothing_is_confidently_wrong():
    # Noise on both sides of the threshold of inliers, 1 px.
    cases = run_cases(["none"], 1, noise=(0.5, 2.0), wrong=(0.0, 0.5))
    assert not [case for case in cases if case.is_wrong]
    of = {kind: [case.status for case in cases if case.kind == kind] for kind in KINDS}
    assert {*of["rotation"]} <= {PoseStatus.NO_PARALLAX}
    assert not {PoseStatus.OK, PoseStatus.NO_PARALLAX} & {*of["outliers"]}
    assert {*of["general"]} == {PoseStatus.OK}


def test_noise_that_the_threshold_cuts_off_is_not_confident():
    cases = run_cases(["sift"], 8, noise=(2.0,), wrong=(0.0,), kinds=("one side",))
    assert not [case for case in cases if case.is_wrong]


def test_what_a_filter_refuses_settles_no_plane():
    """The 290 matches that are kept leave two poses open; all 300 chose the wrong one."""
    key = repr(("forward plane", 0.5, 0.0, 24)).encode()
    scene = degenerate_matches(
        "forward plane", 0.5, 0.0, np.random.default_rng([zlib.crc32(key), 2])
    )
    pose = estimate_relative_pose(scene.points0, scene.points1, K, K, filter="sift")
    assert pose.status is PoseStatus.DEGENERATE
    assert "plane" in pose.detail


def test_another_seed_draws_other_scenes():
    options = {"noise": (0.5,), "wrong": (0.3,), "kinds": ("general",)}
    usual, same, other = (run_cases(["none"], 1, seed=s, **options)[0].error for s in (0, 0, 1))
    assert usual == same != other


def test_report_counts_what_is_wrong():
    right = StatusCase("general", 0.5, 0.0, "none", PoseStatus.OK, 1.0, 0.99)
    wrong = StatusCase("far", 2.0, 0.6, "none", PoseStatus.OK, 40.0, 0.97)
    refused = StatusCase("far", 2.0, 0.6, "none", PoseStatus.NO_PARALLAX, 180.0, 0.97)
    report = status_report([right, wrong, refused])
    assert "1 confident wrong poses (> 10° at status ok) in 3 scenes, 33.33 [0.84, 90." in report
    lines = [line.split("|") for line in report.splitlines() if "|" in line]
    rows = {cells[1].strip(): cells for cells in lines}
    assert rows["far"][-2].strip() == "1" and rows["general"][-2].strip() == ""
    assert [cell.strip() for cell in rows["60 %"][2:4]] == ["0 of 0", "1 of 2"]
    assert [cell.strip() for cell in rows["0.95 … 1"][2:5]] == ["3", "2", "50.0"]
