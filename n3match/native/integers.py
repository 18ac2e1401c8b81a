"""Exact squared distances of integer vectors, where the processor has the instruction for it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from n3match.native.library import _declared, _library

PANEL = 64  # columns that are laid out, and worked through, together


@functools.lru_cache(maxsize=1)
def _function():
    library = _library()
    if library is None or not library.n3match_has_integer_products():
        return None
    return _declared(library.n3match_integer_distances, "PIIPIPPP")


def has_integer_products() -> bool:
    """Whether `integer_distances` can be called here."""
    return _function() is not None


def in_panels(b: Tensor) -> Tensor:
    """(M, D) int16, M a multiple of `PANEL` and D even, as `integer_distances` wants it."""
    pairs = b.contiguous().view(torch.int32)
    return pairs.view(-1, PANEL, pairs.shape[1]).transpose(1, 2).contiguous()


def integer_distances(
    a: Tensor, panels: Tensor, norm_a: Tensor, norm_b: Tensor, out: Tensor
) -> None:
    """Squared distances, exact below 2³² and then rounded to float32.

    Args:
        a: (N, D) int16, contiguous, D even. panels: from `in_panels` of M vectors.
        norm_a, norm_b: (N,) and (M,) int32, their squared norms, below 2³⁰.
        out: (N, M) float32, contiguous, filled.
    """
    n, pairs = len(a), a.shape[1] // 2
    tensors = (a, n, pairs, panels, len(panels), norm_a, norm_b, out)
    _function()(*(x.data_ptr() if isinstance(x, Tensor) else x for x in tensors))
