"""Essential matrices: that of a pose, the nearest to a matrix, and the pose of one.

Convention: a point with coordinates X in camera 0 has R X + t in camera 1, E = [t]× R, and
x1ᵀ E x0 = 0 for calibrated homogeneous points x0, x1 of one 3-D point. E alone tells neither the
length of t nor which of four poses it is; the points before the cameras do.

... any leading dimensions that broadcast · N matches
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from n3match.arguments import dense_tensor
from n3match.geometry.checks import arrays_too, check_leading, check_same_length, check_tensor

# Parallax angle (radians) at which a match has half a vote on the sign of t: about one pixel at
# a focal length of 1000 pixels. Far below it the sign of a depth is noise.
_HALF_VOTE_PARALLAX = 1e-3
# A match on the wrong side counts as behind only with more than half a vote.
_TOO_FAR_TO_TELL = -0.5


def skew_symmetric(t: torch.Tensor) -> torch.Tensor:
    """(..., 3) -> (..., 3, 3): the matrix [t]× with [t]× v = t × v.

    Args:
        t: (..., 3).

    Raises:
        ValueError: a wrong shape. TypeError: not a tensor of floating-point numbers.
    """
    check_tensor("t", t, 3)
    x, y, z = t.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


@arrays_too
def essential_from_pose(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E = [t]× R of poses x1 ~ R x0 + t; tensors, or arrays.

    Args:
        R: (..., 3, 3) rotations.
        t: (..., 3) translations, used as they are: a unit t gives ‖E‖ = √2 (Frobenius) and the
            singular values (1, 1, 0).

    Returns:
        (..., 3, 3).

    Raises:
        ValueError: a wrong shape. TypeError: not of floating-point numbers.
    """
    check_tensor("R", R, 3, 3)
    check_tensor("t", t, 3)
    check_leading({"R": 2, "t": 1}, R=R, t=t)
    dtype = torch.promote_types(R.dtype, t.dtype)
    R, t = R.to(dtype), t.to(dtype)
    # Column by column t × R: unlike a matrix product exact under autocast too.
    t, R = torch.broadcast_tensors(t[..., None].expand(*t.shape, 3), R)
    return torch.linalg.cross(t, R, dim=-2)


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


@arrays_too
def recover_pose(
    E: torch.Tensor,
    x0: torch.Tensor,
    x1: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R and t of essential matrices, by the votes of matches for depths that are positive.

    Tensors, or arrays: then all of them are, and the results too.

    There is no limit on depth, and points at infinity do no harm. The vote has two steps:

    1. R: of the two rotations (half a turn about t apart) the one for which more matches have
       depths of the *same* sign in both cameras. A far point has that for the right rotation
       whichever side of infinity its noise puts it, so far points vote here with full weight.
    2. The sign of t: matches vote by the sign of their depths, with a weight that goes to zero
       with their parallax, so points too far away to tell don't drown the near ones.

    Args:
        E: (..., 3, 3) with x1ᵀ E x0 = 0, of any scale and sign.
        x0, x1: (..., N, 2) calibrated coordinates in camera 0 and camera 1.
        weights: (..., N) non-negative or boolean votes of the matches; None: all the same.

    Returns:
        R (..., 3, 3) and unit t (..., 3) with x1 ~ R x0 + t, and in_front (..., N) bool: matches
        before both cameras, including those too far away to tell. R and t are NaN for an E that
        is zero or not finite. With no weight at all the choice among the four is arbitrary.

    Raises:
        ValueError: shapes don't fit together. TypeError: not of floating-point numbers.
    """
    check_tensor("E", E, 3, 3)
    check_tensor("x0", x0, None, 2)
    check_tensor("x1", x1, None, 2)
    check_same_length("x0", x0, "x1", x1)
    check_leading({"E": 2, "x0": 2, "x1": 2}, E=E, x0=x0, x1=x1)
    dtype = torch.promote_types(torch.promote_types(E.dtype, x0.dtype), x1.dtype)
    leading = torch.broadcast_shapes(*(a.shape[:-2] for a in (E, x0, x1)))
    E, x0, x1 = (a.to(torch.float64).expand(*leading, *a.shape[-2:]) for a in (E, x0, x1))
    if weights is None:
        votes = torch.ones_like(x0[..., 0])
    else:
        dense_tensor("weights", weights)
        if weights.is_complex():
            raise TypeError(f"weights must be real numbers or truth values, got {weights.dtype}")
        if weights.shape[-1:] != x0.shape[-2:-1]:
            raise ValueError(
                f"weights must have shape (..., N) with N = {x0.shape[-2]}, "
                f"got {tuple(weights.shape)}"
            )
        check_leading({"weights": 1, "x0": 2}, weights=weights, x0=x0)
        votes = weights.to(torch.float64)

    R1, R2, t = decompose_essential(E)
    same1, side1 = _sides(R1, t, x0, x1)
    same2, side2 = _sides(R2, t, x0, x1)
    first = ((same1 * votes).sum(-1) >= (same2 * votes).sum(-1))[..., None]
    same = torch.where(first, same1, same2)
    side = torch.where(first, side1, side2)
    R = torch.where(first[..., None], R1, R2)

    sign = torch.where((side * same * votes).sum(-1, keepdim=True) >= 0, 1.0, -1.0).to(t.dtype)
    return R.to(dtype), (t * sign).to(dtype), same & (side * sign > _TOO_FAR_TO_TELL)


@arrays_too
def in_front_of_both(
    R: torch.Tensor, t: torch.Tensor, x0: torch.Tensor, x1: torch.Tensor
) -> torch.Tensor:
    """Which matches have positive depth in both cameras of a given pose, or are too far to tell.

    R (..., 3, 3), t (..., 3) of unit length, x0, x1 (..., N, 2) calibrated, tensors or arrays ->
    (..., N) bool.
    """
    check_tensor("R", R, 3, 3)
    check_tensor("t", t, 3)
    check_same_length("x0", x0, "x1", x1)
    same, side = _sides(*(a.to(torch.float64) for a in (R, t, x0, x1)))
    return same & (side > _TOO_FAR_TO_TELL)


def _sides(
    R: torch.Tensor, t: torch.Tensor, x0: torch.Tensor, x1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether the depths of each match have the same sign, and on which side they are.

    From d1 x1 = d0 R x0 + t, crossing with x1 and with R x0: with n = (R x0) × x1,
    the sign of d1 is that of n · (R x0 × t) and the sign of d0 that of n · (x1 × t). No depth
    is ever computed, so nothing is divided by a vanishing parallax.

    Returns same (..., N) bool and side (..., N) in −1…1: the sign times the vote's weight.
    """
    ones = torch.ones_like(x0[..., :1])
    ray0 = torch.nn.functional.normalize(torch.cat((x0, ones), -1) @ R.transpose(-1, -2), dim=-1)
    ray1 = torch.nn.functional.normalize(torch.cat((x1, ones), -1), dim=-1)
    t = t[..., None, :]
    n = torch.linalg.cross(ray0, ray1)
    depth1 = (n * torch.linalg.cross(ray0, t)).sum(-1)
    depth0 = (n * torch.linalg.cross(ray1, t)).sum(-1)
    parallax = n.square().sum(-1)  # squared sine
    # Rays that coincide are a point at infinity; the rounding of n must not decide there.
    coincide = (parallax < 1e-20) & ((ray0 * ray1).sum(-1) > 0)
    same = (depth0 * depth1 > 0) | coincide
    side = torch.sign(depth0 + depth1) * parallax / (parallax + _HALF_VOTE_PARALLAX**2)
    return same, side


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
