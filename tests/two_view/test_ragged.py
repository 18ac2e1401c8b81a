"""Many pairs in one call."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from putative_scenes import K0, K1, make_scene

import n3match
from n3match.geometry import undistort_points
from n3match.nn import MatchFilter, MatchFilterConfig
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


def test_columns_behind_those_given_are_not_known():
    torch.manual_seed(0)
    names = ("ratio", "mutual", "back_ratio")
    net = MatchFilter(MatchFilterConfig(n3_after=(), blocks=2, width=8, side_info=names)).eval()
    pair = matches(make_scene(30, 30))
    whole = np.hstack([pair.side_info, np.ones((60, 1))])  # 1: a back ratio that isn't known
    wanted = logits_of_many(net, [replace(pair, side_info=whole)])[0]
    found = logits_of_many(net, [pair, replace(pair, side_info=whole)])
    for logits in found:
        np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
    other = logits_of_many(net, [replace(pair, side_info=0.5 * whole)])[0]
    assert np.abs(other - wanted).max() > 1e-3
    alone = n3match.match_logits(
        pair.points0, pair.points1, np.eye(3), np.eye(3), side_info=pair.side_info, filter=net
    )
    np.testing.assert_allclose(alone, wanted, rtol=1e-5, atol=1e-5)


def test_rays_that_a_lens_does_not_reach_are_never_kept():
    pair = matches(make_scene(60, 140, seed=0))
    pair.points1[::3] = np.nan
    found = logits_of_many(NET, [pair])[0]
    assert (found[::3] == -np.inf).all() and (found[1::3] > 0).any()


def test_shapes_that_do_not_fit_are_named():
    pair = matches(make_scene(5, 5))
    wrong = PairMatches(pair.points0, pair.points1, pair.side_info[:9])
    with pytest.raises(ValueError, match=r"pairs\[1\].side_info: found shape \(9, 2\)"):
        logits_of_many(NET, [pair, wrong])
