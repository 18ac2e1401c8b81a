"""Projection onto essential matrices, and the four poses of one.

... any leading dimensions
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from n3match.geometry.checks import check_tensor


def project_to_essential(E: torch.Tensor) -> torch.Tensor:
    """The nearest direction among essential matrices: singular values become (1, 1, 0) / √2.

    Differentiable: the derivative is written for the projection itself, so it is exact and
    finite where the two large singular values are equal (which true essential matrices have,
    and where the derivative of an SVD is undefined). It is damped where the projection has a
    jump, i.e. where the second and third singular value meet.

    Args:
        E: (..., 3, 3), of any scale.

    Returns:
        (..., 3, 3), Frobenius norm 1, same dtype; zeros for a matrix that is zero or not finite.
    """
    check_tensor("E", E, 3, 3)
    return _ProjectToEssential.apply(E)


def decompose_essential(E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two rotations and the translation direction of essential matrices.

    The four poses with E ~ [t]× R are (R1, t), (R1, −t), (R2, t), (R2, −t); R1 and R2 differ by
    half a turn about t. Hartley & Zisserman, "Multiple View Geometry", result 9.19. Not meant to
    be differentiated.

    Args:
        E: (..., 3, 3), of any scale and sign.

    Returns:
        R1 (..., 3, 3), R2 (..., 3, 3) with determinant +1, and t (..., 3) of length 1; NaN for a
        matrix that is zero or not finite.
    """
    check_tensor("E", E, 3, 3)
    usable = _usable(E)
    U, _, Vh = torch.linalg.svd(torch.where(usable, E.detach(), 0.0).to(torch.float64))
    # Reflections become rotations; E is only defined up to sign, so this changes nothing else.
    U = U * torch.linalg.det(U)[..., None, None]
    Vh = Vh * torch.linalg.det(Vh)[..., None, None]
    quarter_turn = torch.tensor(
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=U.dtype, device=U.device
    )
    undefined = torch.where(usable, 0.0, torch.nan).to(U.dtype)
    R1 = U @ quarter_turn @ Vh + undefined
    R2 = U @ quarter_turn.T @ Vh + undefined
    t = U[..., :, 2] + undefined[..., 0]
    return R1.to(E.dtype), R2.to(E.dtype), t.to(E.dtype)


def _usable(E: torch.Tensor) -> torch.Tensor:
    """(..., 1, 1): neither zero nor with a NaN or infinity."""
    flat = E.detach().flatten(-2)
    return (flat.isfinite().all(-1) & (flat != 0).any(-1))[..., None, None]


class _ProjectToEssential(torch.autograd.Function):
    """P = U diag(1, 1, 0) Vᵀ / √2 is a function of the singular values, f = (1, 1, 0)/√2.

    In the singular bases its derivative is entry-wise: with M = Uᵀ dE V, the symmetric part of M
    is multiplied by (fᵢ − fⱼ)/(sᵢ − sⱼ) and the antisymmetric part by (fᵢ + fⱼ)/(sᵢ + sⱼ)
    (generalised matrix functions; Noferini 2017). The map is its own adjoint.
    """

    @staticmethod
    def forward(ctx, E: torch.Tensor) -> torch.Tensor:
        usable = _usable(E)
        m = torch.where(usable, E.detach(), 0.0).to(torch.float64)
        size = m.abs().amax(dim=(-2, -1), keepdim=True)
        size = torch.where(usable, size, 1.0)
        U, S, Vh = torch.linalg.svd(m / size)
        ctx.save_for_backward(U, S, Vh, size, usable)
        projected = U[..., :, :2] @ Vh[..., :2, :] * 0.5**0.5
        return (projected * usable).to(E.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        U, S, Vh, size, usable = ctx.saved_tensors
        f = torch.tensor([1.0, 1.0, 0.0], dtype=S.dtype, device=S.device) * 0.5**0.5
        difference = S[..., :, None] - S[..., None, :]
        total = S[..., :, None] + S[..., None, :]
        # eps keeps the jump (s₁ = s₂) and matrices of rank one finite.
        eps = 1e-12
        symmetric_factor = (f[:, None] - f[None, :]) * difference / (difference.square() + eps)
        antisymmetric_factor = (f[:, None] + f[None, :]) * total / (total.square() + eps)
        M = U.transpose(-1, -2) @ grad.to(S.dtype) @ Vh.transpose(-1, -2)
        Mt = M.transpose(-1, -2)
        M = 0.5 * (symmetric_factor * (M + Mt) + antisymmetric_factor * (M - Mt))
        result = U @ M @ Vh / size
        return torch.where(usable, result, 0.0).to(grad.dtype)
