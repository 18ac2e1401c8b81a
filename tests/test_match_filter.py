"""The filter as users hold it: ragged lists of pairs, torch.hub."""

from dataclasses import replace
from pathlib import Path

import prepared
import pytest
import torch

from n3match import MatchFilter
from n3match.nn import MatchFilterConfig
from n3match.weights import save_weights

pytestmark = pytest.mark.arithmetic

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MatchFilter(
        MatchFilterConfig(
            width=16, blocks=3, n3_after=(2,), embedding_width=8, embedding_channels=4,
            side_info=("ratio", "mutual"), keypoint_change=True, mutual_only=True,
        )
    ).eval()


@pytest.mark.parametrize("batch_matches", [1, 130, 1 << 15])
def test_pairs_of_unequal_length_are_scored_as_if_alone(net, batch_matches):
    gen = torch.Generator().manual_seed(1)
    lengths = [40, 0, 7, 61, 1, 40]
    points0, points1, side = (
        [torch.rand(n, 2, generator=gen).round(decimals=1) for n in lengths] for _ in range(3)
    )
    shape = [torch.rand(n, 3, generator=gen) for n in lengths]
    calls = []
    hook = net.trunk.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    with torch.inference_mode():
        found = net.logits_of_many(points0, points1, side, shape, batch_matches=batch_matches)
        hook.remove()
        for i, n in enumerate(lengths):
            assert found[i].shape == (n,)
            if n:
                wanted = net.logits(
                    points0[i][None], points1[i][None], side[i][None], None, shape[i][None]
                )
                torch.testing.assert_close(found[i], wanted[0], rtol=1e-4, atol=1e-5)
    assert calls == {1: [1] * 5, 130: [2, 3], 1 << 15: [5]}[batch_matches]


def test_lists_that_do_not_fit_are_named(net):
    points = [torch.rand(4, 2), torch.rand(5, 2)]
    with pytest.raises(ValueError, match="points1 must have a row"):
        net.logits_of_many(points, points[::-1])
    with pytest.raises(ValueError, match="side_info must have a row"):
        net.logits_of_many(points, points, points[:1])
    with pytest.raises(ValueError, match="batch_matches"):
        net.logits_of_many(points, points, batch_matches=0)
    assert net.logits_of_many([], []) == []


def test_torch_hub(tmp_path):
    code = (
        f"import torch; net = torch.hub.load({str(ROOT)!r}, 'match_filter', source='local'); "
        "assert not net.training; print(type(net).__name__, *net.side_info)"
    )
    assert prepared.run(code, tmp_path / "output") == 0
    assert (tmp_path / "output").read_text().split() == ["MatchFilter", "ratio", "mutual"]


def test_how_often_the_second_pass_looks_may_be_chosen(tmp_path):
    torch.manual_seed(0)
    config = MatchFilterConfig(
        width=16, blocks=3, n3_after=(2,), embedding_width=8, embedding_channels=4, refine=True
    )
    points = torch.rand(1, 200, 4)
    two, one = tmp_path / "two.safetensors", tmp_path / "one.safetensors"
    save_weights(two, MatchFilter(config))
    save_weights(one, MatchFilter(replace(config, refine=False)))
    nets = [MatchFilter.from_pretrained(two, refinements=n) for n in (None, 1, 3)]
    scores = [net(points[..., :2], points[..., 2:]) for net in nets]
    torch.testing.assert_close(scores[0].logits, scores[1].logits)
    torch.testing.assert_close(scores[0].logits, scores[2].earlier_logits[1])
    assert len(scores[2].earlier_logits) == 3
    with pytest.raises(ValueError, match=r"refinements: .*one\.safetensors has no .* pass, got 2"):
        MatchFilter.from_pretrained(one, refinements=2)
    with pytest.raises(ValueError, match="refinements must be at least 1, got 0"):
        MatchFilter.from_pretrained(two, refinements=0)
