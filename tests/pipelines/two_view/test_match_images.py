"""From two images to matches and a pose in one call."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from demo_photos import PAIR, PHOTO0, PHOTO1, R, T, blank

import n3match
from n3match.geometry import pose_error_deg
from n3match.pipelines.common.stopwatch import Stopwatch

K = np.array(PAIR["images"][0]["K"])


def rgb(path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_paths_give_all_matches_what_the_filter_keeps_and_a_pose(tmp_path):
    pair = n3match.match_images(str(PHOTO0), PHOTO1, K0=K, K1=K)
    assert pair.points0.shape == pair.points1.shape == (len(pair.putative), 2)
    assert 2000 < len(pair.putative) <= 4000
    assert 100 < pair.kept.sum() < 1000
    np.testing.assert_array_equal(pair.kept, pair.probability > 0.5)
    np.testing.assert_allclose(pair.probability, 1 / (1 + np.exp(-pair.logits)))
    assert list(pair.seconds) == ["weights", "read", "sift", "matching", "filter"]
    pose = pair.pose()
    assert pose.ok and pose.inliers.shape == pair.kept.shape
    assert pose_error_deg(pose.R, pose.t, R, T) < 5
    assert 0.9 < pair.pair_probability == pose.pair_probability < 1
    pair.plot(tmp_path / "matches.png")
    pair.plot(tmp_path / "lines.png", pose)
    heights = [cv2.imread(str(tmp_path / n)).shape[0] for n in ("matches.png", "lines.png")]
    assert heights[1] > 1.5 * heights[0]  # both photographs again, with epipolar lines


def test_arrays_are_matched_as_files_of_the_same_pixels_are(tmp_path):
    images = [rgb(path) for path in (PHOTO0, PHOTO1)]
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    for i, image in enumerate(grey):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    options = {"max_keypoints": 300, "K0": K, "K1": K, "max_size": 600}
    of_files = n3match.match_images(tmp_path / "0.png", tmp_path / "1.png", **options)
    for arrays in (images, grey):
        of_arrays = n3match.match_images(*arrays, **options)
        np.testing.assert_array_equal(of_arrays.points0, of_files.points0)
        np.testing.assert_array_equal(of_arrays.logits, of_files.logits)
        of_arrays.plot(tmp_path / "m.png")
        assert cv2.imread(str(tmp_path / "m.png")).shape[1] == 1200
    assert of_files.points0.max() > 900  # pixels as given, not as reduced


def test_a_filter_that_looks_at_second_nearest_neighbours_gets_them():
    shipped = n3match.MatchFilter.from_pretrained("sift")
    nets = []
    for second in (False, True):
        net = n3match.MatchFilter(replace(shipped.config, second_nearest=second)).eval()
        net.load_state_dict(shipped.state_dict())
        nets.append(net)
    options = {"K0": K, "K1": K, "max_keypoints": 1500}
    plain, pair = (n3match.match_images(PHOTO0, PHOTO1, filter=n, **options) for n in nets)
    count = len(plain.putative)
    assert len(pair.putative) > count + 100
    np.testing.assert_array_equal(pair.points0[:count], plain.points0)
    # No keypoint is kept twice, and second nearest ones are among the kept.
    kept = pair.kept
    for index in (pair.putative.index0, pair.putative.index1):
        assert len(np.unique(index[kept])) == kept.sum()
    assert kept[count:].any()
    pose = pair.pose()
    assert pose.ok and pose.inliers.shape == kept.shape
    assert pose_error_deg(pose.R, pose.t, R, T) < 5
    # A filter that doesn't look at them says the same as in a pair that has none.
    again = pair.filtered(nets[0])
    np.testing.assert_array_equal(again.logits[:count], plain.logits)
    assert not again.kept[count:].any()


def test_other_features_have_weights_of_their_own():
    pair = n3match.match_images(PHOTO0, PHOTO1, K0=K, K1=K, feature="orb")
    assert pair.putative.binary and "orb" in pair.seconds
    np.testing.assert_array_equal(pair.logits, pair.filtered("orb").logits)
    pose = pair.pose()
    assert pose.ok and pose_error_deg(pose.R, pose.t, R, T) < 5
    with pytest.raises(ValueError, match=r"feature must be one of .*sift.*orb.*, got 'surf'"):
        n3match.match_images(PHOTO0, PHOTO1, feature="surf")


def test_without_a_filter_all_are_kept():
    pair = n3match.match_images(PHOTO0, PHOTO1, filter=None, max_keypoints=100)
    assert pair.logits is None and pair.kept.all() and (pair.probability == 1).all()
    assert list(pair.seconds) == ["read", "sift", "matching"]
    again = n3match.match_images(PHOTO0, PHOTO1, filter="sift-cnnet", max_keypoints=100)
    np.testing.assert_array_equal(pair.filtered("sift-cnnet").logits, again.logits)


def test_photographs_of_different_things_are_no_pair():
    turned = np.ascontiguousarray(255 - rgb(PHOTO1)[::-1, ::-1])
    pair = n3match.match_images(PHOTO0, turned, max_keypoints=1000)
    assert pair.pair_probability < 0.2
    assert not pair.pose().ok


def test_images_without_texture_have_no_matches(tmp_path):
    pair = n3match.match_images(blank(tmp_path / "b.png"), np.full((50, 60), 9, np.uint8))
    assert len(pair.points0) == len(pair.kept) == len(pair.probability) == 0
    assert pair.pose().status == "too_few_matches"


@pytest.mark.parametrize(
    ("image", "options", "error", "words"),
    [
        ("absent.png", {}, FileNotFoundError, "absent.png"),
        (np.zeros((5, 5)), {}, TypeError, "image1: found float64"),
        (np.zeros((5, 5, 4), np.uint8), {}, ValueError, r"image1: found shape \(5, 5, 4\)"),
        (7, {}, TypeError, "image1 must be a path"),
        ("", {}, ValueError, "image1 must be a path"),
        (np.zeros((32, 3), np.uint8), {"feature": "brisk"}, ValueError, "image1: 3 x 32 pixels"),
        (PHOTO1, {"K1": np.eye(2)}, ValueError, "K1 must have shape"),
        (PHOTO1, {"max_size": 0}, ValueError, "max_size"),
        (PHOTO1, {"max_size": [9, 9]}, TypeError, "max_size must be a whole number"),
        (PHOTO1, {"max_keypoints": 0}, ValueError, "max_keypoints"),
        (PHOTO1, {"filter": "none such"}, FileNotFoundError, "none such"),
    ],
)
def test_errors_name_what_is_wrong(image, options, error, words):
    with pytest.raises(error, match=words):
        n3match.match_images(PHOTO0, image, **options)


def test_photograph_has_its_own_camera():
    photo = n3match.match_images(PHOTO0, PHOTO0, filter=None, max_keypoints=5).photographs[0]
    with pytest.raises(ValueError, match="K0, distortion0"):
        n3match.match_images(photo, photo, K0=K)


def test_stopwatch_adds_up_a_stage_that_runs_twice():
    watch = Stopwatch()
    with watch.stage("read"):
        pass
    first = watch.seconds["read"]
    with watch.stage("read"):
        pass
    watch.add({"sift": 2.0, "read": 1.0})
    assert list(watch.seconds) == ["read", "sift"]
    assert watch.seconds["read"] > 1 + first
