"""The vismatch plug: the matcher's answer, with the kept matches and their pose."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
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
        FilteredMatcher(matcher)(0, 1)
    with pytest.raises(FileNotFoundError, match=r"img0: a\.jpg"):
        FilteredMatcher(matcher)("a.jpg", "b.jpg")
    assert FilteredMatcher(matcher, K0=K0, K1=K1)("a.jpg", "b.jpg")["num_inliers"] > 50


class VismatchLike(torch.nn.Module):
    """What vismatch's matchers have beside `forward`."""

    def __init__(self):
        super().__init__()
        self.device, self.skip_ransac = "cpu", False
        self.ransac_iters, self.ransac_conf, self.ransac_reproj_thresh = 2000, 0.995, 3
        self.weight = torch.nn.Parameter(torch.zeros(1))

    @property
    def name(self):
        return type(self).__name__

    @staticmethod
    def load_image(path, resize=None, rot_angle=0):
        return torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1) / 255

    def rescale_coords(self, points, h_orig, w_orig, h_new, w_new):
        return points * (w_orig / w_new)

    def extract(self, img):
        return {"all_kpts0": SCENE.points0}

    def forward(self, img0, img1):
        return matcher(img0, img1)


def test_paths_images_and_tensors_are_taken(tmp_path):
    """Of one size they have one guessed camera, so one answer."""
    for i, (width, height) in enumerate((SIZE0, SIZE1)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((height, width, 3), np.uint8))
    paths = [tmp_path / f"{i}.png" for i in (0, 1)]
    filtered = FilteredMatcher(VismatchLike())
    wanted = filtered(*IMAGES)
    opened = [Image.open(path) for path in paths]
    for images in (paths, [*map(str, paths)], opened, [filtered.load_image(p) for p in paths]):
        answer = filtered(*images)
        np.testing.assert_array_equal(answer["matched_kpts0"], wanted["matched_kpts0"])
        np.testing.assert_array_equal(answer["R"], wanted["R"])


def test_it_has_what_the_matcher_has():
    inner = VismatchLike()
    filtered = FilteredMatcher(inner, K0=K0, K1=K1)
    names = [n for n in vars(inner) if not n.startswith("_")]
    names += ["load_image", "rescale_coords", "extract", "parameters", "eval", "to", "forward"]
    assert all(hasattr(filtered, name) for name in names)
    assert filtered.device == "cpu" and filtered.ransac_iters == 2000
    assert filtered.name == "VismatchLike + N3"
    assert filtered.extract(IMAGES[0])["all_kpts0"] is SCENE.points0
    assert isinstance(filtered, torch.nn.Module) and filtered.eval() is filtered
    assert filtered.to("cpu")(*IMAGES)["num_inliers"] > 50
    with pytest.raises(AttributeError, match="no_such"):
        _ = filtered.no_such


def test_moving_it_leaves_the_filters_of_others_alone():
    """Filters loaded by name are shared by those that don't own one."""
    FilteredMatcher(matcher, K0=K0, K1=K1).half()
    answer = FilteredMatcher(matcher, K0=K0, K1=K1)
    assert next(answer.filter.parameters()).dtype == torch.float32


def test_half_precision():
    single = FilteredMatcher(matcher, K0=K0, K1=K1)
    wanted = single(*IMAGES)
    halved = single.half()(*(image.half() for image in IMAGES))
    assert abs(len(halved["matched_kpts0"]) - len(wanted["matched_kpts0"])) < 5
    assert halved["status"] == "ok"


def test_an_answer_that_is_none_is_told():
    with pytest.raises(ValueError, match="wanted matched_kpts0, matched_kpts1, too"):
        FilteredMatcher(lambda *_: {"mkpts0": 0}, K0=K0, K1=K1)(*IMAGES)


def test_no_matches_are_an_ordinary_answer():
    def nothing(img0, img1):
        empty = np.empty((0, 2))
        return {**matcher(img0, img1), "matched_kpts0": empty, "matched_kpts1": empty}

    answer = FilteredMatcher(nothing)(*IMAGES)
    assert (answer["num_inliers"], answer["status"]) == (0, "too_few_matches")
    assert answer["R"] is None and answer["matched_kpts0"].shape == (0, 2)
