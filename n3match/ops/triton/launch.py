"""How the Triton kernels are launched: sizes of blocks, parts of a sweep, types of products."""

from __future__ import annotations

import contextlib
import functools

import torch
import triton.language as tl
from torch import Tensor

LEAST_BLOCK = 16  # that tensor cores multiply
_WIDEST = 128  # columns of one block; wider matrices go in blocks of half of it
_LARGE = 200 << 10  # shared memory of a program, from Hopper's 227 KiB on
_CHUNK_OVERHEAD = 3  # tiles that a program costs besides its own


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums, masses and all that is kept for the backward pass are held in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


TYPES = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32, torch.float64: tl.float64,
}


def product_type(like: Tensor) -> torch.dtype:
    """Of the operands of products."""
    if like.dtype == torch.bfloat16 and like.device.type != "cuda":
        return torch.float32  # the interpreter would multiply the bits
    return like.dtype


def plane_type(like: Tensor) -> torch.dtype:
    """Of the operands of the dense form's products; float32 is two of float16."""
    return torch.float16 if like.dtype == torch.float32 else product_type(like)


@functools.cache
def _device(index: int | None) -> tuple[int, int]:
    """Multiprocessors, and bytes of shared memory that a program may have."""
    properties = torch.cuda.get_device_properties(index)
    return properties.multi_processor_count, properties.shared_memory_per_block_optin


def processors(like: Tensor) -> int:
    return _device(like.device.index)[0] if like.device.type == "cuda" else 1


def has_large_memory(like: Tensor) -> bool:
    """Whether programs may have the shared memory of data centres' devices since Hopper."""
    return like.device.type != "cuda" or _device(like.device.index)[1] >= _LARGE


def cdiv(count: int, size: int) -> int:
    """How many of a size hold `count`. Triton's own, which kernels may call too, takes twenty times
    as long, and these functions as long as a launch."""
    return -(-count // size)


def next_power(count: int) -> int:
    """Of two, at least `count` ≥ 1."""
    return 1 << (count - 1).bit_length()


@functools.cache
def padded(width: int) -> int:
    """Columns of a plane."""
    if width <= _WIDEST:
        return max(LEAST_BLOCK, next_power(width))
    return cdiv(width, _WIDEST // 2) * (_WIDEST // 2)


def column_block(width: int) -> int:
    """Columns that are multiplied at a time."""
    return padded(width) if width <= _WIDEST else _WIDEST // 2


def chunks(like: Tensor, programs: int, tiles: int, resident: int) -> int:
    """How many programs share a sweep over `tiles` tiles.

    Args:
        programs: that there are anyway.
        resident: programs that a multiprocessor holds at a time.
    """
    return _chunks(processors(like) * resident, programs, tiles)


@functools.lru_cache(maxsize=1024)
def _chunks(slots: int, programs: int, tiles: int) -> int:
    def cost(parts: int) -> int:
        return cdiv(programs * parts, slots) * (cdiv(tiles, parts) + _CHUNK_OVERHEAD)

    return min(range(1, min(tiles, 16) + 1), key=cost)


def block(like: Tensor, count: int, most: int) -> int:
    """The block that holds `count`, within what blocks may be: `most`, half of it in float64."""
    if like.dtype == torch.float64:
        most //= 2
    return max(LEAST_BLOCK, min(most, next_power(max(1, count))))


def steps(k: int) -> int:
    """Columns in registers for K steps."""
    return next_power(max(2, k))


def compiled_with(warps: int, stages: int = 2) -> dict:
    """What a kernel is compiled with. Additions and multiplications become one instruction, said
    here because the default of Triton changes."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def on_device_of(like: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, wherever the tensors are."""
    if like.device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.device(like.device)


def number_types(like: Tensor) -> dict:
    """ACC: of sums; DOT: of the operands of products; PRECISION: of float32 products, and WIDE: of
    those of half precision's products that are float32 all the same.

    float32 is multiplied as three products of tf32, which keep 22 of the 24 bits, where tensor
    cores have them.
    """
    tensor_cores = like.device.type == "cuda" and torch.version.hip is None
    exact = "tf32x3" if tensor_cores else "ieee"
    return {
        "ACC": TYPES[accumulator(like.dtype)],
        "DOT": TYPES[product_type(like)],
        "PRECISION": exact,
        "WIDE": "tf32" if tensor_cores and like.dtype.itemsize < 4 else exact,
    }
