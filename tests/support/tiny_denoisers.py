"""Weights of tiny denoising networks, made by hand or at random."""

from dataclasses import replace
from pathlib import Path

import torch

from n3match.nn import PRESETS, N3Net
from n3match.weights import save_weights


def random_weights(path: Path, network: str = "dncnn-17", **fields) -> Path:
    """Three convolutions of four features, as initialised."""
    torch.manual_seed(0)
    small = {"features": 4, "depth": 3, "embedding_features": 4, "window": 4}
    save_weights(path, N3Net(replace(PRESETS[network], **small | fields)).eval())
    return path


def blurring_weights(path: Path, **fields) -> Path:
    """A network that blurs a little, in place of a trained one."""
    net = N3Net(replace(PRESETS["dncnn-17"], features=2, depth=2, **fields))
    first, last = (net.local_networks[0].layers[i] for i in (0, -1))
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = kernel[:, None] * kernel / 16
    kernel[1, 1] -= 1  # the short cut adds the image itself
    for conv in (first, last):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    # relu(x) − relu(−x) is x.
    first.weight.data[0, 0], first.weight.data[1, 0] = kernel, -kernel
    last.weight.data[0, 0, 1, 1], last.weight.data[0, 1, 1, 1] = 1, -1
    save_weights(path, net)
    return path
