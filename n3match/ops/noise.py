"""Gumbel noise that depends on a seed and a number, not on the order in which it is asked for.

Rows are worked through in chunks, and again in the backward pass: a noise that is a function of the
position gives every chunk, backend and pass the same without being kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Constants of SplitMix64 (Steele, Lea & Flood, 2014), as signed integers.
INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND = 0x94D049BB133111EB - (1 << 64)


def draw_seed(generator: torch.Generator | None) -> int | None:
    """A seed from the generator, which moves on; None without one (no noise)."""
    if generator is None:
        return None
    device = generator.device
    return int(torch.randint(1 << 62, (), generator=generator, device=device))


def _mixed(x: Tensor, shift: int) -> Tensor:
    """x ^ (x >> shift) as if x had no sign."""
    return x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))


def gumbel(seed: int, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard Gumbel noise, one for each of the int64 `numbers`."""
    x = (numbers + 1) * INCREMENT + seed
    x = _mixed(_mixed(x, 30) * FIRST, 27) * SECOND
    x = _mixed(x, 31)
    uniform = (((x >> 12) & ((1 << 52) - 1)).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform)).to(dtype)
