"""The denoising network against arrays from an independent port of the authors' code."""

import numpy as np
import pytest
import torch
from guarded_weights import plain_weights

from n3match import ops
from n3match.nn import ImageN3Block
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.denoising.released_checkpoint import as_network, our_state, read_released

pytestmark = pytest.mark.arithmetic


@pytest.fixture(scope="module")
def golden(shared_data):
    with np.load(shared_data / "golden" / "random_n3net.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def released(shared_data):
    return read_released(shared_data / "golden" / "random_n3net_ckpt.t7")


def _image(array, dtype):
    return torch.from_numpy(array).to(dtype).reshape(-1, 1, *array.shape[-2:])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_inference(golden, released, dtype, tolerance):
    net = as_network(released).to(dtype)
    with torch.inference_mode():
        out = net(_image(golden["noisy_f64"], dtype))[0, 0]
    assert np.abs(out.double().numpy() - golden["out_f64"]).max() < tolerance


def test_after_each_local_network(golden, released):
    net = as_network(released)
    x = _image(golden["noisy_f64"], torch.float32)
    with torch.inference_mode():
        for index in (0, 1):
            x = net.stage(index, x)
            assert np.abs(x[0].numpy() - golden[f"after_blocks{index}"]).max() < 1e-4


def _guarded_aggregate(query, key, value, k, log_temperature, patch_size, stride, window, **_):
    """`ops.n3_window_aggregate` with the guard of the authors' backward pass, see test_golden."""
    grid = WindowGrid(*query.shape[-2:], patch_size, stride, window)
    index = grid.candidates()
    index = index[index != torch.arange(len(index))[:, None]].view(len(index), -1)
    q, x, v = (grid.patches(image) for image in (query, key, value))
    d = torch.cdist(q, x).square().gather(2, index.expand(len(q), -1, -1))
    w = plain_weights(d, log_temperature.flatten(1)[..., None], k, guard=1e-7)
    z = w.transpose(2, 3) @ v[:, index]
    z = torch.stack([grid.put_back(z[:, :, step]) for step in range(k)], 1)
    return torch.cat([value, (z - value[:, None]).flatten(1, 2)], 1)  # the differences asked for


@pytest.mark.parametrize(("guarded", "tolerance"), [(True, 1e-9), (False, 1e-2)])
def test_training_step(golden, released, monkeypatch, guarded, tolerance):
    """Output, loss, the gradient of every parameter, and the distances' statistics afterwards.

    The authors' guard of log(1 − w) changes gradients by up to 3e-3 here, and nothing else does.
    """
    if guarded:
        monkeypatch.setattr(ops, "n3_window_aggregate", _guarded_aggregate)
    net = as_network(released).double().train()
    clean, noisy = (_image(golden[f"train_{n}"], torch.float64) for n in ("clean", "noisy"))
    out = net(noisy)
    assert np.abs(out.detach()[:, 0].numpy() - golden["train_out"]).max() < 1e-9
    loss = 0.5 * (out - clean).square().sum() / len(clean) * 1600 / 80**2
    assert loss.item() == pytest.approx(golden["train_loss"].item(), rel=1e-11)
    loss.backward()
    names = [str(name) for name in golden["train_grad_names"]]
    acting = [name for name in names if not name.endswith("nnn.bn.bias")]
    ours = {name: _our_name(name, released.tensors) for name in acting}
    parameters = dict(net.named_parameters())
    assert set(ours.values()) == set(parameters)
    for name, wanted in zip(names, golden["train_grad_l2"]):
        # Biases that all distances lose again: only rounding is left of their gradient.
        found = parameters[ours[name]].grad.norm().item() if name in ours else 0.0
        assert found == pytest.approx(wanted, rel=tolerance, abs=1e-9), name
    for index, block in enumerate(net.blocks):
        variance = golden[f"train_bn_after_{index}"][1]
        assert block.distance_scale.running_var.item() == pytest.approx(variance, rel=1e-9)


def _our_name(name, tensors):
    """What a tensor of theirs is called here: the one that is missing without it."""
    rest = {n: t for n, t in tensors.items() if n != name}
    (found,) = set(our_state(tensors)) - set(our_state(rest))
    return found


@pytest.mark.parametrize("size", ["64x80", "61x83"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_block(shared_data, size, dtype, tolerance):
    """The block's own part, with the networks' outputs given."""
    with np.load(shared_data / "golden" / f"n3_2d_{size}.npz") as file:
        golden = dict(file)
    x, e, log_t = (
        torch.from_numpy(golden[n]).to(dtype).requires_grad_() for n in ("x", "xe", "log_temp")
    )
    assert bool(golden["avgpool"])
    block = ImageN3Block(
        x.shape[1], int(golden["k"]), patch_size=int(golden["patch"]),
        stride=int(golden["stride"]), window=int(golden["window"]),
        temperature_bias=float(golden["temp_bias"]),
    ).to(dtype).eval()
    block.embedding = _Given(e)
    block.temperature = _Given(log_t)
    gain, _, _, variance = golden["bn_weight_bias_mean_var"]
    with torch.no_grad():
        block.distance_scale.gain.fill_(gain)
        block.distance_scale.running_var.fill_(variance)
    z = block(x)
    assert np.abs(z.detach().double().numpy() - golden["z_f64"]).max() < tolerance
    cotangent = np.random.default_rng(5).standard_normal(z.shape).astype(np.float32)
    found = torch.autograd.grad((z * torch.from_numpy(cotangent)).sum(), [x, e, log_t])
    for name, grad in zip(("x", "xe", "log_temp"), found):
        wanted = torch.from_numpy(golden[f"grad_{name}_f64"])
        torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-5)


class _Given(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value
