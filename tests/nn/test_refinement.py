"""The refinement pass: which matches it goes over, and what becomes of the others."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig
from n3match.nn.epipolar_evidence import evidence
from n3match.nn.passes import Refinement

pytestmark = pytest.mark.arithmetic

CONFIG = MatchFilterConfig(
    width=16, blocks=3, n3_after=(2,), embedding_width=8, embedding_channels=4, refine=True
)


def _refinement():
    torch.manual_seed(0)
    return Refinement(4, CONFIG).double().eval()


def _matches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("count", "wanted"), [(300, 150), (100, 64), (40, 40), (1, 1)])
def test_the_better_half_is_refined(count, wanted):
    matches = _matches(count)
    first = -1 - torch.rand(2, count, dtype=torch.float64)
    again = _refinement()(matches, first, None)
    changed = again != first
    assert changed.sum(1).tolist() == [wanted, wanted]
    for row, refined in zip(first, changed):
        assert wanted == count or row[refined].min() >= row[~refined].max()


def test_all_that_the_first_pass_keeps_are_refined():
    first = torch.ones(2, 300, dtype=torch.float64)
    first[0, :100] = -2.0  # 200 kept: more than half
    changed = _refinement()(_matches(300), first, None) != first
    assert changed[0, 100:].all()
    assert not changed[0, :100].any()
    assert changed[1].all()


def test_padding_is_never_refined():
    mask = torch.arange(200) < torch.tensor([200, 90])[:, None]
    first = torch.randn(2, 200, dtype=torch.float64).masked_fill(~mask, float("-inf"))
    again = _refinement()(_matches(200).masked_fill(~mask[..., None], 0.0), first, mask)
    assert (again[~mask] == float("-inf")).all()
    assert torch.isfinite(again[mask]).all()


def test_both_passes_learn():
    torch.manual_seed(0)
    net = MatchFilter(CONFIG).double().train()
    points = _matches(80)
    out = net(points[..., :2], points[..., 2:])
    (out.logits.square().sum() + out.earlier_logits[0].square().sum()).backward()
    for trunk in (net.trunk, net.refinement.trunk):
        assert trunk.lift.weight.grad.abs().max() > 0
        assert trunk.head.weight.grad.abs().max() > 0
    # The last logits say nothing to the first pass.
    net.zero_grad(set_to_none=True)
    net(points[..., :2], points[..., 2:]).logits.sum().backward()
    assert net.trunk.head.weight.grad is None


def test_each_look_is_at_what_the_last_one_said():
    torch.manual_seed(0)
    nets = [
        MatchFilter(replace(CONFIG, refinements=count)).double().eval() for count in (1, 2, 3)
    ]
    for net in nets[1:]:  # passes have no weights of their own
        net.load_state_dict(nets[0].state_dict())
    points = _matches(200)
    mask = torch.arange(200) < torch.tensor([200, 90])[:, None]
    matches = points.masked_fill(~mask[..., None], 0.0)
    outputs = [net(points[..., :2], points[..., 2:], mask=mask) for net in nets]
    passes = [*outputs[2].earlier_logits, outputs[2].logits]
    assert len(passes) == 4
    for said, said_next in pairwise(passes):
        assert not torch.equal(said, said_next)
        torch.testing.assert_close(nets[0].refinement(matches, said, mask), said_next)
    for count, out in enumerate(outputs, 1):
        torch.testing.assert_close(out.logits, passes[count])
        assert len(out.earlier_logits) == count
    torch.testing.assert_close(
        nets[2].logits(points[..., :2], points[..., 2:], mask=mask), passes[3]
    )


def test_more_passes_need_a_second_pass():
    with pytest.raises(ValueError, match="refinements: 2 of them need refine, got False"):
        replace(CONFIG, refine=False, refinements=2)


def test_evidence_tells_near_from_far():
    """Matches of one exact motion are near its epipolar lines, others far."""
    generator = torch.Generator().manual_seed(3)
    X = torch.rand(1, 60, 3, generator=generator, dtype=torch.float64) + torch.tensor([0, 0, 2.0])
    moved = X + torch.tensor([0.5, 0.1, 0.2])
    matches = torch.cat([X[..., :2] / X[..., 2:], moved[..., :2] / moved[..., 2:]], -1)
    matches[:, 40:, 2:] += 0.2 * torch.randn(1, 20, 2, generator=generator, dtype=torch.float64)
    first = torch.where(torch.arange(60) < 40, 2.0, -2.0).double()[None]
    said = evidence(matches, first, None)[0]
    assert (said[:40, 0] > 0).all() and (said[40:, 0] < 0).all()
    assert said[:40, 1].max() < -0.9
    assert said[40:, 1].median() > 0
    assert said.abs().max() <= 1
