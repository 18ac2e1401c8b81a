"""The operator against arrays computed by an independent port of the authors' formulas.

The authors' backward pass of log(1 − w) adds a guard of 1e-7 to 1 − w where w > ½, which shifts
gradients visibly where w nears 1 (by 4 % in "exttemp_k_gt_o"). Ours is the gradient of the formula
itself. So gradients are compared in two steps: the golden ones equal the plain formula with that
guard, and ours equal the plain formula without it.
"""

import math

import numpy as np
import pytest
import torch
from backends import (
    BACKENDS,
    HAS_TRITON,
    MARKS,
    PLAIN_CALLS,
    n3_aggregate,
    n3_window_aggregate,
)
from guarded_weights import plain_weights

from n3match import ops
from n3match.ops.window.grid import WindowGrid

pytestmark = pytest.mark.arithmetic

CASES = ("plain", "exttemp", "exttemp_k_gt_o", "ties", "peaky")


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data / "golden" / "weighting.npz") as file:
        return dict(file)


def _run(golden, name, dtype, weights):
    """(weights, gradient of d, gradient of the log temperature)."""

    def get(key):
        return torch.from_numpy(np.asarray(golden[f"{name}/{key}"])).to(dtype)

    d = get("d").requires_grad_()
    given = f"{name}/log_temp" in golden
    tau = (get("log_temp") if given else torch.zeros(1, dtype=dtype)).requires_grad_()
    shift = math.log(float(golden[f"{name}/temp_bias"]))
    w = weights(d, (tau + shift).expand(*d.shape[:2], 1), int(golden[f"{name}/k"]))
    return [w, *torch.autograd.grad((w * get("R")).sum(), [d, tau])]


def _expected(golden, name):
    key = "grad_log_temp_f64" if f"{name}/log_temp" in golden else "grad_log_temp_param_f64"
    return [torch.from_numpy(golden[f"{name}/{part}"]) for part in ("W_f64", "grad_d_f64", key)]


@pytest.mark.parametrize("name", CASES)
def test_golden_is_the_plain_formula_with_the_authors_guard(golden, name):
    found = _run(golden, name, torch.float64, lambda d, t, k: plain_weights(d, t, k, 1e-7))
    for a, b in zip(found, _expected(golden, name)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_weights_and_exact_gradients(golden, name, dtype, tolerance):
    wanted = _run(golden, name, torch.float64, lambda d, t, k: plain_weights(d, t, k, 0.0))
    found = _run(golden, name, dtype, lambda d, t, k: ops.n3_weights(d, k, t))
    if name == "peaky" and dtype == torch.float64:
        # There the plain formula itself is good to 1e-8 only: log(−expm1(x)) of x = −8e-9.
        tolerance = 1e-7
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)
    assert (found[0].double() - _expected(golden, name)[0]).abs().max() < tolerance


def test_the_authors_float32_is_off_where_ours_is_right(golden):
    """Shows that "peaky" is the hard case it is meant to be."""
    assert np.abs(golden["peaky/W_f32"] - golden["peaky/W_f64"]).max() > 0.25


def _aggregations():
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        for backend in BACKENDS:
            yield backend, dtype, tolerance
        if HAS_TRITON:
            marks = MARKS if dtype == torch.float64 else []
            yield pytest.param("triton", dtype, tolerance, marks=marks)


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), list(_aggregations()))
def test_aggregation(shared_data, backend, dtype, tolerance):
    """Golden aggregation over explicit candidates, each query given its own candidates as a
    batch element of the dense form (the repeated candidate included)."""
    with np.load(shared_data / "golden" / "aggregation.npz") as file:
        golden = dict(file)
    index = torch.from_numpy(golden["I"]).long()
    leaves = {
        name: torch.from_numpy(golden[name]).to(dtype).requires_grad_()
        for name in ("x", "xe", "ye", "log_temp")
    }
    b, m, o = index.shape
    rows = torch.arange(b)[:, None, None]
    log_t = leaves["log_temp"] + math.log(float(golden["temp_bias"]))
    z = n3_aggregate(
        leaves["ye"].reshape(b * m, 1, -1),
        leaves["xe"][rows, index].reshape(b * m, o, -1),
        leaves["x"][rows, index].reshape(b * m, o, -1),
        int(golden["k"]),
        log_t.reshape(b * m, 1, 1),
        backend=backend,
    ).reshape(b, m, -1, leaves["x"].shape[2])
    expected = torch.from_numpy(golden["z_eval_f64"]).transpose(2, 3)
    torch.testing.assert_close(z.double(), expected, rtol=tolerance, atol=tolerance)
    cotangent = torch.from_numpy(golden["R"]).to(dtype).transpose(2, 3)
    found = torch.autograd.grad((z * cotangent).sum(), list(leaves.values()))
    for name, grad in zip(leaves, found):
        wanted = torch.from_numpy(golden[f"grad_{name}_eval_f64"])
        # The authors' guard (see above) shows where a query has one dominant candidate.
        torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-5)


WINDOWS = ("64x80", "61x83")


class _Windows:
    """A golden 2-D block: its parts for the operator, a batch norm's scale and the mean over each
    patch in the temperature, and the image taken off the output."""

    def __init__(self, folder, name):
        with np.load(folder / "golden" / f"n3_2d_{name}.npz") as file:
            self.golden = dict(file)
        self.k, patch, stride, window = (
            int(self.golden[key]) for key in ("k", "patch", "stride", "window")
        )
        self.layout = patch, stride, window
        self.grid = WindowGrid(*self.golden["x"].shape[2:], *self.layout)
        assert self.grid.shape == tuple(self.golden["grid"])
        gamma, _, _, variance = self.golden["bn_weight_bias_mean_var"]
        scale = gamma / math.sqrt(variance + 1e-5)
        self.log_bias = math.log(float(self.golden["temp_bias"]) / scale)

    def run(self, dtype, aggregate):
        """(output, gradients of image, embedding and temperature map); aggregate: (embedding,
        image, log t of the patches (B, M)) -> (B, K, C, H, W)."""
        x, embedding, log_temp = leaves = [
            torch.from_numpy(self.golden[key]).to(dtype).requires_grad_()
            for key in ("x", "xe", "log_temp")
        ]
        z = aggregate(embedding, x, self.grid.patches(log_temp).mean(2) + self.log_bias)
        z = torch.cat([x, (z - x[:, None]).flatten(1, 2)], 1)
        r = np.random.default_rng(5).standard_normal(z.shape).astype(np.float32)
        return [z, *torch.autograd.grad((z * torch.from_numpy(r).to(dtype)).sum(), leaves)]

    def plain(self, embedding, x, log_t, guard):
        index = torch.from_numpy(self.golden["I"]).long()
        y, v = self.grid.patches(embedding), self.grid.patches(x)
        d = (y[:, :, None] - y[:, index]).square().sum(3)
        w = plain_weights(d, log_t[..., None], self.k, guard)
        z = torch.einsum("bmok,bmod->kbmd", w, v[:, index])
        return torch.stack([self.grid.put_back(step) for step in z], 1)


@pytest.mark.parametrize("name", WINDOWS)
def test_golden_windows_are_the_plain_formula_with_the_authors_guard(shared_data, name):
    block = _Windows(shared_data, name)
    found = block.run(torch.float64, lambda *given: block.plain(*given, guard=1e-7))
    for a, key in zip(found, ("z", "grad_x", "grad_xe", "grad_log_temp")):
        wanted = torch.from_numpy(block.golden[f"{key}_f64"])
        torch.testing.assert_close(a, wanted, rtol=1e-9, atol=1e-9)


def _check_windows(block, backend, dtype, tolerance):
    def aggregate(embedding, x, log_t):
        return n3_window_aggregate(
            embedding, embedding, x, block.k, log_t.view(len(x), 1, *block.grid.shape),
            *block.layout, backend=backend,
        )

    found = block.run(dtype, aggregate)
    exact = block.run(torch.float64, lambda *given: block.plain(*given, guard=0.0))
    for a, b in zip(found, exact):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)
    wanted = torch.from_numpy(block.golden["z_f64"])
    torch.testing.assert_close(found[0].double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("backend", PLAIN_CALLS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_windows(shared_data, name, backend, dtype, tolerance):
    _check_windows(_Windows(shared_data, name), backend, dtype, tolerance)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_windows_on_every_path(shared_data, path, name, dtype, tolerance):
    block = _Windows(shared_data, name)
    _check_windows(block, "tiled", dtype, tolerance)
    path(block.layout)
