"""The compiled library through ctypes: tensors in, the same tensors filled.

Tensors are contiguous, of one type (float32 or float64) unless said otherwise, and on the CPU; rows
hold a multiple of `LANES` numbers. Nothing of this is checked here. Calls release the interpreter's
lock, so that several threads can work at once.

R rows (queries), N candidates, K neighbours, F channels. The operator in its "released" recursion.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

LANES = 16  # a row's length is a multiple of it
LARGEST_K = 64
LEVELS = "plain", "avx2", "avx512", "avx512vnni"  # as kernels.c numbers them
_SWITCH = "N3MATCH_NATIVE"
_INTERFACE = 8  # what kernels.c must answer: another number is a library from another version
_NUMBER_TYPES = {torch.float32: "f32", torch.float64: "f64"}
# Of each function: P a pointer, I an integer.
_SIGNATURES = {
    "logits": "PIIIIPPP",
    "masses": "PIIIIIPPPPP",
    "masses_backward": "PPIIIIIPPPP",
    "finish": "PIIIIPPPP",
    "prepare": "PPIIIPPPPPP",
    # Those of windows.py:
    "window_distances": "PPPIIIPP",
    "window_sums": "PPPIIPP",
    "window_products": "PPPIIIPP",
    "window_sums_back": "PPPIIPPI",
    "window_distances_back": "PPIPPIPPPPI",
    "cut_points": "PPIIIIPPP",
    "put_points": "PPIIIIP",
    "cut_planes": "PPIIIP",
}


def _wanted_level() -> int:
    """The highest level that the environment allows, as an index of `LEVELS`; −1: none."""
    wanted = os.environ.get(_SWITCH, "1")
    if wanted == "0":
        return -1
    if wanted == "1":
        return len(LEVELS) - 1
    if wanted not in LEVELS:
        allowed = ", ".join(repr(name) for name in ("0", "1", *LEVELS))
        raise ValueError(f"environment variable {_SWITCH} is {wanted!r}: must be one of {allowed}")
    return LEVELS.index(wanted)


@dataclass(frozen=True)
class _Loaded:
    library: ctypes.CDLL
    level: str


@functools.lru_cache(maxsize=1)
def _loaded() -> _Loaded | None:
    wanted = _wanted_level()
    if wanted < 0:
        return None
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name("_kernels" + suffix)
        try:
            library = ctypes.CDLL(str(path)) if path.is_file() else None
            if library is not None and library.n3match_native_interface() == _INTERFACE:
                _declare_all(library)
                use_level = _declared(library.n3match_native_use_level, "I", ctypes.c_int64)
                return _Loaded(library, LEVELS[use_level(wanted)])
        except (OSError, AttributeError):
            continue  # built for another machine, of another version, or lacking a function
    return None


def _library() -> ctypes.CDLL | None:
    loaded = _loaded()
    return None if loaded is None else loaded.library


@functools.lru_cache(maxsize=1)
def _functions() -> dict[tuple[str, torch.dtype], ctypes._CFuncPtr]:
    return _declare_all(_library())


def _declare_all(library: ctypes.CDLL) -> dict[tuple[str, torch.dtype], ctypes._CFuncPtr]:
    return {
        (name, dtype): _declared(library[f"n3_{name}_{letters}"], signature)
        for name, signature in _SIGNATURES.items()
        for dtype, letters in _NUMBER_TYPES.items()
    }


def _declared(function, signature: str, returns=None):
    function.restype = returns
    function.argtypes = [
        ctypes.c_void_p if letter == "P" else ctypes.c_int64 for letter in signature
    ]
    return function


def available() -> bool:
    """Whether the compiled library is there and wanted."""
    return _library() is not None


def level() -> str | None:
    """Which of `LEVELS` the compiled loops run at: the best one that the processor has and that the
    environment variable N3MATCH_NATIVE allowed at the first use. None without the library.

    Raises:
        ValueError: if the variable's value is none that is known.
    """
    loaded = _loaded()
    return None if loaded is None else loaded.level


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | None) -> None:
    """The function `name` for this number type; an integer may be an address."""
    _functions()[name, dtype](
        *(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments)
    )


def logits(d: Tensor, inverse_t: Tensor, m: Tensor, certain: Tensor) -> None:
    """Distances become what `masses` takes.

    Args:
        d: (R, O) squared distances, O any number up to N; inf where not selectable.
        inverse_t: (R,) 1/t.
        m: (R, K, N), m[:, 0] filled with −d/t relative to the nearest, −inf beyond O.
        certain: (R,) bool, filled: whether the nearest is so far ahead, or alone, that `masses`
            will leave the row to the reference formula.
    """
    r, k, n = m.shape
    call("logits", m.dtype, d, r, d.shape[1], n, k, inverse_t, m, certain)


def masses(
    m: Tensor,
    nearest: Tensor,
    top: Tensor,
    second: Tensor,
    sums: Tensor,
    exact: Tensor,
    *,
    own: int = -1,
    normal: bool = False,
) -> None:
    """The K distributions of each row, up to a factor that `finish` brings in.

    Args:
        m: (R, K, N), m[:, 0] the logits −d/t up to a constant per row, −inf where not selectable;
            filled with masses.
        nearest: (R,) int64, top, second: (R,), sums: (R, K), exact: (R,) bool: filled as in
            `ops.dense.problem.Saved`. Rows flagged `exact` must be worked out by the reference
            formula.
        own: column that row 0 may not select, row r not column own + r; −1: none.
        normal: whether to fill m with the weights themselves (every sum 1).
    """
    r, k, n = m.shape
    call("masses", m.dtype, m, r, n, k, own, normal, nearest, top, second, sums, exact)


def masses_backward(
    m: Tensor,
    u: Tensor,
    skip: Tensor,
    dots: Tensor | None,
    d_log_t: Tensor | None,
    *,
    own: int = -1,
    normal: bool = False,
) -> None:
    """Gradients of the logits, into u[:, -1].

    Args:
        m, own, normal: as in `masses`, logits in m[:, 0]; filled anew.
        u: (R, K, N) gradients of the weights; of the masses unless `normal`, from the scaled
            gradients of `prepare`. Overwritten.
        skip: (R,) bool, rows whose masses and gradients shall be 0.
        dots: from `prepare`; None if `normal`.
        d_log_t: (R,), filled with the gradient of the log temperature; or None.
    """
    r, k, n = m.shape
    shifted = None if d_log_t is None else m.new_empty(n)
    call(
        "masses_backward", m.dtype, m, u, r, n, k, own, normal, skip, dots, shifted, d_log_t
    )


def finish(products: Tensor, top: Tensor, second: Tensor, sums: Tensor, z: Tensor) -> None:
    """Products of masses and values become the weighted means.

    Args:
        products: (R, K, S), S ≥ F. top, second, sums: as `masses` filled them.
        z: (R, K, F), filled; may be `products`.
    """
    call("finish", z.dtype, products, *z.shape, products.shape[-1], top, second, sums, z)


def prepare(
    grad: Tensor,
    z: Tensor,
    top: Tensor,
    second: Tensor,
    sums: Tensor,
    skip: Tensor,
    scaled: Tensor,
    dots: Tensor,
) -> None:
    """The way back through `finish`.

    Args:
        grad, z: (R, K, F) gradients of the means, and the means.
        top, second, sums: as `masses` filled them.
        skip: (R,) bool, rows that contribute nothing.
        scaled: (R, K, F), filled: times valueᵀ they are the gradients of the masses, and massesᵀ
            times them is the gradient of value.
        dots: (R, K): filled, for `masses_backward`.
    """
    call("prepare", z.dtype, grad, z, *z.shape, top, second, sums, skip, scaled, dots)
