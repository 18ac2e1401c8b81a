"""The compiled library through ctypes: tensors in, the same tensors filled.

Rows are contiguous and hold a multiple of `LANES` numbers, float32 or float64, on the CPU. Calls
release the interpreter's lock, so that several threads can work at once.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from pathlib import Path

import torch
from torch import Tensor

LANES = 16  # a row's length is a multiple of it
LARGEST_K = 64
_INTERFACE = 1  # what kernels.c must answer: another number is a library from another version
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


@functools.lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    if os.environ.get("N3MATCH_NATIVE", "1") == "0":
        return None
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_kernels" + suffix)
        if not path.is_file():
            continue
        try:
            library = ctypes.CDLL(str(path))
            if library.n3match_native_interface() == _INTERFACE:
                return library
        except (OSError, AttributeError):
            continue  # built for another machine, or of another version
    return None


def available() -> bool:
    """Whether the compiled library is there and wanted."""
    return _library() is not None


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _function(name: str, like: Tensor):
    return getattr(_library(), f"{name}_{_SUFFIX[like.dtype]}")


def weights(
    logits: Tensor,
    k: int,
    w: Tensor,
    nearest: Tensor,
    top: Tensor,
    second: Tensor,
    sums: Tensor,
    exact: Tensor,
    own: int = -1,
) -> None:
    """The K weight distributions of R rows of N logits ("released" reading).

    Args:
        logits: (R, N) −d/t up to a constant per row, −inf where not selectable; overwritten.
        k: 1 … `LARGEST_K`.
        w: (R, K, N), filled with the weights.
        nearest: (R,) int64, top, second: (R,), sums: (R, K), exact: (R,) bool; filled as in
            `ops.tiled._Saved`: rows flagged `exact` must be worked out by the reference formula.
        own: column that row 0 may not select, row r not column own + r; −1: none.
    """
    rows, n = logits.shape
    _function("n3_weights", logits)(
        _pointer(logits), ctypes.c_long(rows), ctypes.c_long(n), ctypes.c_int(k),
        ctypes.c_long(own), *(_pointer(t) for t in (w, nearest, top, second, sums, exact)),
    )


def weights_backward(
    logits: Tensor,
    k: int,
    dots: Tensor,
    skip: Tensor,
    u: Tensor,
    w: Tensor,
    d_log_t: Tensor,
    own: int = -1,
) -> None:
    """Gradients of `weights` with respect to the logits, which they replace.

    Args:
        logits, k, own: as there; logits receive ∂L/∂a.
        dots: (R, K) Σ_i w u of each step.
        skip: (R,) bool, rows that get zero gradients (and weights).
        u: (R, K, N) gradients of the weights; overwritten.
        w: (R, K, N), filled with the weights.
        d_log_t: (R,), filled with the gradient of the log temperature.
    """
    rows, n = logits.shape
    scratch = logits.new_empty(2 * n)
    _function("n3_weights_backward", logits)(
        _pointer(logits), ctypes.c_long(rows), ctypes.c_long(n), ctypes.c_int(k),
        ctypes.c_long(own), *(_pointer(t) for t in (dots, skip, u, w, scratch, d_log_t)),
    )
