"""E of a pose, symmetric and Sampson distances."""

import kornia
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from n3match.geometry import (
    essential_from_pose,
    sampson_distance,
    skew_symmetric,
    symmetric_epipolar_distance,
)


def _pose(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    R = torch.tensor(Rotation.random(random_state=seed).as_matrix())
    t = torch.randn(3, dtype=torch.float64, generator=generator)
    return R, t / t.norm()


def _matches(seed: int, count: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + 1000)
    return tuple(torch.rand(count, 2, dtype=torch.float64, generator=generator) - 0.5 for _ in "01")


def test_skew_symmetric_is_the_cross_product():
    a, b = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close((skew_symmetric(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_true_matches_satisfy_the_constraint(seed):
    R, t = _pose(seed)
    x0, _ = _matches(seed)
    depth = torch.rand(len(x0), 1, dtype=torch.float64) * 5 + 1
    X1 = (torch.cat((x0, torch.ones_like(depth)), 1) * depth) @ R.T + t
    # Behind camera 1 the constraint holds all the same; only z = 0 has no image.
    seen = X1[:, 2].abs() > 1e-2
    x1 = X1[seen, :2] / X1[seen, 2:]
    E = essential_from_pose(R, t)
    assert torch.linalg.norm(E).item() == pytest.approx(2**0.5)
    assert symmetric_epipolar_distance(x0[seen], x1, E).max() < 1e-18
    assert sampson_distance(x0[seen], x1, E).max() < 1e-18


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_distances_ignore_scale_and_swap_with_the_images(seed, scale):
    x0, x1 = _matches(seed)
    E = essential_from_pose(*_pose(seed))
    for distance in (symmetric_epipolar_distance, sampson_distance):
        d = distance(x0, x1, E)
        torch.testing.assert_close(distance(x0, x1, -scale * E), d)
        torch.testing.assert_close(distance(x1, x0, E.T), d)


def test_symmetric_distance_is_the_sum_of_squared_distances_to_both_lines():
    x0, x1 = _matches(3)
    E = essential_from_pose(*_pose(3))
    for i in range(len(x0)):
        h0, h1 = (torch.cat((x[i], torch.ones(1, dtype=torch.float64))) for x in (x0, x1))
        line1, line0 = E @ h0, E.T @ h1
        to1 = (h1 @ line1) / line1[:2].norm()
        to0 = (h0 @ line0) / line0[:2].norm()
        torch.testing.assert_close(
            symmetric_epipolar_distance(x0, x1, E)[i], to0.square() + to1.square()
        )


def test_agrees_with_kornia():
    x0, x1 = (torch.stack([_matches(seed)[i] for seed in range(4)]) for i in (0, 1))
    E = torch.stack([essential_from_pose(*_pose(seed)) for seed in range(4)])
    epipolar = kornia.geometry.epipolar
    torch.testing.assert_close(
        symmetric_epipolar_distance(x0, x1, E),
        epipolar.symmetrical_epipolar_distance(x0, x1, E, squared=True),
    )
    torch.testing.assert_close(
        sampson_distance(x0, x1, E), epipolar.sampson_epipolar_distance(x0, x1, E, squared=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_at_the_epipoles_with_finite_gradients(dtype):
    # Forward motion: both epipoles at the centre.
    E = essential_from_pose(torch.eye(3), torch.tensor([0.0, 0.0, 1.0])).to(dtype)
    x = torch.zeros(1, 3, 2, dtype=dtype)
    x0 = x.clone().requires_grad_()
    x1 = (x + torch.tensor([[0.0, 0.0], [0.1, 0.2], [1e-4, 0.0]]).to(dtype)).requires_grad_()
    E = E[None].clone().requires_grad_()
    for distance in (symmetric_epipolar_distance, sampson_distance):
        d = distance(x0, x1, E)
        assert d.isfinite().all()
        gradients = torch.autograd.grad(d.sum(), (x0, x1, E))
        assert all(g.isfinite().all() for g in gradients)


def test_half_precision_is_computed_in_float32():
    x0, x1 = _matches(5)
    E = essential_from_pose(*_pose(5))
    result = symmetric_epipolar_distance(x0.half(), x1.half(), E.half())
    assert result.dtype == torch.float32
    rounded = symmetric_epipolar_distance(x0.half().double(), x1.half().double(), E.half().double())
    torch.testing.assert_close(result.double(), rounded, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("distance", [symmetric_epipolar_distance, sampson_distance])
def test_gradcheck(distance):
    x0, x1 = _matches(7, 5)
    E = essential_from_pose(*_pose(7))
    inputs = tuple(a.clone().requires_grad_() for a in (x0[None], x1[None], E[None]))
    assert torch.autograd.gradcheck(distance, inputs)


def test_shapes_broadcast_and_mismatches_are_named():
    x0, x1 = _matches(1)
    E = torch.stack([essential_from_pose(*_pose(s)) for s in range(3)])
    assert symmetric_epipolar_distance(x0, x1, E).shape == (3, 13)
    assert symmetric_epipolar_distance(x0[:0], x1[:0], E[0]).shape == (0,)
    with pytest.raises(ValueError, match="x0 and x1 must hold the same number of points"):
        symmetric_epipolar_distance(x0, x1[:5], E[0])
    with pytest.raises(ValueError, match=r"E must have shape \(..., 3, 3\), got \(3, 2\)"):
        sampson_distance(x0, x1, E[0, :, :2])
    with pytest.raises(TypeError, match=r"x0 must be a torch\.Tensor, got list"):
        sampson_distance(x0.tolist(), x1, E[0])


def test_autocast_does_not_lower_the_precision():
    x0, x1 = (x.float() for x in _matches(6))
    R, t = (a.float() for a in _pose(6))
    expected = symmetric_epipolar_distance(x0, x1, essential_from_pose(R, t))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = symmetric_epipolar_distance(x0, x1, essential_from_pose(R, t))
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [symmetric_epipolar_distance, sampson_distance])
def test_arrays_get_the_same_answer_as_arrays(distance, dtype):
    x0, x1 = (x.to(dtype) for x in _matches(2))
    E = torch.stack([essential_from_pose(*_pose(s)) for s in range(3)]).to(dtype)
    E[0] = torch.diag(torch.tensor([0.0, 0.0, 1.0]))  # no lines at all
    found = distance(x0.numpy(), x1.numpy(), E.numpy())
    expected = distance(x0, x1, E)
    assert isinstance(found, np.ndarray)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=0)
    backwards = distance(x0.numpy()[::-1], x1.numpy()[::-1], E.numpy()[1])
    np.testing.assert_array_equal(backwards, found[1, ::-1])
    with pytest.raises(TypeError, match=r"E must be a numpy\.ndarray, got Tensor"):
        distance(x0.numpy(), x1.numpy(), E)
    with pytest.raises(TypeError, match="x1 must have a floating-point dtype, got int64"):
        distance(x0.numpy(), np.zeros((13, 2), np.int64), E.numpy())
