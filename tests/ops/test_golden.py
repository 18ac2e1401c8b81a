"""The operator against arrays computed by an independent port of the authors' formulas."""

import numpy as np
import pytest
import torch

from n3match import ops

CASES = ("plain", "exttemp", "exttemp_k_gt_o", "ties", "peaky")


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data / "golden" / "weighting.npz") as file:
        return dict(file)


def _case(golden, name, dtype):
    def get(key):
        return torch.from_numpy(np.asarray(golden[f"{name}/{key}"])).to(dtype)

    tau = get("log_temp") if f"{name}/log_temp" in golden else torch.zeros(1, 1, 1, dtype=dtype)
    bias = float(golden[f"{name}/temp_bias"])
    return get("d"), tau, get("R"), int(golden[f"{name}/k"]), np.log(bias)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_weights_and_gradients(golden, name, dtype, tolerance):
    d, tau, cotangent, k, log_bias = _case(golden, name, dtype)
    d.requires_grad_()
    tau.requires_grad_()
    w = ops.n3_weights(d, k, (tau + log_bias).expand(*d.shape[:2], 1))
    expected = torch.from_numpy(golden[f"{name}/W_f64"])
    assert (w.double() - expected).abs().max() < tolerance
    (w * cotangent).sum().backward()
    # The authors' backward pass guards log(1 − w) by 1e-7, so only that much agreement is there
    # to be had where a weight nears 1.
    close = {"rtol": 1e-5 if name == "peaky" else 10 * tolerance, "atol": 10 * tolerance}
    torch.testing.assert_close(d.grad.double(), torch.from_numpy(golden[f"{name}/grad_d_f64"]),
                               **close)
    key = f"{name}/grad_log_temp_f64"
    if key in golden:
        torch.testing.assert_close(tau.grad.double(), torch.from_numpy(golden[key]), **close)


def test_the_authors_float32_is_off_where_ours_is_right(golden):
    """Shows that "peaky" is the hard case it is meant to be."""
    gap = np.abs(golden["peaky/W_f32"] - golden["peaky/W_f64"]).max()
    assert gap > 0.25


@pytest.mark.parametrize("backend", ops.backends())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
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
    log_t = leaves["log_temp"] + float(np.log(golden["temp_bias"]))
    z = ops.n3_aggregate(
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
    (z * cotangent).sum().backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(
            leaf.grad.double(),
            torch.from_numpy(golden[f"grad_{name}_eval_f64"]),
            rtol=10 * tolerance,
            atol=10 * tolerance,
        )
