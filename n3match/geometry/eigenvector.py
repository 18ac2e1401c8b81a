"""The eigenvector of the smallest eigenvalue, with a backward pass that stays finite.

B batch · D size of the matrix
"""

from __future__ import annotations

import math

import torch
from torch.autograd.function import once_differentiable

from n3match.arguments import real, strided_tensor


def smallest_eigenvector(matrix: torch.Tensor, damping: float = 1e-6) -> torch.Tensor:
    """Unit eigenvector of the smallest eigenvalue of symmetric positive semi-definite matrices.

    With eigenpairs (λᵢ, vᵢ) and λ₀ the smallest, the exact derivative is
    dv₀ = Σᵢ vᵢ (vᵢᵀ dM v₀) / (λ₀ − λᵢ): it has a pole where the two smallest eigenvalues meet.
    Here 1 / g with the gap g = λᵢ − λ₀ is replaced by g / (g² + damping²), gaps measured in
    units of the trace. For gaps well above `damping` that is the exact derivative; at a tie it
    is zero.

    Args:
        matrix: (B, D, D), symmetric. An element that is zero, not finite, or far from positive
            semi-definite (an entry beyond twice the trace: none has one beyond the trace) gives a
            zero vector and a zero gradient, and doesn't disturb the rest of the batch.
        damping: gap, relative to the trace, below which the derivative is damped. The gap of
            the eight-point problem of real photographs is 6e-6 in the median and 1e-7 at the
            fifth percentile (calibrated coordinates, true matches only): the default bounds the
            gradient of the hardest pairs to a few times that of an ordinary one.

    Returns:
        (B, D) in float64, unit norm, of arbitrary sign. It can be differentiated once.

    Raises:
        ValueError: another shape, a damping below 0. TypeError: not floating-point numbers.
    """
    # On any device, "meta" among them: nothing here asks for values.
    if not strided_tensor("matrix", matrix).is_floating_point():
        raise TypeError(f"matrix must have a floating-point dtype, got {matrix.dtype}")
    if matrix.ndim != 3 or matrix.shape[1] != matrix.shape[2] or not matrix.shape[2]:
        raise ValueError(f"matrix must have shape (B, D, D), got {tuple(matrix.shape)}")
    return _SmallestEigenvector.apply(matrix, checked_damping(damping))


def checked_damping(damping: float) -> float:
    """A gap that a gradient can be damped below.

    Raises:
        TypeError, ValueError: another value.
    """
    damping = real("damping", damping)
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping must be a number, 0 or more, got {damping:g}")
    return damping


# Of the trace: more than rounding leaves to an entry of a positive semi-definite matrix.
_LARGEST = 2.0


class _SmallestEigenvector(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: torch.Tensor, damping: float) -> torch.Tensor:
        m = matrix.detach().to(torch.float64)
        trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
        # eigh raises for the whole batch when one element holds a NaN, or numbers so far apart that
        # it doesn't converge: those become identities. (NaN is no number within the bounds.)
        within = m.abs().flatten(1).amax(1) <= _LARGEST * trace
        usable = within & (trace > torch.finfo(torch.float64).tiny) & trace.isfinite()
        identity = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
        scale = torch.where(usable, trace, 1.0)
        m = torch.where(usable[:, None, None], m / scale[:, None, None], identity)
        # On a GPU eigh waits for the device. It is needed there where a gradient is, which wants
        # every eigenvector.
        plain = m.device.type != "cpu" and not ctx.needs_input_grad[0]
        values, vectors = (eigh_of_tensors if plain else torch.linalg.eigh)(m)
        ctx.save_for_backward(values, vectors, scale, usable)
        ctx.damping = damping
        ctx.input_dtype = matrix.dtype
        return vectors[..., 0] * usable[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        values, vectors, scale, usable = ctx.saved_tensors
        first, others = vectors[..., 0], vectors[..., 1:]
        gap = values[:, 1:] - values[:, :1]
        inverse_gap = gap / (gap.square() + ctx.damping**2)
        along = (grad.to(values.dtype)[:, None, :] @ others)[:, 0] * inverse_gap
        direction = -(others @ along[..., None])[..., 0] * (usable / scale)[:, None]
        outer = direction[:, :, None] * first[:, None, :]
        # The symmetric half, so that the entries (i, j) and (j, i) share the gradient.
        return (0.5 * (outer + outer.transpose(1, 2))).to(ctx.input_dtype), None


# Rounds of squaring: eigenvalues 4 % apart are told apart to the last digit.
_SQUARINGS = 10
# Of the trace, added to every eigenvalue: far below the gaps, and keeps pivots from being zero.
_RIDGE = 1e-15


def eigh_of_tensors(
    matrix: torch.Tensor, uplo: str = "L", compute_vectors: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of `torch.linalg.eigh` where there are to be plain tensor operations alone: in a
    graph, and on a device that nothing is to wait for.

    Only the eigenvector of the smallest eigenvalue is worked out, all that
    `smallest_eigenvector` asks for: the dominant one of the inverse, found by squaring that
    (power iteration). The rest of the answer is NaN.

    Args:
        matrix: (B, D, D) in float64, symmetric positive semi-definite, trace about 1 or more.

    Returns:
        (B, D) eigenvalues, NaN, and (B, D, D) eigenvectors: the first column, then NaN.
    """
    power = _inverse(matrix)
    for _ in range(_SQUARINGS):
        power = power @ power
        power = power / power.abs().amax((-2, -1), keepdim=True)
    # Of rank one by now: every column is the eigenvector, the one with most on it the best.
    best = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[:, None, None]
    vector = power.gather(-1, best.expand(-1, power.shape[-1], 1))
    vector = vector / vector.square().sum(-2, keepdim=True).sqrt()
    unknown = torch.full_like(matrix, float("nan"))
    return unknown[..., 0], torch.cat([vector, unknown[..., 1:]], -1)


def _inverse(matrix: torch.Tensor) -> torch.Tensor:
    """Gauss and Jordan's; positive definite matrices need no pivoting."""
    size = matrix.shape[-1]
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    rows = torch.cat([matrix + _RIDGE * identity, identity.expand_as(matrix)], -1)
    for i in range(size):
        pivot = rows[:, i : i + 1] / rows[:, i : i + 1, i : i + 1]
        others = rows - rows[:, :, i : i + 1] * pivot
        rows = torch.where(identity[:, i : i + 1] > 0, pivot, others)
    return rows[..., size:]
