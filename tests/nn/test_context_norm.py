"""The fused normalisation against its three layers written out."""

import pytest
import torch
from torch import nn

from n3match.nn import ContextNormReLU

pytestmark = pytest.mark.arithmetic


def _three_layers(x, counts, batch_norm):
    """Context norm, nn.BatchNorm1d and ReLU on pairs cut to their true lengths."""
    normed = []
    for pair, count in zip(x, counts):
        real = pair[:count]
        centred = real - real.mean(0)
        normed.append(centred / (centred.square().mean(0) + 1e-3).sqrt())
    y = batch_norm(torch.cat(normed)).relu()
    out = torch.zeros_like(x)
    for i, part in enumerate(y.split(list(counts))):
        out[i, : len(part)] = part
    return out


@pytest.mark.parametrize("counts", [(11, 11), (11, 4), (2, 1)])
@pytest.mark.parametrize("spread", [1.0, 0.02])
def test_equals_the_three_layers(counts, spread):
    torch.manual_seed(0)
    fused = ContextNormReLU(5).double()
    batch_norm = nn.BatchNorm1d(5, affine=False).double()
    mask = (torch.arange(11) < torch.tensor(counts)[:, None])[..., None].double()
    for _ in range(3):
        x = (torch.randn(2, 11, 5, dtype=torch.float64) * spread + 3.0).requires_grad_()
        cotangent = torch.randn(2, 11, 5, dtype=torch.float64) * mask
        found = fused(x, mask)
        (d_found,) = torch.autograd.grad(found, x, cotangent)
        wanted = _three_layers(x, counts, batch_norm)
        (d_wanted,) = torch.autograd.grad(wanted, x, cotangent)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(d_found, d_wanted)
        torch.testing.assert_close(fused.running_var, batch_norm.running_var)
        assert batch_norm.running_mean.abs().max() < 1e-12
    fused.eval()
    batch_norm.eval()
    torch.testing.assert_close(fused(x, mask), _three_layers(x, counts, batch_norm))
    with torch.no_grad():
        torch.testing.assert_close(fused(x, mask), _three_layers(x, counts, batch_norm))


def test_no_mask_is_a_full_mask():
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3)
    norm = ContextNormReLU(3).eval()
    torch.testing.assert_close(norm(x), norm(x, torch.ones(2, 7, 1)))


def test_gradcheck():
    torch.manual_seed(0)
    mask = torch.ones(2, 5, 1, dtype=torch.float64)
    mask[1, 3:] = 0
    norm = ContextNormReLU(2).double()
    x = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: norm(t, mask), [x])
