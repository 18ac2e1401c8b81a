"""The matcher with setPairInfo: real keypoints of four detectors, OpenCV's results as measure."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from bundled_pair import DISTORTION, SIZE, K, detector, error_deg, features, photograph

from n3match import MatchFilter
from n3match.geometry import estimate_relative_pose_from_matches
from n3match.matching import putative_matches
from n3match.plugins.opencv import N3Matcher, filter_matches
from n3match.plugins.opencv.neighbours import find_neighbours

DETECTORS = ["SIFT", "ORB", "AKAZE", "BRISK"]
CAMERAS = {"K1": K, "K2": K, "distortion1": DISTORTION, "distortion2": DISTORTION}


def _filter(second_nearest: bool) -> MatchFilter:
    """The shipped filter, shown second nearest neighbours or not."""
    shipped = MatchFilter.from_pretrained("sift")
    net = MatchFilter(replace(shipped.config, second_nearest=second_nearest)).eval()
    net.load_state_dict(shipped.state_dict())
    return net


def _matcher(name="SIFT", filter=None, **options):
    (keypoints1, _), (keypoints2, _) = features(name)
    matcher = N3Matcher() if filter is None else N3Matcher(filter=filter)
    matcher.setPairInfo(keypoints1, keypoints2, SIZE, SIZE, **(options or CAMERAS))
    return matcher


@pytest.fixture(scope="module", params=DETECTORS)
def matched(request):
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features(request.param)
    found = _matcher(request.param).match(descriptors1, descriptors2)
    return request.param, keypoints1, keypoints2, descriptors1, descriptors2, found


def test_matches_of_any_detector_give_the_known_pose(matched):
    name, keypoints1, keypoints2, _, _, found = matched
    assert isinstance(found, tuple) and all(isinstance(match, cv2.DMatch) for match in found)
    assert 20 < len(found) < 0.3 * len(keypoints1)
    points1 = np.array([keypoints1[match.queryIdx].pt for match in found])
    points2 = np.array([keypoints2[match.trainIdx].pt for match in found])
    # Without doubt: matches at one place, of which BRISK has many, count as one for it.
    poses = [
        estimate_relative_pose_from_matches(
            points1, points2, K, K, estimator="opencv_usac", distortion0=DISTORTION,
            distortion1=DISTORTION, verify=False, seed=seed,
        )
        for seed in range(3)
    ]
    assert np.median([error_deg(pose.R, pose.t) for pose in poses]) < 5.0, name
    assert min(pose.num_inliers for pose in poses) > 0.4 * len(found)


def test_matches_are_nearest_as_opencv_finds_them(matched):
    """Of SIFT mutual ones alone; binary features are found several times at one place."""
    name, _, _, descriptors1, descriptors2, found = matched
    norm = cv2.NORM_L2 if name == "SIFT" else cv2.NORM_HAMMING
    checked = cv2.BFMatcher(norm, crossCheck=True).match(descriptors1, descriptors2)
    mutual = {(match.queryIdx, match.trainIdx): match.distance for match in checked}
    pairs = [(match.queryIdx, match.trainIdx) for match in found]
    assert all(mutual.get(p, m.distance) == m.distance for p, m in zip(pairs, found))
    assert (name == "SIFT") == all(p in mutual for p in pairs)
    rows = cv2.BFMatcher(norm).knnMatch(descriptors1, descriptors2, 1)
    assert all(rows[match.queryIdx][0].distance == match.distance for match in found)
    assert [match.queryIdx for match in found] == sorted(match.queryIdx for match in found)


@pytest.mark.parametrize("second_nearest", [False, True])
def test_second_nearest_neighbours_are_looked_at_where_the_filter_does(second_nearest):
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features("SIFT")
    matcher = N3Matcher(filter=_filter(second_nearest))
    matcher.setPairInfo(keypoints1, keypoints2, SIZE, SIZE, **CAMERAS)
    found = matcher.match(descriptors1, descriptors2)
    assert len({m.queryIdx for m in found}) == len({m.trainIdx for m in found}) == len(found)
    rows = cv2.BFMatcher().knnMatch(descriptors1, descriptors2, 2)
    places = [[n.trainIdx for n in rows[m.queryIdx]].index(m.trainIdx) for m in found]
    assert all(m.distance == rows[m.queryIdx][p].distance for m, p in zip(found, places))
    assert set(places) == ({0, 1} if second_nearest else {0})
    # As from photographs to matches in one call.
    points = [np.array([k.pt for k in keypoints]) for keypoints in (keypoints1, keypoints2)]
    putative = find_neighbours(descriptors1, descriptors2).putative(
        *points, second_nearest=second_nearest
    )
    wanted = putative_matches(
        points[0], descriptors1, points[1], descriptors2, second_nearest=second_nearest
    )
    np.testing.assert_array_equal(putative.index1, wanted.index1)
    np.testing.assert_allclose(putative.ratio, wanted.ratio, rtol=1e-5)
    for name in ("index0", "mutual", "near_mutual"):
        np.testing.assert_array_equal(getattr(putative, name), getattr(wanted, name))
    for name in ("back_ratio", "distance", "apart"):
        ours, theirs = getattr(putative, name), getattr(wanted, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    # Rows are judged by their nearest alone.
    rows = matcher.knnMatch(descriptors1, descriptors2, 2)
    assert len(rows) > 20 and all(len(row) == 2 for row in rows)
    # A mask that leaves each keypoint one candidate or none.
    mask = np.zeros((len(descriptors1), len(descriptors2)), np.uint8)
    for match in found[::2]:
        mask[match.queryIdx, match.trainIdx] = 1
    allowed = {(match.queryIdx, match.trainIdx) for match in found[::2]}
    masked = matcher.match(descriptors1, descriptors2, mask)
    assert {(m.queryIdx, m.trainIdx) for m in masked} <= allowed


@pytest.mark.parametrize(("name", "weights"), [("SIFT", "sift"), ("ORB", "orb")])
def test_weights_are_those_for_the_descriptors(name, weights):
    keypoints, descriptors = zip(*features(name))

    def kept(**options):
        matcher = N3Matcher(**options)
        matcher.setPairInfo(*keypoints, SIZE, SIZE, **CAMERAS)
        return [m.queryIdx for m in matcher.match(*descriptors)]

    other = {"sift": "orb", "orb": "sift"}[weights]
    assert kept() == kept(filter=weights) != kept(filter=other)
    norm = cv2.NORM_L2 if name == "SIFT" else cv2.NORM_HAMMING
    matches = cv2.BFMatcher(norm).match(*descriptors)
    for known in ({}, {"descriptors1": descriptors[0], "descriptors2": descriptors[1]}):
        found, wanted = (
            filter_matches(SIZE, SIZE, *keypoints, matches, **CAMERAS, **known, **options)
            for options in ({}, {"filter": weights})
        )
        assert found and [m.queryIdx for m in found] == [m.queryIdx for m in wanted]


def test_knn_match_has_the_same_matches_and_their_runners_up():
    """The same as `match` of nearest neighbours alone, by which rows are judged."""
    (_, descriptors1), (_, descriptors2) = features("SIFT")
    matcher = _matcher(filter=_filter(True))
    nearest = _matcher().match(descriptors1, descriptors2)
    pairs = [(m.queryIdx, m.trainIdx) for m in nearest]
    rows = matcher.knnMatch(descriptors1, descriptors2, k=2, compactResult=False)
    assert len(rows) == len(descriptors1)
    assert [(row[0].queryIdx, row[0].trainIdx) for row in rows if row] == pairs
    assert {len(row) for row in rows} == {0, 2}
    assert all(row[0].distance <= row[1].distance for row in rows if row)
    compact = matcher.knnMatch(descriptors1, descriptors2, k=1)
    assert [len(row) for row in compact] == [1] * len(pairs)


def test_loops_of_opencvs_tutorials():
    """Those of "Feature Matching with FLANN" and "Feature Matching", as they stand there."""
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features("SIFT")
    matcher = _matcher()
    knn_matches = matcher.knnMatch(descriptors1, descriptors2, 2)
    ratio_thresh = 0.75
    good_matches = []
    for m, n in knn_matches:
        if m.distance < ratio_thresh * n.distance:
            good_matches.append(m)
    assert 20 < len(good_matches) < len(knn_matches)

    matches = matcher.knnMatch(descriptors1, descriptors2, k=2)
    matchesMask = [[0, 0] for i in range(len(matches))]
    for i, (m, n) in enumerate(matches):
        if m.distance < 0.7 * n.distance:
            matchesMask[i] = [1, 0]
    picture = cv2.drawMatchesKnn(
        photograph(0), keypoints1, photograph(1), keypoints2, matches, None, matchesMask=matchesMask
    )
    assert picture.shape == (1024, 2 * 768, 3)


def test_mask_forbids_matches():
    (_, descriptors1), (_, descriptors2) = features("SIFT")
    matcher = _matcher()
    first = matcher.match(descriptors1, descriptors2)
    mask = np.ones((len(descriptors1), len(descriptors2)), np.uint8)
    mask[first[0].queryIdx] = 0
    second = matcher.match(descriptors1, descriptors2, mask)
    assert first[0].queryIdx not in {match.queryIdx for match in second}
    assert len(second) > 0.8 * len(first)


def test_positions_serve_in_place_of_keypoint_objects():
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features("SIFT")
    matcher = N3Matcher()
    positions = [cv2.KeyPoint.convert(keypoints) for keypoints in (keypoints1, keypoints2)]
    matcher.setPairInfo(*positions, SIZE, SIZE)
    found = {(m.queryIdx, m.trainIdx) for m in matcher.match(descriptors1, descriptors2)}
    with_change = {(m.queryIdx, m.trainIdx) for m in _matcher().match(descriptors1, descriptors2)}
    assert len(found & with_change) > 0.5 * len(with_change)


def test_filter_matches_finds_the_side_information_from_descriptors():
    """The same keypoints and cameras: the same matches as those of the matcher."""
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features("SIFT")
    matches = cv2.BFMatcher().match(descriptors1, descriptors2)
    kept = filter_matches(
        SIZE, SIZE, keypoints1, keypoints2, matches, **CAMERAS,
        descriptors1=descriptors1, descriptors2=descriptors2,
    )  # fmt: skip
    found = _matcher().match(descriptors1, descriptors2)
    assert [(m.queryIdx, m.trainIdx) for m in kept] == [(m.queryIdx, m.trainIdx) for m in found]
    without = filter_matches(SIZE, SIZE, keypoints1, keypoints2, matches, **CAMERAS)
    assert len(without) != len(kept)


def test_image_without_keypoints():
    blank = np.full((120, 160), 127, np.uint8)
    keypoints, descriptors = detector("SIFT").detectAndCompute(blank, None)
    assert descriptors is None or not len(descriptors)  # OpenCV 4, OpenCV 5
    (keypoints2, descriptors2) = features("SIFT")[1]
    matcher = N3Matcher()
    matcher.setPairInfo(keypoints, keypoints2, (160, 120), SIZE)
    assert matcher.match(descriptors, descriptors2) == ()
    matcher.setPairInfo(keypoints2, keypoints, SIZE, (160, 120))
    assert matcher.knnMatch(descriptors2, descriptors, 2, None, False) == ((),) * len(descriptors2)


def test_ratio_and_mutual_of_a_toy():
    query = np.float32([[0, 0], [10, 0], [3, 0]])
    train = np.float32([[1, 0], [10, 0], [5, 0]])
    near = find_neighbours(query, train)
    np.testing.assert_array_equal(near.forward.index, [0, 1, 0])
    np.testing.assert_allclose(near.ratio, [1 / 5, 0, 1])
    np.testing.assert_array_equal(near.mutual, [True, True, False])
    assert find_neighbours(query, train[:1]).ratio.tolist() == [1, 1, 1]
    bits = np.uint8([[0], [255]])
    near = find_neighbours(bits, bits ^ np.uint8([[1], [0]]))
    assert near.binary and near.mutual.all()
    np.testing.assert_allclose(near.ratio, [1 / 8, 0])
    assert near.rows[0][1].distance == 8  # Hamming


def test_wrong_use_is_told():
    (keypoints1, descriptors1), (keypoints2, descriptors2) = features("SIFT")
    matcher = N3Matcher()
    with pytest.raises(RuntimeError, match="setPairInfo"):
        matcher.match(descriptors1, descriptors2)
    with pytest.raises(ValueError, match="trainImageSize and K2"):
        matcher.setPairInfo(keypoints1, keypoints2, SIZE)
    matcher.setPairInfo(keypoints1, keypoints2, SIZE, SIZE)
    with pytest.raises(ValueError, match="queryDescriptors: found 10 rows for the 2000"):
        matcher.match(descriptors1[:10], descriptors2)
    with pytest.raises(ValueError, match="trainDescriptors: found 128 channels of uint8"):
        matcher.match(descriptors1, descriptors2.astype(np.uint8))
    matcher.setPairInfo(keypoints1, keypoints2, (384, 512), SIZE)
    with pytest.raises(ValueError, match=r"queryKpts: \d+ of \d+ lie outside .* 384 × 512"):
        matcher.match(descriptors1, descriptors2)
    matcher.clearPairInfo()
    with pytest.raises(RuntimeError, match="setPairInfo"):
        matcher.match(descriptors1, descriptors2)
    with pytest.raises(ValueError, match="uint8 for Hamming"):
        find_neighbours(descriptors1, descriptors2, norm=cv2.NORM_HAMMING)
    with pytest.raises(ValueError, match="mask must have shape"):
        find_neighbours(descriptors1, descriptors2, mask=np.ones((3, 3)))
