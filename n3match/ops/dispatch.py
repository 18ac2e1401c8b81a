"""Which backend serves a call, and why another can't. Imports no Triton itself.

"tiled" serves everything on every machine, "reference" is the formula written down, "triton" has a
list of refusals. Chosen by itself, Triton must also have passed a trial on the device.
"""

from __future__ import annotations

import importlib.util
import logging
import os

import torch
from torch import Tensor

from n3match.arguments import one_of
from n3match.ops.triton import trial

_BACKENDS = ("tiled", "triton", "reference")

LARGEST_K = 64  # masses halve at most from step to step: more would leave float32's range
LARGEST_DENSE_K = 8  # gradients of more steps don't fit in the registers of a program
LARGEST_ROW = 4096  # candidates of a query that fit in the registers of a program
_LEAST_CAPABILITY = (8, 0)  # of NVIDIA devices that Triton supports
_LARGEST_TABLE = 1 << 30  # numbers: an int32 counts twice as many, blocks' ends go beyond theirs

_log = logging.getLogger(__name__)


def backends() -> tuple[str, ...]:
    """Names that `backend=` takes on this machine, the one that every machine has first."""
    return tuple(name for name in _BACKENDS if name != "triton" or not absent())


def choose(backend: str | None, refusal: str, form: str, query: Tensor) -> str:
    """The backend of a call.

    Args:
        backend: forced by name; None: to be chosen.
        refusal: why "triton" can't serve the call, or "".
        form: as the trial knows it.
    """
    if backend is not None:
        one_of("backend", backend, _BACKENDS)
    if backend == "triton" and refusal:
        raise ValueError(f"backend 'triton' can't serve this call: {refusal}")
    if backend is not None:
        return backend
    refusal = refusal or distrust(form, query)
    if not refusal:
        return "triton"
    if not torch.compiler.is_compiling():
        _log.debug("tiled, not triton: %s", refusal)
    return "tiled"


def distrust(form: str, query: Tensor) -> str:
    """Why the kernels aren't chosen by themselves though they could serve; "" if they are."""
    if query.device.type == "cpu":
        return "the interpreter is for tests"
    return trial.failure(form, query.device.type, query.device.index)


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


def _refusal(query: Tensor, k: int, largest_k: int, recursion: str) -> str:
    if absent():
        return absent()
    if _device_refusal(query.device.type, query.device.index):
        return _device_refusal(query.device.type, query.device.index)
    if recursion != "released":
        return f"recursion={recursion!r}, only 'released' is there"
    if k > largest_k:
        return f"k={k} is above {largest_k}"
    return ""


def dense_refusal(
    query: Tensor,
    k: int,
    recursion: str,
    selection: str,
    generator: torch.Generator | None,
) -> str:
    """Why the kernels can't serve a call of `n3_aggregate` without candidates; "" if they can."""
    if selection == "knn" or generator is not None:
        return f"selection={selection!r}{'' if generator is None else ' with noise'} isn't there"
    return _refusal(query, k, LARGEST_DENSE_K, recursion)


def candidates_refusal(query: Tensor, k: int, candidates: Tensor, recursion: str) -> str:
    """Why the kernels can't serve a call of `n3_aggregate` with candidates; "" if they can."""
    refusal = _refusal(query, k, LARGEST_K, recursion)
    if refusal:
        return refusal
    _, m, o = candidates.shape
    if o > LARGEST_ROW:
        return f"candidates has {o} for each query, more than {LARGEST_ROW}"
    if m * o >= _LARGEST_TABLE:
        return "candidates has too many numbers"
    return ""


def window_refusal(
    query: Tensor,
    k: int,
    patch_size: int,
    stride: int,
    window: int,
    recursion: str,
) -> str:
    """Why the kernels can't serve a call of `n3_window_aggregate`; "" if they can."""
    refusal = _refusal(query, k, LARGEST_K, recursion)
    if refusal:
        return refusal
    if patch_size % stride:
        return f"patch_size={patch_size} is no multiple of stride={stride}"
    if window**2 > LARGEST_ROW:
        return f"window={window} has more than {LARGEST_ROW} candidates"
    cells = (query.shape[2] // stride + 2) * (query.shape[3] // stride + 2)
    if cells * (window + patch_size // stride) ** 2 >= _LARGEST_TABLE:
        return "the image is too large"
    return ""
