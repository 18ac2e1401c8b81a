"""How the Triton kernels are launched: sizes of blocks, types and precision of products."""

from __future__ import annotations

import contextlib
import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST_BLOCK = 16  # that tensor cores multiply
_PROGRAMS_PER_PROCESSOR = 2


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums, masses and all that is kept for the backward pass are held in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_TYPES = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32, torch.float64: tl.float64,
}


def number_types(like: Tensor) -> dict:
    """ACC: of sums; DOT: of the operands of products; PRECISION: of float32 products, and WIDE: of
    those of half precision's products that are float32 all the same.

    float32 is multiplied as three products of tf32, which keep 22 of the 24 bits, where tensor
    cores have them.
    """
    dot = like.dtype
    tensor_cores = like.device.type == "cuda" and torch.version.hip is None
    if dot == torch.bfloat16 and like.device.type != "cuda":
        dot = torch.float32  # the interpreter would multiply the bits
    exact = "tf32x3" if tensor_cores else "ieee"
    return {
        "ACC": _TYPES[accumulator(like.dtype)],
        "DOT": _TYPES[dot],
        "PRECISION": exact,
        "WIDE": "tf32" if tensor_cores and like.dtype.itemsize < 4 else exact,
    }


@functools.cache
def _processors(index: int | None) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def block(like: Tensor, count: int, most: int) -> int:
    """The block that holds `count`, within what blocks may be: `most`, half of it in float64."""
    if like.dtype == torch.float64:
        most //= 2
    return max(LEAST_BLOCK, min(most, triton.next_power_of_2(max(1, count))))


def program_block(like: Tensor, batch: int, count: int, most: int) -> int:
    """Rows (or items) of one program: as many as leave a program for every processor of the device,
    twice."""
    size = block(like, count, most)
    if like.device.type == "cuda":
        wanted = _PROGRAMS_PER_PROCESSOR * _processors(like.device.index)
        while size > LEAST_BLOCK and batch * triton.cdiv(count, size) < wanted:
            size //= 2
    return size


def steps(k: int) -> int:
    """Columns in registers for K steps."""
    return triton.next_power_of_2(max(2, k))


def warps(*tile: int) -> int:
    """For a tile of so many numbers: 8 registers for it in each thread, or fewer."""
    return 8 if math.prod(tile) >= 2048 else 4


def on_device_of(like: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, wherever the tensors are."""
    if like.device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.device(like.device)
