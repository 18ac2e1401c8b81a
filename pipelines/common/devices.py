"""Where networks run and in which precision, as the command line says."""

from __future__ import annotations

from typing import TypeVar

import torch

from n3match.arguments import device
from n3match.denoising import Denoiser
from n3match.nn import MatchFilter

Network = TypeVar("Network", MatchFilter, Denoiser)


def checked_device(name: str) -> torch.device:
    """A device that is there.

    Raises:
        ValueError: there is none of that name, or this PyTorch can't use it.
    """
    return device("--device", name)


def placed(network: Network, device: str, half: bool = False) -> Network:
    """The network on a device; where `half`, its matrix products are in half precision.

    That is float16 on a GPU. On a CPU denoisers are in bfloat16, which is faster where the
    processor multiplies it; match filters gain nothing by it and stay in float32.

    Args:
        network: one that nobody else uses: it is changed.

    Raises:
        ValueError: see `checked_device`.
    """
    where = checked_device(device)
    network.to(where)
    on_cpu = where.type == "cpu"
    if half and isinstance(network, Denoiser):
        network.products_in = torch.bfloat16 if on_cpu else torch.float16
    elif half and not on_cpu:
        network.half()
    return network
