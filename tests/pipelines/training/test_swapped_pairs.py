"""Pairs with their images exchanged, as training asks for the same answer of both."""

import pytest
import torch

from n3match.datasets.pairs.augment import swap_images
from n3match.datasets.pairs.batches import collate
from n3match.datasets.synthetic.pairs import SyntheticPairs
from n3match.nn import MatchFilter
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.pipelines.training.filter.losses import disagreement
from n3match.pipelines.training.filter.objective import losses, swapped


def test_swapped_batches_are_those_of_swapped_samples():
    samples = [SyntheticPairs(1).sample(i, num_matches=n) for i, n in enumerate((40, 30))]
    found = swapped(collate(samples))
    wanted = collate([swap_images(sample) for sample in samples])
    assert set(found) == {"points0", "points1", "side_info", "keypoint_change", "mask"}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name])


def test_disagreement_is_that_of_real_matches():
    logits = torch.tensor([[0.0, 50, 3], [-50, 50, 9]])
    others = torch.tensor([[0.0, -50, 8], [-50, 50, -9]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    assert disagreement(logits, logits, mask) == 0
    # Of one pair one match of two is 1 here and 0 there.
    assert disagreement(logits, others, mask).item() == pytest.approx(0.25)


@pytest.mark.parametrize("network", ["n3-prune", "cnnet-prune"])
def test_it_counts_in_the_loss_by_its_weight(network):
    batch = collate([SyntheticPairs(1).sample(i, num_matches=60) for i in range(2)])
    totals = []
    for weight in (0.0, 1.0, 3.0):
        config = TrainingConfig(network=network, generated=1.0, swapped_weight=weight)
        torch.manual_seed(0)
        net = MatchFilter(config.net).eval()
        totals.append(losses(net, batch, config, 0)[0].item())
    assert totals[1] > totals[0]
    assert totals[2] - totals[0] == pytest.approx(3 * (totals[1] - totals[0]), rel=1e-4)
