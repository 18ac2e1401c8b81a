"""Motions of neighbours: known answers, what it is blind to, gradients."""

import math

import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig
from n3match.nn.consensus import LocalConsensus, MotionConsensus, bounded, motion_features

pytestmark = pytest.mark.arithmetic

TURN, SCALE = 0.7, 1.8


def similar_matches(n=12, keypoint_change=True, seed=0):
    """Matches that all move by one similarity, with the keypoint change that goes with it."""
    gen = torch.Generator().manual_seed(seed)
    x0 = torch.rand(1, n, 2, generator=gen, dtype=torch.float64) - 0.5
    rotation = torch.tensor(
        [[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]], dtype=x0.dtype
    )
    x1 = SCALE * x0 @ rotation.T + torch.tensor([0.3, -0.1], dtype=x0.dtype)
    change = torch.tensor([math.cos(TURN), math.sin(TURN), math.log(SCALE)], dtype=x0.dtype)
    columns = [x0, x1, change.expand(1, n, 3)] if keypoint_change else [x0, x1]
    return torch.cat(columns, -1)


def test_bounded_temperatures():
    """Never colder, the same well above, and no kink at the bound."""
    log_t = torch.tensor([-30.0, -4.0, -3.0, 0.0, 2.0, 9.0], requires_grad=True)
    found = bounded(log_t, -4.0)
    assert (found >= -4.0).all() and (found.diff() >= 0).all()
    torch.testing.assert_close(found[3:], log_t[3:], atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(found[1:3].sum(), log_t)
    assert (slope[1:3] > 0.4).all()
    assert bounded(log_t, None) is log_t


@pytest.mark.parametrize(("n3_after", "consensus"), [((2,), False), ((), True)])
def test_every_temperature_of_a_network_is_bounded(n3_after, consensus):
    small = {"width": 16, "blocks": 4, "n3_after": n3_after, "consensus": consensus}
    logits = {}
    for bound in (None, -4.0, 2.0):
        torch.manual_seed(0)
        net = MatchFilter(MatchFilterConfig(**small, min_log_temperature=bound)).eval()
        for module in net.modules():
            if isinstance(module, MotionConsensus):
                torch.nn.init.normal_(module.out.weight)
        points = torch.randn(2, 1, 30, 2)
        logits[bound] = net.logits(*points)
    torch.testing.assert_close(logits[None], logits[-4.0], atol=1e-4, rtol=0)
    assert (logits[None] - logits[2.0]).abs().max() > 1e-3


def test_what_moves_as_its_keypoints_turn_and_scale_leaves_nothing():
    own = similar_matches()
    neighbours = own[:, torch.stack([torch.arange(12).roll(s) for s in (1, 5)], 1)]
    features = motion_features(own, neighbours)
    assert features.shape == (1, 12, 2, 12)
    residual, lengths = features[..., 7:9], features[..., 9:]
    torch.testing.assert_close(residual, torch.zeros_like(residual), atol=1e-12, rtol=0)
    first, second = (
        (neighbours - own[..., None, :])[..., i : i + 2].square().sum(-1) for i in (0, 2)
    )
    torch.testing.assert_close(((lengths[..., 0] - 1) * 5).exp() - 1e-5, first)
    torch.testing.assert_close(((lengths[..., 1] - 1) * 5).exp() - 1e-5, second)
    assert (((lengths[..., 2] - 1) * 5).exp() - 1e-5).abs().max() < 1e-12


@pytest.mark.parametrize("known", [False, True])
def test_where_keypoint_changes_are_not_known_the_first_displacement_is_expected(known):
    own = similar_matches(keypoint_change=known)
    if known:
        own[..., 4:] = 0.0  # columns there, nothing in them
    neighbours = own[:, torch.arange(12).roll(1)][:, :, None]
    features = motion_features(own, neighbours)
    width = own.shape[-1]
    residual = features[..., width : width + 2]
    moved = (neighbours - own[..., None, :])[..., :4]
    torch.testing.assert_close(residual, moved[..., 2:] - moved[..., :2])


def test_a_common_shift_is_not_seen():
    own = similar_matches()
    neighbours = own[:, torch.arange(12).roll(3)][:, :, None]
    shift = torch.tensor([1.0, -2, 3, 4, 0, 0, 0], dtype=own.dtype)
    torch.testing.assert_close(
        motion_features(own + shift, neighbours + shift), motion_features(own, neighbours)
    )


def test_it_starts_without_effect_and_looks_at_the_nearest_in_both_images():
    block = LocalConsensus(9, 16, keypoint_change=True, k=2).double()
    own = similar_matches(30)
    matches = torch.cat([own[..., :4], torch.rand(1, 30, 2, dtype=own.dtype), own[..., 4:]], -1)
    assert not block(matches, own, None).any()
    # Nearer in image 0 than every other, but far away in image 1: no neighbour.
    pair = torch.zeros(1, 3, 9, dtype=own.dtype)
    pair[0, 1, :4] = torch.tensor([0.001, 0, 0.9, 0.9])
    pair[0, 2, :4] = torch.tensor([0.03, 0, 0.03, 0])
    seen = []
    block.motion.forward = lambda own, neighbours: seen.append(neighbours)
    block(pair, torch.cat([pair[..., :4], pair[..., 6:]], -1), None)
    torch.testing.assert_close(seen[0][0, 0, 0, :4], pair[0, 2, :4])


def test_gradients():
    torch.manual_seed(0)
    block = LocalConsensus(7, 5, keypoint_change=True, k=2).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    own = similar_matches(7) + 0.05 * torch.rand(1, 7, 7, dtype=torch.float64)
    own.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: block(x, x, None), own)
    mask = torch.tensor([[True] * 5 + [False] * 2])
    block(own, own, mask)[:, :5].sum().backward()
    assert not own.grad[:, 5:].any()
    assert own.grad[:, :5].abs().amin(-1).all()
    assert all(p.grad.any() for p in block.parameters())


def test_columns_wanted():
    assert MotionConsensus(3, 8, keypoint_change=False).columns == 4
    assert MotionConsensus(3, 8, keypoint_change=True).columns == 7
