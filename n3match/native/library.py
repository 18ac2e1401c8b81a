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
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

LANES = 16  # a row's length is a multiple of it
LARGEST_K = 64
LEVELS = "plain", "avx2", "avx512", "avx512vnni"  # as kernels.c numbers them
_SWITCH = "N3MATCH_NATIVE"
_INTERFACE = 9  # what kernels.c must answer: another number is a library from another version
_NUMBER_TYPES = {torch.float32: "f32", torch.float64: "f64"}
# Of each function: P a pointer, I an integer.
_SIGNATURES = {
    "logits": "PIIIIPPP",
    "masses": "PIIIIIPPPPP",
    "masses_backward": "PPIIIIIPPPP",
    "finish": "PIIIIPPPP",
    "prepare": "PPIIIPPPPPP",
    # Those of the window form:
    "window_distances": "PPPIIIPP",
    "window_sums": "PPPIIPP",
    "window_products": "PPPIIIPP",
    "window_sums_back": "PPPIIPPI",
    "window_distances_back": "PPIPPIPPPPI",
    "cut_points": "PPIIIIPPP",
    "put_points": "PPIIIIP",
    "put_differences": "PPIPIIIIP",
    "cut_planes": "PPIIIP",
}
# Of those that take one type alone; "I=": they return an integer.
_PLAIN_SIGNATURES = {
    "native_use_level": "I=I",
    "panel": "I=I",
    "takes_bytes": "I=",
    "survey": "PIIPPP",
    "integers": "PIIPPIIPPPPP",
    "nearest": "PPPIPPIIIIIPPPIP",
    "squared_distances": "PPIPPIP",
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


class _Loaded(NamedTuple):
    functions: dict[tuple[str, torch.dtype | None], Callable]
    level: str


@functools.lru_cache(maxsize=1)
def _loaded() -> _Loaded | None:
    wanted = _wanted_level()
    if wanted < 0:
        return None
    # Built for every Python; a file for one alone is of an earlier version.
    for suffix in sorted(importlib.machinery.EXTENSION_SUFFIXES, key=lambda s: "abi3" not in s):
        path = Path(__file__).with_name("_kernels" + suffix)
        try:
            library = ctypes.CDLL(str(path)) if path.is_file() else None
            if library is not None and library.n3match_native_interface() == _INTERFACE:
                functions = _declare_all(library)
                return _Loaded(functions, LEVELS[functions["native_use_level", None](wanted)])
        except (OSError, AttributeError):
            continue  # built for another machine, of another version, or lacking a function
    return None


def _declare_all(library: ctypes.CDLL) -> dict[tuple[str, torch.dtype | None], Callable]:
    found = {(name, None): library[f"n3match_{name}"] for name in _PLAIN_SIGNATURES}
    for name, (dtype, letters) in itertools.product(_SIGNATURES, _NUMBER_TYPES.items()):
        found[name, dtype] = library[f"n3_{name}_{letters}"]
    for (name, _), function in found.items():
        returns, _, given = (_SIGNATURES | _PLAIN_SIGNATURES)[name].rpartition("=")
        function.restype = ctypes.c_int64 if returns else None
        function.argtypes = [ctypes.c_void_p if x == "P" else ctypes.c_int64 for x in given]
    return found


def available() -> bool:
    """Whether the compiled library is there and wanted."""
    return _loaded() is not None


def serves(like: Tensor, k: int = 1, recursion: str = "released") -> bool:
    """Whether the compiled loops can do what is asked of such tensors."""
    return (
        like.device.type == "cpu"
        and like.dtype in _NUMBER_TYPES
        and recursion == "released"
        and k <= LARGEST_K
        and available()
    )


def level() -> str | None:
    """Which of `LEVELS` the compiled loops run at: the best one that the processor has and that the
    environment variable N3MATCH_NATIVE allowed at the first use. None without the library.

    Raises:
        ValueError: if the variable's value is none that is known.
    """
    loaded = _loaded()
    return None if loaded is None else loaded.level


def call(name: str, dtype: torch.dtype | None, *arguments: Tensor | int | None) -> int | None:
    """The function `name` for this number type, None for those of one type alone; an integer may be
    an address."""
    return _loaded().functions[name, dtype](
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
