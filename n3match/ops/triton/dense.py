"""The dense form by Triton kernels, as a custom operator: linear memory, own backward pass.

For CUDA tensors, or CPU tensors where TRITON_INTERPRET=1 was set before Triton was imported.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from n3match.ops.custom_op import differentiable
from n3match.ops.triton import dense_backward as backward_kernels
from n3match.ops.triton import dense_forward as forward_kernels
from n3match.ops.triton.launch import (
    accumulator,
    block,
    number_types,
    on_device_of,
    program_block,
    steps,
    warps,
)


def _shared(query: Tensor, exclude_self: bool) -> dict:
    """What every kernel is compiled for."""
    return {
        "EXCLUDE": exclude_self,
        "BLOCK_E": block(query, query.shape[2], 32),
        "num_stages": 2,
        **{name: number_types(query)[name] for name in ("ACC", "DOT", "PRECISION")},
    }


def _forward(
    query: Tensor, key: Tensor, value: Tensor, norm: Tensor, log_t: Tensor, k: int,
    exclude_self: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator on prepared input.

    Args:
        query, key, value: (B, M, E), (B, N, E), (B, N, F).
        norm: (B, N) |key|², +inf where an item may not be selected. No gradient flows into it:
            that of `key` is complete.
        log_t: (B, M, 1), as norm in the accumulators' type.

    Returns:
        out (B, M, K, F), and what the backward pass needs: rows, start, scales, picks.
    """
    query, key, value, norm, log_t = (t.contiguous() for t in (query, key, value, norm, log_t))
    out, rows, start, scales, picks = _blank(query, key, value, norm, log_t, k, exclude_self)
    b, m, e = query.shape
    n, f = value.shape[1:]
    shared = _shared(query, exclude_self)
    block_n = block(query, n, 64)
    with on_device_of(query):
        block_m = program_block(query, b, m, 64)
        forward_kernels.sums_kernel[(b * triton.cdiv(m, block_m),)](
            query, key, norm, log_t, rows, start, scales, picks, m, n, e, k,
            KP=steps(k), BLOCK_M=block_m, BLOCK_N=block_n, num_warps=4, **shared,
        )
        block_m, block_f = program_block(query, b * k, m, 64), block(query, f, 128)
        forward_kernels.values_kernel[(b * triton.cdiv(m, block_m), k, triton.cdiv(f, block_f))](
            query, key, value, norm, log_t, rows, start, scales, picks, out, m, n, e, f, k,
            BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_F=block_f, num_warps=warps(block_m, block_n),
            **shared,
        )
    return out, rows, start, scales, picks


def _blank(query, key, value, norm, log_t, k, exclude_self) -> tuple[Tensor, ...]:
    b, m, _ = query.shape
    numbers = {"dtype": accumulator(query.dtype)}
    integers = {"dtype": torch.int32}
    return (
        value.new_empty(b, m, k, value.shape[2], **numbers),
        query.new_empty(b, m, 4, **numbers),
        query.new_empty(b, m, **integers),
        query.new_empty(b, m, k, **numbers),
        query.new_empty(b, m, k, **integers),
    )


def _backward(grad, tensors, outputs, options, wanted) -> tuple[Tensor | None, ...]:
    k, exclude_self = options
    out, rows, start, scales, picks = outputs
    grad, query, key, value, norm, log_t = (t.contiguous() for t in (grad, *tensors))
    b, m, e = query.shape
    n, f = value.shape[1:]
    dots = (grad * out).sum(-1)
    shifts, terms = torch.empty_like(dots), dots.new_empty(b, m, 2)
    d_query, d_key, d_value, d_log_t = (torch.empty_like(t) for t in (query, key, value, log_t))
    shared = _shared(query, exclude_self)
    given = (query, key, value, norm, log_t, rows, start, scales, picks)
    sizes = (m, n, e, f, k)
    wide = {"WIDE": number_types(query)["WIDE"], "BLOCK_OUT": block(query, e, 128)}
    outs = triton.cdiv(e, wide["BLOCK_OUT"])
    with on_device_of(query):
        block_m, block_n = program_block(query, b, m, 64), block(query, n, 32)
        tiles = {
            "BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_F": block(query, f, 32),
            "num_warps": warps(block_m, block_n),
        }
        programs = b * triton.cdiv(m, block_m)
        backward_kernels.terms_kernel[(programs,)](
            *given, dots, grad, shifts, terms, *sizes, KP=steps(k), **tiles, **shared
        )
        backward_kernels.query_kernel[(programs, outs)](
            *given, shifts, terms, grad, d_query, d_log_t, *sizes, **tiles, **wide, **shared
        )
        block_m, block_n = block(query, m, 64), program_block(query, b, n, 32)
        tiles |= {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": warps(block_m, block_n)}
        programs = b * triton.cdiv(n, block_n)
        backward_kernels.key_kernel[(programs, outs)](
            *given, shifts, terms, grad, d_key, *sizes, **tiles, **wide, **shared
        )
        block_m, block_n = block(query, m, 32), program_block(query, b, n, 64)
        tiles = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_F": block(query, f, 128)}
        backward_kernels.value_kernel[
            (b * triton.cdiv(n, block_n), triton.cdiv(f, tiles["BLOCK_F"]))
        ](
            query, key, norm, log_t, rows, start, scales, picks, grad, d_value, *sizes,
            num_warps=warps(block_m, block_n), **tiles, **shared,
        )
    return d_query, d_key, d_value, None, d_log_t


_dense = differentiable(
    "triton_dense",
    "query key value norm log_t",
    "int k, bool exclude_self",
    forward=_forward,
    backward=_backward,
    blank=_blank,
    kept=4,
)


def aggregate(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, mask: Tensor | None, k: int,
    exclude_self: bool,
) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1), (B, N) or None -> (B, M, K, F), checked before, 0
    where masked; "released" recursion. Memory linear in M and N. float16 and bfloat16 are
    multiplied as such and summed in float32."""
    numbers = accumulator(value.dtype)
    if value.dtype == numbers:
        # A shift changes no distance, but keeps the products small. Half precision would lose
        # digits by it, and needs none: its products are exact in float32.
        count = key.shape[1] if mask is None else mask.sum(1).clamp(min=1)[:, None, None]
        centre = key.detach().sum(1, keepdim=True) / count
        query, key = query - centre, key - centre
        if mask is not None:
            key = key.masked_fill(~mask[..., None], 0.0)
    norm = key.detach().to(numbers).square().sum(-1)
    if mask is not None:
        norm = norm.masked_fill(~mask, float("inf"))
    return _dense(query, key, value, norm, log_t.to(numbers), k, exclude_self)[0].to(value.dtype)
