"""Checks of tensors that belong together; every message names the argument."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from n3match.geometry.checks import check_tensor


def check_together(tensors: Mapping[str, Tensor]) -> None:
    """Require floating-point tensors of one device and one dtype.

    Raises:
        ValueError: devices or dtypes differ. TypeError: not a floating-point tensor.
    """
    first_name, first = None, None
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
        if first is None:
            first_name, first = name, tensor
        if tensor.device != first.device or tensor.dtype != first.dtype:
            raise ValueError(
                f"{name}: found {tensor.dtype} on {tensor.device}, wanted {first.dtype} on "
                f"{first.device} as {first_name}"
            )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Require numbers without NaN and infinity.

    Raises:
        ValueError: naming the argument.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")


def check_device(name: str, tensor: Tensor, module: torch.nn.Module) -> None:
    """Require a tensor where the module's parameters are."""
    device = next(module.parameters()).device
    if tensor.device != device:
        raise ValueError(
            f"{name}: found it on {tensor.device}, but the filter is on {device}: move one of "
            "them with .to(device)"
        )
