"""The essential-matrix layer: known poses, gradients, kornia's conventions."""

import numpy as np
import pytest
import torch
from kornia.geometry import epipolar
from putative_scenes import K0, K1, make_scene

from n3match.geometry import essential_from_pose
from n3match.plugins.kornia import WeightedEightPoint, find_essential


def _pair(count=40, wrong=0, seed=0, noise=0.0):
    scene = make_scene(count, wrong, seed=seed, noise=noise)
    x1, x2 = (
        torch.from_numpy((p - K[:2, 2]) / K[0, 0])[None]
        for p, K in ((scene.points0, K0), (scene.points1, K1))
    )
    E = essential_from_pose(torch.from_numpy(scene.R), torch.from_numpy(scene.t)) / 2**0.5
    return scene, x1, x2, E[None]


def _assert_same_up_to_sign(E, expected, atol):
    sign = torch.sign((E * expected).sum((1, 2), keepdim=True))
    torch.testing.assert_close(E * sign, expected, atol=atol, rtol=0)


def test_clean_points_give_the_known_matrix():
    _, x1, x2, expected = _pair()
    E = find_essential(x1, x2)
    assert E.shape == (1, 3, 3)
    _assert_same_up_to_sign(E, expected, 1e-8)
    S = torch.linalg.svdvals(E)[0]
    torch.testing.assert_close(S, torch.tensor([0.5**0.5, 0.5**0.5, 0.0]).double())


def test_same_equation_as_kornias():
    """x2ᵀ E x1 = 0 for find_fundamental and the layer alike; one of kornia's ten candidates."""
    _, x1, x2, _ = _pair(noise=0.2)
    weights = torch.rand(1, 40, generator=torch.Generator().manual_seed(0)).double()
    E = find_essential(x1, x2, weights)
    F = epipolar.find_fundamental(x1, x2, weights)
    F = F / torch.linalg.matrix_norm(F)
    assert E.shape == F.shape
    _assert_same_up_to_sign(E, F, 0.05)
    candidates = epipolar.find_essential(x1, x2)
    assert candidates.shape == (1, 10, 3, 3)
    gap = torch.minimum(
        (candidates - E[:, None]).flatten(2).norm(dim=-1),
        (candidates + E[:, None]).flatten(2).norm(dim=-1),
    )
    assert gap[gap.isfinite()].min() < 0.1


def test_weights_leave_matches_out():
    scene, x1, x2, expected = _pair(60, 60)
    weights = torch.from_numpy(scene.right.astype(np.float64))[None]
    _assert_same_up_to_sign(find_essential(x1, x2, weights), expected, 1e-8)
    _assert_same_up_to_sign(find_essential(x1, x2, weights * 2 - 1), expected, 1e-8)  # below zero
    assert not find_essential(x1, x2, torch.zeros_like(weights)).any()


def test_gradients_of_every_input():
    scene, _, _, _ = _pair(11, noise=0.5)
    points = [torch.from_numpy(p)[None].requires_grad_() for p in (scene.points0, scene.points1)]
    weights = torch.linspace(0.2, 1, 11).double()[None].requires_grad_()
    focals = [torch.tensor([K[0, 0]]).double().requires_grad_() for K in (K0, K1)]
    direction = torch.linspace(-1, 1, 9).double().view(1, 3, 3)

    def layer(points1, points2, weights, focal1, focal2):
        cameras = []
        for focal, K in ((focal1, K0), (focal2, K1)):
            one = torch.eye(3).double()
            centre = torch.from_numpy(K) * (1 - one) + one * torch.tensor([0, 0, 1.0])
            cameras.append(centre + focal * torch.diag(torch.tensor([1.0, 1.0, 0.0])).double())
        E = WeightedEightPoint()(points1, points2, weights, *cameras)
        # Of arbitrary sign: look at what doesn't depend on it.
        return (E * direction).sum((1, 2)).square(), E.square()

    assert torch.autograd.gradcheck(layer, (*points, weights, *focals), eps=1e-5, atol=1e-5)


def test_training_with_it_finds_the_right_matches():
    """Weights that are learnt through the layer alone."""
    scene, x1, x2, expected = _pair(40, 10, seed=0, noise=0.3)
    logits = torch.zeros(1, 50).double().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.2)
    losses = []
    for _ in range(100):
        E = WeightedEightPoint()(x1, x2, torch.sigmoid(logits))
        loss = torch.minimum((E - expected).square().sum(), (E + expected).square().sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    right = torch.from_numpy(scene.right)
    assert logits[0, right].mean() > logits[0, ~right].mean() + 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    _, x1, x2, _ = _pair()
    assert find_essential(x1.to(dtype), x2.to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points1": torch.zeros(1, 40, 2)}, ValueError, "points2: found torch.float64 on cpu"),
        ({"points1": torch.zeros(1, 39, 2).double()}, ValueError, "points1 and points2 must both"),
        ({"weights": torch.zeros(40, 1).double()}, ValueError, "weights must have shape"),
        ({"weights": torch.zeros(1, 40)}, ValueError, "weights: found torch.float32"),
        ({"points1": np.zeros((1, 40, 2))}, TypeError, "points1 must be a torch.Tensor"),
        ({"K1": torch.eye(3).double()}, ValueError, "K1 and K2: found one"),
    ],
)
def test_wrong_use_is_told(change, error, message):
    _, x1, x2, _ = _pair()
    with pytest.raises(error, match=message):
        WeightedEightPoint()(**{"points1": x1, "points2": x2, **change})


def test_too_few_points():
    _, x1, x2, _ = _pair(7)
    with pytest.raises(ValueError, match="at least 8 points, got 7"):
        find_essential(x1, x2)
