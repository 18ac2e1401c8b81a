"""Statuses on generated scenes that have no pose, or hide it."""

import numpy as np
import pytest

from n3match.datasets.synthetic.degenerate import KINDS, K, degenerate_matches
from n3match.geometry import PoseStatus, essential_from_pose, sampson_distance
from n3match.pipelines.benchmarks import status
from n3match.pipelines.benchmarks.status import StatusCase, run_cases, status_report
from n3match.pipelines.cli import main
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


def test_a_few_matches_that_noise_left_within_the_threshold_are_not_confident():
    """Of 30 right matches with noise of twice the threshold 19 are near a pose 20° off."""
    cases = run_cases(
        ["sift"], 6, noise=(2.0,), wrong=(0.9,), kinds=("forward plane",), seed=1
    )
    assert not [case for case in cases if case.is_wrong]


def _pose_of(kind, noise, wrong, i, seed):
    """What is said of the i-th scene with this noise and share of wrong matches."""
    scene = status.scene_of(kind, noise, wrong, i, seed)
    return estimate_relative_pose(scene.points0, scene.points1, K, K, filter="sift")


def test_what_a_filter_refuses_settles_no_plane():
    """The 290 matches that are kept leave two poses open; all 300 chose the wrong one."""
    pose = _pose_of("forward plane", 0.5, 0.0, 24, seed=2)
    assert pose.status is PoseStatus.DEGENERATE
    assert "plane" in pose.detail


@pytest.mark.parametrize(
    "scene",
    [
        ("plane", 2.0, 0.9, 14),
        # All 288 inliers on a plane that noise gives the wrong one of its two poses.
        ("forward plane", 0.5, 0.0, 4),
        ("forward plane", 0.5, 0.9, 7),
        ("forward plane", 2.0, 0.0, 7),
        # 13° off with 17 of 17 right matches and two wrong ones, near the right pose's 17.
        ("one side", 0.2, 0.3, 2),
        ("repeated", 1.0, 0.9, 9),
    ],
)
def test_a_wrong_pose_with_a_rival_is_not_confident(scene):
    pose = _pose_of(*scene, seed=6)
    assert pose.status is PoseStatus.DEGENERATE
    assert "another pose, " in pose.detail


def test_what_the_kept_matches_contradict_is_not_confident():
    """25 kept matches have the right pose, but support it too little; 35 of all have another."""
    pose = _pose_of("repeated", 1.0, 0.9, 14, seed=6)
    assert pose.status is PoseStatus.INSUFFICIENT_SUPPORT


def test_the_command_does_what_its_options_say(monkeypatch, tmp_path, capsys):
    ran = []

    def run_few(*args, **options):
        few = {"noise": (0.5, 1.0), "wrong": (0.3,), "kinds": ("general", "outliers")}
        ran.append(run_cases(*args, **options, **few))
        return ran[-1]

    monkeypatch.setattr(status, "run_cases", run_few)

    def printed(*options):
        assert main(["benchmark", "status", *options]) == 0
        return capsys.readouterr().out

    both = printed("--repeats", "1", "--out", str(tmp_path))
    assert "Filter none: " in both and "Filter sift: " in both
    assert "1 scenes of each, seed 0." in both
    assert (tmp_path / "benchmark-status.md").read_text().strip() in both
    one = printed("--repeats", "2", "--filters", "none", "--seed", "3")
    assert "Filter none: 0 confident" in one and "Filter sift" not in one
    assert "2 scenes of each, seed 3." in one
    assert [len(cases) for cases in ran] == [2 * 2 * 2, 2 * 2 * 2]
    errors = [{case.error for case in cases if case.filter == "none"} for cases in ran]
    assert errors[0] & errors[1] == {180.0}  # of wrong matches alone


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
