"""The vismatch plug: the matcher's answer, with the kept matches and their pose."""

import numpy as np
import pytest
import torch
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene, pose_error_deg

from n3match.plugins.vismatch import FilteredMatcher

SCENE = make_scene(150, 350, seed=2)
IMAGES = [torch.zeros(3, height, width) for width, height in (SIZE0, SIZE1)]


def matcher(img0, img1):
    """Answers like vismatch's BaseMatcher."""
    return {
        "num_inliers": 4, "H": np.eye(3),
        "all_kpts0": SCENE.points0, "all_kpts1": SCENE.points1,
        "all_desc0": np.empty((0, 2)), "all_desc1": np.empty((0, 2)),
        "matched_kpts0": SCENE.points0.astype(np.float32),
        "matched_kpts1": SCENE.points1.astype(np.float32),
        "inlier_kpts0": SCENE.points0[:4], "inlier_kpts1": SCENE.points1[:4],
        "matched_confidences": None,
    }


class Pose:
    def __init__(self, answer):
        self.R, self.t = answer["R"], answer["t"]


def test_answer_has_the_kept_matches_and_the_pose():
    answer = FilteredMatcher(matcher, K0=K0, K1=K1)(*IMAGES)
    assert set(answer) == {*matcher(0, 0), "E", "R", "t", "status"}
    rows = {tuple(row): right for row, right in zip(SCENE.points0.astype(np.float32), SCENE.right)}
    kept = np.array([rows[tuple(row)] for row in answer["matched_kpts0"]])
    assert kept.mean() > 0.7
    assert len(answer["matched_kpts1"]) == len(answer["matched_confidences"]) == len(kept)
    assert answer["status"] == "ok" and pose_error_deg(Pose(answer), SCENE) < 2
    assert answer["num_inliers"] == len(answer["inlier_kpts0"]) == len(answer["inlier_kpts1"])
    assert answer["H"] is None and answer["all_kpts0"] is SCENE.points0


def test_cameras_are_guessed_from_the_images():
    assert FilteredMatcher(matcher)(*IMAGES)["num_inliers"] > 50
    with pytest.raises(TypeError, match=r"img0 .* or give K0"):
        FilteredMatcher(matcher)("a.jpg", "b.jpg")
    assert FilteredMatcher(matcher, K0=K0, K1=K1)("a.jpg", "b.jpg")["num_inliers"] > 50


def test_no_matches_are_an_ordinary_answer():
    def nothing(img0, img1):
        empty = np.empty((0, 2))
        return {**matcher(img0, img1), "matched_kpts0": empty, "matched_kpts1": empty}

    answer = FilteredMatcher(nothing)(*IMAGES)
    assert (answer["num_inliers"], answer["status"]) == (0, "too_few_matches")
    assert answer["R"] is None and answer["matched_kpts0"].shape == (0, 2)


def test_a_real_vismatch_matcher():
    base = pytest.importorskip("vismatch.base_matcher", reason="vismatch is not installed")

    class Fixed(base.BaseMatcher):
        def _forward(self, img0, img1):
            return SCENE.points0, SCENE.points1, None, None, None, None, None

    answer = FilteredMatcher(Fixed(), K0=K0, K1=K1)(*IMAGES)
    assert answer["status"] == "ok" and answer["num_inliers"] > 50
