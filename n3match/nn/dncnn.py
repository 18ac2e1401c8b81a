"""DnCNN (Zhang et al., 2017) as N³Net uses it: a stack of 3×3 convolutions with a short cut.

B batch, C channels, H×W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from n3match.nn.distributed import BatchNorm2d

_SMALLEST_GAIN = 0.025


def convolution(channels_in: int, channels_out: int, *, bias: bool) -> nn.Conv2d:
    """3×3, zero-padded, started at N(0, √(2/(9·out)))."""
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * channels_out)))
    if bias:
        nn.init.zeros_(conv.bias)
    return conv


def batch_norm(features: int, momentum: float) -> BatchNorm2d:
    """Started with small positive gains, |N(0, √(2/(9·features)))| and 0.025 at least."""
    norm = BatchNorm2d(features, momentum=momentum)
    with torch.no_grad():
        norm.weight.normal_(std=math.sqrt(2 / (9 * features))).abs_().clamp_(min=_SMALLEST_GAIN)
    return norm


def convolution_stack(
    channels_in: int,
    channels_out: int,
    depth: int,
    features: int,
    momentum: float,
    *,
    norm_first: bool,
) -> nn.Sequential:
    """`depth` ≥ 2 convolutions with ReLU between, all but the last without bias and with batch norm
    (the first only with `norm_first`, else it has a bias)."""
    layers: list[nn.Module] = []
    for index in range(depth - 1):
        normed = norm_first or index > 0
        before = features if index else channels_in
        layers.append(convolution(before, features, bias=not normed))
        if normed:
            layers.append(batch_norm(features, momentum))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, convolution(features, channels_out, bias=True))


class DnCNN(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H, W): the convolutions' output plus the first input channels.

    Args:
        channels_in, channels_out: C_in, C_out.
        depth: number of convolutions, 2 or more; also how many pixels away an output looks.
        features: channels in between.
        shortcut: how many input channels are added to the output; None: min(C_in, C_out).
        momentum: of the batch norms, as PyTorch counts it.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        depth: int = 6,
        features: int = 64,
        *,
        shortcut: int | None = None,
        momentum: float = 0.001,
    ):
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        most = min(channels_in, channels_out)
        self.shortcut = most if shortcut is None else shortcut
        if not 0 <= self.shortcut <= most:
            raise ValueError(f"shortcut must lie in 0 … {most}, got {shortcut}")
        self.reach = depth
        self.layers = convolution_stack(
            channels_in, channels_out, depth, features, momentum, norm_first=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W).

        Args:
            x: (B, C_in, H, W), floating point; any H and W.
        """
        y = self.layers(x)
        if not self.shortcut:
            return y
        if self.shortcut == y.shape[1]:
            return y + x[:, : self.shortcut]
        head, rest = y.split([self.shortcut, y.shape[1] - self.shortcut], 1)
        return torch.cat([head + x[:, : self.shortcut], rest], 1)
