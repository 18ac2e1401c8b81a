"""Many pairs by several threads get the logits that each gets alone."""

import numpy as np
import pytest
import torch
from putative_scenes import K0, K1, make_scene

from n3match import MatchFilter
from n3match.geometry import undistort_points
from n3match.pipelines.filtering.pair_logits import filter_stream
from n3match.two_view import PairMatches, logits_of_many


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def _pairs(count):
    """Of 180 … 600 matches, a third of them right: enough to tell the geometry."""
    pairs = []
    for seed in range(count):
        right = 60 + 37 * seed % 141
        scene = make_scene(right, 2 * right, seed=seed)
        points = undistort_points(scene.points0, K0), undistort_points(scene.points1, K1)
        pairs.append(PairMatches(*points, scene.side_info))
    return pairs


@pytest.mark.parametrize("count", [1, 2, 20])
def test_each_pair_once_and_as_alone(count):
    net = MatchFilter.from_pretrained("sift").double()  # rounding plays no part
    pairs = _pairs(count)

    def then(key, matches, logits):
        assert matches is pairs[key]
        return key, logits

    stream = ((i, lambda pair=pair: pair) for i, pair in enumerate(pairs))
    results = list(filter_stream(net, stream, then))
    assert sorted(key for key, _ in results) == list(range(count))
    for key, (same, logits) in results:
        assert same == key
        (alone,) = logits_of_many(net, [pairs[key]])
        np.testing.assert_allclose(logits, alone, rtol=1e-6, atol=1e-6)


def test_what_fails_in_a_thread_is_said():
    def fail():
        raise ValueError("pair 7: damaged")

    pairs = _pairs(12)
    stream = ((i, fail if i == 7 else lambda pair=pair: pair) for i, pair in enumerate(pairs))
    with pytest.raises(ValueError, match="pair 7"):
        list(filter_stream(MatchFilter.from_pretrained("sift"), stream, lambda *_: None))
