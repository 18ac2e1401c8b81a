"""The essential matrix of a pose, and how far matches are from its epipolar lines.

Convention throughout: a point with coordinates X in camera 0 has R X + t in camera 1,
E = [t]× R, and x1ᵀ E x0 = 0 for calibrated homogeneous points x0, x1 of one 3-D point.

... any leading dimensions that broadcast · N matches
"""

from __future__ import annotations

import torch

from n3match.geometry.checks import check_same_length, check_tensor


def skew_symmetric(t: torch.Tensor) -> torch.Tensor:
    """(..., 3) -> (..., 3, 3): the matrix [t]× with [t]× v = t × v.

    Args:
        t: (..., 3) vectors, floating point.
    """
    check_tensor("t", t, 3)
    x, y, z = t.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


def essential_from_pose(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E = [t]× R (..., 3, 3) of rotations R (..., 3, 3) and translations t (..., 3).

    t is used as it is: a unit t gives ‖E‖ = √2 (Frobenius), singular values (1, 1, 0).

    Args:
        R: (..., 3, 3) rotations
        t: (..., 3) translations: x1 ~ R x0 + t.

    Returns:
        (..., 3, 3) essential matrices: x1ᵀ E x0 = 0 in calibrated coordinates.
    """
    check_tensor("R", R, 3, 3)
    check_tensor("t", t, 3)
    # Column by column t × R: unlike a matrix product exact under autocast too.
    return torch.linalg.cross(t[..., None], R, dim=-2)


def symmetric_epipolar_distance(
    x0: torch.Tensor, x1: torch.Tensor, E: torch.Tensor
) -> torch.Tensor:
    """Squared distances to both epipolar lines, added up.

    d = (x1ᵀ E x0)² · (1 / ‖(E x0)₁₂‖² + 1 / ‖(Eᵀ x1)₁₂‖²), the quantity whose comparison
    with 1e-4 labels matches in Yi et al., "Learning to Find Good Correspondences" (CVPR 2018).

    Args:
        x0, x1: (..., N, 2) calibrated coordinates in camera 0 and camera 1.
        E: (..., 3, 3), x1ᵀ E x0 = 0; its scale does not matter.

    Returns:
        (..., N) squared distance in squared units of the coordinates, always finite: at an
        epipole, where the line is undefined and its norm 0, the norm is floored. Half
        precision is computed and returned as float32.
    """
    residual, line0, line1 = _epipolar_terms(x0, x1, E)
    floor = _floor(residual.dtype)
    return residual.square() * (
        line1.clamp_min(floor).reciprocal() + line0.clamp_min(floor).reciprocal()
    )


def sampson_distance(x0: torch.Tensor, x1: torch.Tensor, E: torch.Tensor) -> torch.Tensor:
    """Sampson's first-order squared distance of a match to the epipolar constraint.

    d = (x1ᵀ E x0)² / (‖(E x0)₁₂‖² + ‖(Eᵀ x1)₁₂‖²); Hartley & Zisserman, "Multiple View
    Geometry", eq. 11.9.

    Args:
        x0, x1: (..., N, 2) calibrated coordinates in camera 0 and camera 1.
        E: (..., 3, 3), x1ᵀ E x0 = 0; its scale does not matter.

    Returns:
        (..., N) squared distance in squared units of the coordinates, always finite, at an epipole
        too. Half precision is computed and returned as float32.
    """
    residual, line0, line1 = _epipolar_terms(x0, x1, E)
    return residual.square() / (line0 + line1).clamp_min(_floor(residual.dtype))


def _epipolar_terms(
    x0: torch.Tensor, x1: torch.Tensor, E: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x1ᵀ E x0 and the squared norms of the line normals in image 0 and in image 1."""
    check_tensor("x0", x0, None, 2)
    check_tensor("x1", x1, None, 2)
    check_tensor("E", E, 3, 3)
    check_same_length("x0", x0, "x1", x1)
    dtype = torch.promote_types(torch.promote_types(x0.dtype, x1.dtype), E.dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    x0, x1, E = x0.to(dtype), x1.to(dtype), E.to(dtype)
    # Written out rather than as matrix products: with rows of 2 that is faster, and under
    # autocast a product would drop to half precision.
    (a, b, c), (d, e, f), (g, h, i) = (
        [E[..., row, column, None] for column in range(3)] for row in range(3)
    )
    (x, y), (u, v) = x0.unbind(-1), x1.unbind(-1)
    line1_x, line1_y = a * x + b * y + c, d * x + e * y + f
    line0_x, line0_y = a * u + d * v + g, b * u + e * v + h
    residual = u * line1_x + v * line1_y + (g * x + h * y + i)
    return (
        residual,
        line0_x.square() + line0_y.square(),
        line1_x.square() + line1_y.square(),
    )


def _floor(dtype: torch.dtype) -> float:
    # A squared line norm below eps² is rounding noise for any E of ordinary scale.
    return torch.finfo(dtype).eps ** 2
