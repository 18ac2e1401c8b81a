"""The weighted eight-point algorithm and its eigenvector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from n3match.geometry import (
    essential_from_pose,
    smallest_eigenvector,
    symmetric_epipolar_distance,
    weighted_eight_point,
)

pytestmark = pytest.mark.arithmetic


def _batch(seed, pairs=3, count=40, noise=0.0, dtype=torch.float64):
    """Calibrated matches (B, N, 2) twice, and the true E (B, 3, 3) of norm one."""
    rng = np.random.default_rng(seed)
    x0s, x1s, Es = [], [], []
    for _ in range(pairs):
        R = Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix()
        t = rng.normal(size=3)
        t /= np.linalg.norm(t)
        x0 = rng.uniform(-0.5, 0.5, (count, 2))
        X1 = np.c_[x0, np.ones(count)] * rng.uniform(3, 8, (count, 1)) @ R.T + t
        x0s.append(x0)
        x1s.append(X1[:, :2] / X1[:, 2:] + noise * rng.normal(size=(count, 2)))
        E = essential_from_pose(torch.tensor(R), torch.tensor(t))
        Es.append(E / torch.linalg.norm(E))
    x0, x1 = (torch.tensor(np.stack(x), dtype=dtype) for x in (x0s, x1s))
    return x0, x1, torch.stack(Es).to(dtype)


def _same_sign(E, reference):
    return E * torch.sign((E * reference).sum((-2, -1), keepdim=True))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(8, 60))
def test_exact_matches_give_the_true_essential_matrix(seed, count):
    x0, x1, truth = _batch(seed, pairs=2, count=count)
    weights = torch.rand(2, count, dtype=torch.float64) + 0.1
    E = weighted_eight_point(x0, x1, weights)
    torch.testing.assert_close(torch.linalg.norm(E, dim=(1, 2)), torch.ones(2).double())
    distances = symmetric_epipolar_distance(x0, x1, E)
    assert distances.max() < 1e-14
    if count >= 20:  # with few matches other matrices may come close
        torch.testing.assert_close(_same_sign(E, truth), truth, atol=1e-6, rtol=0)


def test_is_the_published_formula():
    x0, x1, _ = _batch(1, pairs=1, count=15, noise=0.01)
    w = torch.rand(1, 15, dtype=torch.float64)
    rows = []
    for (a, b), (c, d) in zip(x0[0].tolist(), x1[0].tolist()):
        rows.append([c * a, c * b, c, d * a, d * b, d, a, b, 1.0])
    X = np.array(rows)
    _, vectors = np.linalg.eigh(X.T @ np.diag(w[0].numpy()) @ X)
    expected = torch.tensor(vectors[:, 0].reshape(1, 3, 3))
    torch.testing.assert_close(_same_sign(weighted_eight_point(x0, x1, w), expected), expected)


def test_outliers_of_weight_zero_do_not_matter_and_order_does_not_either():
    x0, x1, truth = _batch(2, count=50)
    weights = torch.ones(3, 50, dtype=torch.float64)
    x1[:, 30:] = torch.rand(3, 20, 2, dtype=torch.float64)
    weights[:, 30:] = 0
    E = weighted_eight_point(x0, x1, weights)
    torch.testing.assert_close(_same_sign(E, truth), truth, atol=1e-7, rtol=0)
    order = torch.randperm(50)
    shuffled = weighted_eight_point(x0[:, order], x1[:, order], weights[:, order])
    torch.testing.assert_close(_same_sign(shuffled, truth), truth, atol=1e-7, rtol=0)


def test_float32_input_loses_only_its_own_rounding():
    x0, x1, truth = _batch(3, count=200, dtype=torch.float32)
    E = weighted_eight_point(x0, x1, torch.ones(3, 200))
    assert E.dtype == torch.float32
    torch.testing.assert_close(_same_sign(E, truth), truth, atol=2e-4, rtol=0)
    # Tiny weights (the usual ones at the start of training) change nothing.
    tiny = weighted_eight_point(x0, x1, torch.full((3, 200), 1e-30))
    torch.testing.assert_close(_same_sign(tiny, E), E, atol=1e-6, rtol=0)


def test_gradcheck_with_respect_to_all_inputs():
    x0, x1, truth = _batch(4, pairs=2, count=12, noise=0.02)
    weights = torch.rand(2, 12, dtype=torch.float64) + 0.2
    inputs = tuple(a.clone().requires_grad_() for a in (x0, x1, weights))
    assert torch.autograd.gradcheck(
        lambda a, b, w: _same_sign(weighted_eight_point(a, b, w, damping=0.0), truth), inputs
    )


def test_default_damping_keeps_the_gradient_of_ordinary_pairs():
    x0, x1, truth = _batch(5, count=200, noise=0.002)
    gradients = []
    for damping in (0.0, 1e-6):
        w = torch.ones(3, 200, dtype=torch.float64, requires_grad=True)
        E = weighted_eight_point(x0, x1, w, damping=damping)
        ((_same_sign(E, truth) - truth) ** 2).sum().backward()
        gradients.append(w.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=1e-12)


def _hopeless_batch(count):
    """One element for every way to have no unique answer."""
    x0, x1, _ = _batch(6, pairs=7, count=count)
    w = torch.ones(7, count, dtype=torch.float64)
    w[0] = 0  # no weight at all
    w[1, 5:] = 0  # fewer than 8 positive weights
    w[2, 1:] = 0  # one
    x0[3], x1[3] = x0[3, :1], x1[3, :1]  # all matches the same: an 8-fold tie
    x1[4] = x0[4]  # identical images: a tie of the three skew-symmetric matrices
    w[5] = float("nan")
    x0[6, 3] = float("inf")  # one bad match among good ones
    return x0, x1, w


@pytest.mark.parametrize("count", [8, 40])
def test_hopeless_elements_stay_finite_forward_and_backward(count):
    inputs = tuple(a.requires_grad_() for a in _hopeless_batch(count))
    E = weighted_eight_point(*inputs)
    assert E.isfinite().all()
    norms = torch.linalg.norm(E, dim=(1, 2))
    torch.testing.assert_close(norms, torch.tensor([0.0, 1, 1, 1, 1, 0, 1]).double())
    gradients = torch.autograd.grad((E * torch.randn_like(E)).sum(), inputs)
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[2][5].any()  # nothing can be learnt from NaN


def test_a_nan_element_leaves_the_rest_of_the_batch_alone():
    x0, x1, _ = _batch(7, noise=0.01)
    w = torch.rand(3, 40, dtype=torch.float64)
    alone = weighted_eight_point(x0, x1, w)
    w_bad, x0_bad = w.clone(), x0.clone()
    w_bad[1], x0_bad[1] = float("nan"), float("nan")
    together = weighted_eight_point(x0_bad, x1, w_bad)
    torch.testing.assert_close(together[[0, 2]], alone[[0, 2]], atol=0, rtol=0)
    assert not together[1].any()


def test_a_match_with_a_bad_value_or_negative_weight_counts_as_absent():
    x0, x1, _ = _batch(8, noise=0.01, pairs=1)
    w = torch.rand(1, 40, dtype=torch.float64)
    w[0, 20:] = 0
    expected = weighted_eight_point(x0, x1, w)
    for i, value in enumerate((float("nan"), float("inf"), -float("inf"), -1.0)):
        w[0, 20 + i] = value
    x0[0, 30], x1[0, 31] = float("nan"), float("inf")
    w[0, 30:32] = 1.0
    torch.testing.assert_close(weighted_eight_point(x0, x1, w), expected)


def test_values_too_large_for_float64_products_are_no_crash():
    x0, x1, _ = _batch(9, pairs=2)
    x0[0] *= 1e200
    E = weighted_eight_point(x0, x1, torch.ones(2, 40, dtype=torch.float64))
    assert E.isfinite().all()
    assert not E[0].any()


@pytest.mark.parametrize("count", [0, 1, 7])
def test_few_matches(count):
    x = torch.rand(2, count, 2)
    E = weighted_eight_point(x, x, torch.ones(2, count))
    assert E.shape == (2, 3, 3)
    assert E.isfinite().all()


def test_shapes_are_checked():
    x, w = torch.zeros(2, 9, 2), torch.ones(2, 9)
    with pytest.raises(ValueError, match="x0 and x1 must both have shape"):
        weighted_eight_point(x, x[:, :5], w)
    with pytest.raises(ValueError, match="x0 and x1 must both have shape"):
        weighted_eight_point(x[0], x[0], w[0])
    with pytest.raises(
        ValueError, match=r"weights must have shape \(B, N\) = \(2, 9\), got \(9,\)"
    ):
        weighted_eight_point(x, x, w[0])
    with pytest.raises(TypeError, match="weights must have a floating-point dtype"):
        weighted_eight_point(x, x, w.long())


def test_smallest_eigenvector_gradcheck_and_scale():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 6, 5, dtype=torch.float64, generator=generator)
    matrix = a.transpose(1, 2) @ a
    v = smallest_eigenvector(matrix)
    values = torch.linalg.eigvalsh(matrix)[:, :1]
    torch.testing.assert_close((matrix @ v[..., None])[..., 0], values * v)
    assert torch.autograd.gradcheck(
        lambda m: (
            (u := smallest_eigenvector((m + m.transpose(1, 2)) / 2, 0.0))
            * torch.sign((u * v).sum(-1, keepdim=True))
        ),
        matrix.clone().requires_grad_(),
    )
    torch.testing.assert_close(smallest_eigenvector(matrix * 1e-40).abs(), v.abs())


def test_smallest_eigenvector_gradient_is_zero_at_an_exact_tie():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 5.0], dtype=torch.float64))[None]
    matrix.requires_grad_()
    v = smallest_eigenvector(matrix)
    (gradient,) = torch.autograd.grad(v[0, 0] + v[0, 3], matrix)
    assert gradient.isfinite().all()
    # Only the well separated eigenvector contributes.
    assert not gradient[0, :3, :3].any()


def test_smallest_eigenvector_of_nothing_is_zero():
    matrix = torch.stack((torch.zeros(3, 3), torch.full((3, 3), torch.nan), torch.eye(3)))
    v = smallest_eigenvector(matrix)
    assert not v[:2].any()
    torch.testing.assert_close(v[2].norm(), torch.tensor(1.0).double())


def test_smallest_eigenvector_where_eigh_does_not_converge_is_zero():
    far = torch.tensor([
        [2e-1, -4e298, -4e298, -4e298],
        [2e-1, 3e-1, 1e-1, -2e-1],
        [2e-2, 1e-1, 2e-1, -4e298],
        [-4e298, -2e-1, 3e-2, 4e-1],
    ], dtype=torch.float64)  # fmt: skip
    matrix = torch.stack((torch.diag(torch.arange(1.0, 5.0).double()), far)).requires_grad_()
    v = smallest_eigenvector(matrix)
    assert v.abs().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    (gradient,) = torch.autograd.grad(v.sum(), matrix)
    assert gradient.isfinite().all() and gradient[0].any() and not gradient[1].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu():
    x0, x1, _ = _batch(10, noise=0.01)
    w = torch.rand(3, 40, dtype=torch.float64)
    on_cpu = weighted_eight_point(x0, x1, w)
    inputs = [a.cuda().requires_grad_() for a in (x0, x1, w)]
    on_gpu = weighted_eight_point(*inputs)
    torch.testing.assert_close(_same_sign(on_gpu.cpu(), on_cpu), on_cpu)
    on_gpu.square()[:, 0].sum().backward()
    assert all(a.grad.isfinite().all() for a in inputs)


def test_autocast_does_not_lower_the_precision():
    x0, x1, _ = _batch(11, noise=0.01, dtype=torch.float32)
    w = torch.rand(3, 40, requires_grad=True)
    expected = weighted_eight_point(x0, x1, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = weighted_eight_point(x0, x1, w)
    torch.testing.assert_close(result, expected, atol=0, rtol=0)
    assert torch.autograd.grad(result.square()[:, 0].sum(), w)[0].isfinite().all()
