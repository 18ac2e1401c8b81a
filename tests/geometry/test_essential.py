"""Projection to essential matrices, decomposition and the choice among four poses."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from two_view_scenes import make_scene

from n3match.geometry import (
    decompose_essential,
    essential_from_pose,
    project_to_essential,
    recover_pose,
    rotation_error_deg,
    undistort_points,
)

pytestmark = pytest.mark.arithmetic


def _pose(seed):
    rng = np.random.default_rng(seed)
    t = rng.normal(size=3)
    return torch.tensor(Rotation.random(random_state=seed).as_matrix()), torch.tensor(
        t / np.linalg.norm(t)
    )


def _angle(a, b):
    """Angle of two directions, sign counted."""
    return float(torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(), a @ b)))


def test_projection_is_the_nearest_and_leaves_essential_matrices_alone():
    E = torch.stack([essential_from_pose(*_pose(s)) for s in range(5)]) / 2**0.5
    torch.testing.assert_close(project_to_essential(3.7 * E), E)
    noisy = E + 0.05 * torch.randn_like(E)
    P = project_to_essential(noisy)
    values = torch.linalg.svdvals(P)
    torch.testing.assert_close(values, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0]] * 5).double())
    # Nearest up to scale: no other essential matrix of that norm has a larger inner product.
    for other in E:
        assert ((noisy * P).sum((1, 2)) >= (noisy * other).sum((1, 2)).abs() - 1e-12).all()


def test_projection_gradcheck_also_where_an_svd_has_no_derivative():
    generator = torch.Generator().manual_seed(0)
    general = torch.randn(3, 3, 3, dtype=torch.float64, generator=generator)
    essential = torch.stack([essential_from_pose(*_pose(s)) for s in range(3)])
    for E in (general, essential):
        assert torch.autograd.gradcheck(project_to_essential, E.clone().requires_grad_())


def test_projection_of_singular_cases_is_finite():
    E = torch.zeros(4, 3, 3)
    E[1] = torch.nan
    E[2] = torch.eye(3)
    E[3, 0, 0] = 1.0
    E.requires_grad_()
    P = project_to_essential(E)
    assert P.isfinite().all()
    assert not P[:2].any()
    P.sum().backward()
    assert E.grad.isfinite().all()


def test_decomposition_holds_the_pose():
    for seed in range(20):
        R, t = _pose(seed)
        R1, R2, direction = decompose_essential(-2.5 * essential_from_pose(R, t))
        for candidate in (R1, R2):
            torch.testing.assert_close(torch.linalg.det(candidate), torch.tensor(1.0).double())
        assert min(rotation_error_deg(R1, R), rotation_error_deg(R2, R)) < 1e-6
        assert rotation_error_deg(R1, R2) == pytest.approx(180.0, abs=1e-6)
        assert min(_angle(direction, t), _angle(-direction, t)) < 1e-6


def test_no_matrix_no_pose():
    E = torch.stack((torch.zeros(3, 3), torch.full((3, 3), torch.nan), torch.eye(3)))
    x = torch.rand(3, 6, 2)
    R, t, in_front = recover_pose(E, x, x)
    assert R[:2].isnan().all()
    assert t[:2].isnan().all()
    assert not in_front[:2].any()
    assert R[2].isfinite().all()


def _cheirality_case(seed, depth_scale, count=60):
    rng = np.random.default_rng(seed)
    R = torch.tensor(Rotation.from_rotvec(rng.normal(0, 0.3, 3)).as_matrix())
    t = torch.tensor(rng.normal(size=3))
    t = t / t.norm()
    x0 = torch.tensor(rng.uniform(-0.5, 0.5, (count, 2)))
    depth = torch.tensor(rng.uniform(3, 9, (count, 1))) * depth_scale
    X1 = torch.cat((x0, torch.ones(count, 1).double()), 1) * depth @ R.T + t
    keep = X1[:, 2] > 0.1
    return R, t, x0[keep], (X1[:, :2] / X1[:, 2:])[keep]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 300.0, 1e4, 1e6]), st.sampled_from([1, -1]))
def test_exact_points_at_any_depth_give_the_pose(seed, depth_scale, sign):
    R, t, x0, x1 = _cheirality_case(seed, depth_scale)
    found_R, found_t, in_front = recover_pose(sign * essential_from_pose(R, t), x0, x1)
    assert rotation_error_deg(found_R, R) < 1e-5
    assert _angle(found_t, t) < 1e-3
    assert in_front.all()


def test_arrays_get_the_same_answer_as_arrays():
    R, t, x0, x1 = _cheirality_case(4, 1.0)
    E = essential_from_pose(R, t)
    np.testing.assert_array_equal(essential_from_pose(R.numpy(), t=t.numpy()), E.numpy())
    votes = torch.arange(len(x0)) % 2 == 0
    found = recover_pose(*(a.numpy()[::-1] for a in (E.flip(0), x0, x1, votes)))
    expected = recover_pose(E, x0.flip(0), x1.flip(0), votes.flip(0))
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, np.ndarray)
        np.testing.assert_array_equal(a, b.numpy())


def test_far_noisy_points_do_not_outvote_the_near_ones():
    for seed in range(20):
        R, t, near0, near1 = _cheirality_case(seed, 1.0, count=8)
        rng = np.random.default_rng(seed)
        far0 = torch.tensor(rng.uniform(-0.4, 0.4, (500, 2)))
        rays = torch.cat((far0, torch.ones(500, 1).double()), 1) @ R.T
        ahead = rays[:, 2] > 0.1
        far1 = (rays[:, :2] / rays[:, 2:])[ahead] + 3e-4 * torch.tensor(
            rng.normal(size=(int(ahead.sum()), 2))
        )
        x0, x1 = torch.cat((near0, far0[ahead])), torch.cat((near1, far1))
        found_R, found_t, in_front = recover_pose(essential_from_pose(R, t), x0, x1)
        assert rotation_error_deg(found_R, R) < 1e-5
        assert _angle(found_t, t) < 1e-3
        assert in_front.double().mean() > 0.95


def test_far_points_that_opencv_drops_by_default_are_kept():
    scene = make_scene("far", noise=0.0)
    x0, x1 = (undistort_points(p, scene.K0) for p in (scene.points0, scene.points1))
    R, t = torch.tensor(scene.R), torch.tensor(scene.t)
    E = essential_from_pose(R, t)
    _, _, _, mask = cv2.recoverPose(E.numpy(), x0, x1, np.eye(3))
    assert np.count_nonzero(mask) == 0  # the trap
    found_R, found_t, in_front = recover_pose(E, torch.tensor(x0), torch.tensor(x1))
    assert rotation_error_deg(found_R, R) < 1e-5
    assert _angle(found_t, t) < 1e-3
    assert in_front.all()


def test_agrees_with_opencv_on_ordinary_pairs():
    for kind in ("general", "forward", "planar"):
        scene = make_scene(kind, outliers=30)
        x0, x1 = (undistort_points(p, scene.K0) for p in (scene.points0, scene.points1))
        E = essential_from_pose(torch.tensor(scene.R), torch.tensor(scene.t))
        _, cv_R, cv_t, cv_mask, _ = cv2.recoverPose(
            E.numpy(), x0, x1, np.eye(3), distanceThresh=1e9
        )
        R, t, in_front = recover_pose(E, torch.tensor(x0), torch.tensor(x1))
        np.testing.assert_allclose(R.numpy(), cv_R, atol=1e-9)
        np.testing.assert_allclose(t.numpy(), cv_t.ravel(), atol=1e-9)
        agree = np.mean((cv_mask.ravel() > 0)[scene.true] == in_front.numpy()[scene.true])
        assert agree > 0.99


def test_weights_choose_the_voters():
    R, t, x0, x1 = _cheirality_case(0, 1.0, count=40)
    E = essential_from_pose(R, t)
    # Most matches of this pair come from a camera on the other side: depths are negative there.
    R_other, t_other, y0, y1 = R, -t, *_seen_from(R, -t, 90)
    x0, x1 = torch.cat((x0, y0)), torch.cat((x1, y1))
    first = torch.arange(len(x0)) < len(x0) - len(y0)
    for weights, expected in ((first, t), (~first, t_other), (first * 1.0, t)):
        found_R, found_t, in_front = recover_pose(E, x0, x1, weights)
        assert rotation_error_deg(found_R, R_other) < 1e-5
        assert _angle(found_t, expected) < 1e-3
        assert in_front[weights.bool()].all()


def _seen_from(R, t, count):
    x0 = torch.rand(count, 2, dtype=torch.float64) - 0.5
    X1 = torch.cat((x0, torch.ones(count, 1).double()), 1) * 5 @ R.T + t
    return x0, X1[:, :2] / X1[:, 2:]


def test_batch_equals_one_by_one_and_shapes_are_checked():
    cases = [_cheirality_case(s, 1.0, 30) for s in range(3)]
    count = min(len(c[2]) for c in cases)
    E = torch.stack([essential_from_pose(c[0], c[1]) for c in cases])
    x0, x1 = (torch.stack([c[i][:count] for c in cases]) for i in (2, 3))
    R, t, in_front = recover_pose(E, x0, x1)
    assert in_front.shape == (3, count)
    for i in range(3):
        alone = recover_pose(E[i], x0[i], x1[i])
        torch.testing.assert_close(alone[0], R[i])
        torch.testing.assert_close(alone[1], t[i])
    with pytest.raises(ValueError, match=r"weights must have shape \(..., N\)"):
        recover_pose(E, x0, x1, torch.ones(3, count + 1))
    with pytest.raises(ValueError, match="x0 and x1 must hold the same number"):
        recover_pose(E, x0, x1[:, 1:])
