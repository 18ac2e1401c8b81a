"""With `mutual_only`, matches known not to be mutual are neither looked at nor kept."""

from dataclasses import replace

import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig

pytestmark = pytest.mark.arithmetic

CONFIG = MatchFilterConfig(
    width=16, blocks=3, n3_after=(1,), embedding_width=8, embedding_channels=4,
    side_info=("ratio", "mutual"),
)


def _nets(refine):
    torch.manual_seed(0)
    plain = MatchFilter(replace(CONFIG, refine=refine)).eval()
    strict = MatchFilter(replace(CONFIG, refine=refine, mutual_only=True)).eval()
    strict.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for net in (plain, strict):
            net.trunk.head.bias += 2  # so that most would be kept
    return plain, strict


@pytest.mark.parametrize("refine", [False, True])
def test_the_mutual_ones_have_logits_as_if_alone(refine):
    plain, strict = (net.double() for net in _nets(refine))
    gen = torch.Generator().manual_seed(1)
    points = torch.rand(2, 90, 4, generator=gen).double()
    side_info = torch.rand(2, 90, 2, generator=gen).round().double()
    out = strict(points[..., :2], points[..., 2:], side_info)
    mutual = side_info[..., 1] > 0
    assert mutual[0].sum() != mutual[1].sum()  # ragged
    assert bool((out.logits[~mutual] <= -1).all())
    torch.testing.assert_close(out.weights, torch.relu(torch.tanh(out.logits)))
    for pair in range(2):
        alone = points[pair : pair + 1, mutual[pair]]
        known = side_info[pair : pair + 1, mutual[pair]]
        wanted = plain(alone[..., :2], alone[..., 2:], known)
        torch.testing.assert_close(out.logits[pair, mutual[pair]], wanted.logits[0])
        assert len(out.earlier_logits) == len(wanted.earlier_logits) == refine
        for earlier, alone in zip(out.earlier_logits, wanted.earlier_logits):
            torch.testing.assert_close(earlier[pair, mutual[pair]], alone[0])


@pytest.mark.parametrize("refine", [False, True])
def test_padding_changes_nothing(refine):
    _, strict = _nets(refine)
    gen = torch.Generator().manual_seed(3)
    points = torch.rand(1, 50, 4, generator=gen)
    side_info = torch.rand(1, 50, 2, generator=gen).round()
    wanted = strict.logits(points[..., :2], points[..., 2:], side_info)
    padded, wider = torch.ones(1, 64, 4), torch.ones(1, 64, 2)
    padded[:, :50], wider[:, :50] = points, side_info
    mask = torch.arange(64)[None] < 50
    found = strict.logits(padded[..., :2], padded[..., 2:], wider, mask)
    torch.testing.assert_close(found[:, :50], wanted)
    assert bool((found[:, 50:] == float("-inf")).all())


def test_gradients_flow_to_the_mutual_ones_alone():
    _, strict = _nets(True)
    gen = torch.Generator().manual_seed(4)
    points = torch.rand(1, 70, 4, generator=gen, requires_grad=True)
    side_info = torch.rand(1, 70, 2, generator=gen).round()
    logits = strict.logits(points[..., :2], points[..., 2:], side_info)
    (gradient,) = torch.autograd.grad(logits.sum(), points)
    moved = (gradient != 0).any(-1)
    assert torch.equal(moved, side_info[..., 1] > 0)


def test_where_nothing_is_known_nothing_changes():
    plain, strict = _nets(False)
    points = torch.rand(1, 40, 4, generator=torch.Generator().manual_seed(2))
    arguments = (points[..., :2], points[..., 2:])
    torch.testing.assert_close(strict.logits(*arguments), plain.logits(*arguments))


def test_it_needs_the_flag():
    with pytest.raises(ValueError, match='mutual_only needs "mutual"'):
        replace(CONFIG, side_info=("ratio",), mutual_only=True)
