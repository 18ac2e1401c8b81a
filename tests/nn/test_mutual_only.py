"""Matches that are known not to be mutual are never kept, with `mutual_only`."""

from dataclasses import replace

import pytest
import torch

from n3match.nn import ClassifierConfig, MatchClassifier

CONFIG = ClassifierConfig(
    width=16, blocks=3, n3_after=(1,), embedding_width=8, embedding_channels=4,
    side_information=("ratio", "mutual"),
)


def _nets(refine):
    torch.manual_seed(0)
    plain = MatchClassifier(replace(CONFIG, refine=refine)).eval()
    strict = MatchClassifier(replace(CONFIG, refine=refine, mutual_only=True)).eval()
    strict.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for net in (plain, strict):
            net.trunk.head.bias += 2  # so that most would be kept
    return plain, strict


@pytest.mark.parametrize("refine", [False, True])
def test_only_mutual_ones_are_kept_and_their_logits_are_as_before(refine):
    plain, strict = _nets(refine)
    gen = torch.Generator().manual_seed(1)
    points = torch.rand(2, 90, 4, generator=gen)
    side = torch.rand(2, 90, 2, generator=gen).round()
    arguments = (points[..., :2], points[..., 2:], side)
    before, after = plain(*arguments), strict(*arguments)
    mutual = side[..., 1] > 0
    assert bool((before.logits[~mutual] > 0).any())
    assert bool((after.logits[~mutual] <= -1).all())
    torch.testing.assert_close(after.logits[mutual], before.logits[mutual])
    torch.testing.assert_close(after.weights, torch.relu(torch.tanh(after.logits)))


def test_where_nothing_is_known_nothing_changes():
    plain, strict = _nets(False)
    points = torch.rand(1, 40, 4, generator=torch.Generator().manual_seed(2))
    arguments = (points[..., :2], points[..., 2:])
    torch.testing.assert_close(strict.score(*arguments), plain.score(*arguments))


def test_it_needs_the_flag():
    with pytest.raises(ValueError, match='mutual_only needs "mutual"'):
        replace(CONFIG, side_information=("ratio",), mutual_only=True)
