"""Many pairs in one call."""

import numpy as np
import pytest
from putative_scenes import K0, K1, make_scene

import n3match
from n3match.geometry import undistort_points
from n3match.matching import is_gradient_histogram, ratio_and_mutual
from n3match.two_view import PairMatches, logits_of_many

pytestmark = pytest.mark.arithmetic

NET = n3match.MatchFilter.from_pretrained("sift")


def matches(scene, side=True) -> PairMatches:
    points = undistort_points(scene.points0, K0), undistort_points(scene.points1, K1)
    return PairMatches(*points, scene.side_info if side else None)


def test_a_batch_of_unequal_pairs_decides_as_each_pair_alone():
    scenes = [make_scene(60, 140, seed=0), make_scene(90, 210, seed=1), make_scene(3, 2, seed=2)]
    given = [matches(scenes[0]), matches(scenes[1], side=False), matches(scenes[2])]
    empty = PairMatches(np.zeros((0, 2)), np.zeros((0, 2)))
    together = logits_of_many(NET, [*given, empty])
    assert [len(logits) for logits in together] == [200, 300, 5, 0]
    for found, pair in zip(together, given):
        alone = logits_of_many(NET, [pair])[0]
        assert ((found > 0) == (alone > 0)).mean() > 0.99
    wanted = n3match.match_logits(
        scenes[0].points0, scenes[0].points1, K0, K1, side_info=scenes[0].side_info
    )
    assert ((together[0] > 0) == (wanted > 0)).mean() > 0.99


def test_rays_that_a_lens_does_not_reach_are_never_kept():
    pair = matches(make_scene(60, 140, seed=0))
    pair.points1[::3] = np.nan
    found = logits_of_many(NET, [pair])[0]
    assert (found[::3] == -np.inf).all() and (found[1::3] > 0).any()


def test_shapes_that_do_not_fit_are_named():
    pair = matches(make_scene(5, 5))
    wrong = PairMatches(pair.points0, pair.points1, pair.side_info[:, :1])
    with pytest.raises(ValueError, match=r"pairs\[1\].side_info: found shape \(10, 1\)"):
        logits_of_many(NET, [pair, wrong])


def test_ratio_and_mutual_of_matches_made_elsewhere():
    rng = np.random.default_rng(0)
    desc0, desc1 = (rng.random((n, 128)).astype(np.float32) for n in (30, 40))
    distance = np.linalg.norm(desc0[:, None] - desc1[None], axis=-1)
    nearest, back = distance.argmin(1), distance.argmin(0)
    index0 = np.arange(30)
    ratio, mutual = ratio_and_mutual(index0, nearest, desc0, desc1)
    ordered = np.sort(distance, axis=1)
    np.testing.assert_allclose(ratio, ordered[:, 0] / ordered[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(mutual, back[nearest] == index0)
    # Without a shared keypoint in image 1, the matcher has made them mutual.
    one_to_one = np.flatnonzero(mutual)
    shifted = nearest[one_to_one].copy()
    shifted[0] = np.setdiff1d(np.arange(40), shifted)[0]
    ratio, mutual = ratio_and_mutual(one_to_one, shifted, desc0, desc1)
    assert mutual.all() and ratio[0] == 1.0 and (ratio[1:] < 1).all()


def test_only_histograms_of_gradients_count_as_sift():
    rng = np.random.default_rng(0)
    assert is_gradient_histogram(rng.random((5, 128)))
    for other in (rng.normal(size=(5, 128)), rng.random((5, 256)), np.zeros((0, 128))):
        assert not is_gradient_histogram(other)
