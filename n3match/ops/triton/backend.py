"""Whether the Triton kernels can serve a call, and if not, why. Imports no Triton itself."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

LARGEST_K = 64  # masses halve at most from step to step: more would leave float32's range
LARGEST_WINDOW = 4096  # candidates that fit in the registers of a program
_LEAST_CAPABILITY = (8, 0)  # of NVIDIA devices that Triton supports
_LARGEST_TABLE = 1 << 31  # numbers that an int32 can count


def interpreted() -> bool:
    """Whether Triton would run kernels on the CPU, as it does for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@torch.compiler.assume_constant_result
def absent() -> str:
    """Why no call at all can be served on this machine; "" if some can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'n3match[triton]')"
    if not torch.cuda.is_available() and not interpreted():
        return "there is no CUDA device"
    return ""


@torch.compiler.assume_constant_result
def _device_refusal(kind: str, index: int | None) -> str:
    if kind == "cpu" and interpreted():
        return ""
    if kind != "cuda":
        return f"tensors are on {kind}, CUDA tensors wanted"
    if torch.version.hip is None and torch.cuda.get_device_capability(index) < _LEAST_CAPABILITY:
        return "the device is older than compute capability 8.0"
    return ""


def _refusal(query: Tensor, k: int, recursion: str) -> str:
    if absent():
        return absent()
    if not isinstance(query, Tensor):
        return ""  # what is wrong with the arguments themselves is said elsewhere
    if _device_refusal(query.device.type, query.device.index):
        return _device_refusal(query.device.type, query.device.index)
    if recursion != "released":
        return f"recursion={recursion!r}, only 'released' is there"
    if k > LARGEST_K:
        return f"k={k} is above {LARGEST_K}"
    return ""


def dense_refusal(
    query: Tensor,
    k: int,
    candidates: Tensor | None,
    recursion: str,
    selection: str,
    generator: torch.Generator | None,
) -> str:
    """Why `triton_dense` can't serve a call of `n3_aggregate`; "" if it can."""
    if candidates is not None:
        return "explicit candidates aren't there"
    if selection == "knn" or generator is not None:
        return f"selection={selection!r}{'' if generator is None else ' with noise'} isn't there"
    return _refusal(query, k, recursion)


def window_refusal(
    query: Tensor,
    k: int,
    patch_size: int,
    stride: int,
    window: int,
    recursion: str,
) -> str:
    """Why `triton_window` can't serve a call of `n3_window_aggregate`; "" if it can."""
    refusal = _refusal(query, k, recursion)
    if refusal:
        return refusal
    if patch_size % stride:
        return f"patch_size={patch_size} is no multiple of stride={stride}"
    if window**2 > LARGEST_WINDOW:
        return f"window={window} has more than {LARGEST_WINDOW} candidates"
    if isinstance(query, Tensor) and query.ndim == 4:
        cells = (query.shape[2] // stride + 2) * (query.shape[3] // stride + 2)
        if cells * (window + patch_size // stride) ** 2 >= _LARGEST_TABLE:
            return "the image is too large"
    return ""
