"""How far matches are from the epipolar lines of E, with x1ᵀ E x0 = 0 (tensors or arrays).

A fundamental matrix serves as well, with pixels in place of calibrated coordinates. Through
tensors gradients flow; arrays are not copied to tensors, which would take longer than the formula.

... any leading dimensions that broadcast · N matches
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from n3match.geometry.checks import check_leading, check_same_length, check_tensor

Numbers = TypeVar("Numbers", torch.Tensor, np.ndarray)


def symmetric_epipolar_distance(x0: Numbers, x1: Numbers, E: Numbers) -> Numbers:
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

    Raises:
        ValueError: shapes don't fit together. TypeError: not floating-point numbers.
    """
    residual, line0, line1, floor = _epipolar_terms(x0, x1, E)
    return residual * residual * (1 / line1.clip(min=floor) + 1 / line0.clip(min=floor))


def sampson_distance(x0: Numbers, x1: Numbers, E: Numbers) -> Numbers:
    """Sampson's first-order squared distance of a match to the epipolar constraint.

    d = (x1ᵀ E x0)² / (‖(E x0)₁₂‖² + ‖(Eᵀ x1)₁₂‖²); Hartley & Zisserman, "Multiple View
    Geometry", eq. 11.9.

    Args:
        x0, x1, E: as of `symmetric_epipolar_distance`.

    Returns:
        (..., N) squared distance in squared units of the coordinates, always finite, at an epipole
        too. Half precision is computed and returned as float32.

    Raises:
        ValueError: shapes don't fit together. TypeError: not floating-point numbers.
    """
    residual, line0, line1, floor = _epipolar_terms(x0, x1, E)
    return residual * residual / (line0 + line1).clip(min=floor)


def _epipolar_terms(
    x0: Numbers, x1: Numbers, E: Numbers
) -> tuple[Numbers, Numbers, Numbers, float]:
    """x1ᵀ E x0, the squared norms of the line normals in image 0 and in image 1, their floor."""
    kind = np.ndarray if isinstance(x0, np.ndarray) else torch.Tensor
    check_tensor("x0", x0, None, 2, kind=kind)
    check_tensor("x1", x1, None, 2, kind=kind)
    check_tensor("E", E, 3, 3, kind=kind)
    check_same_length("x0", x0, "x1", x1)
    check_leading({"x0": 2, "x1": 2, "E": 2}, x0=x0, x1=x1, E=E)
    if isinstance(x0, np.ndarray):
        x0, x1, E = (np.asarray(a) for a in (x0, x1, E))  # not of a class with ways of its own
        dtype = np.result_type(x0, x1, E, np.float32)
        # Coordinates as rows: several times faster than every other number of a row.
        (x, y), (u, v) = (np.moveaxis(a, -1, 0).astype(dtype, order="C") for a in (x0, x1))
        E, eps = E.astype(dtype), np.finfo(dtype).eps
    else:
        dtype = torch.promote_types(torch.promote_types(x0.dtype, x1.dtype), E.dtype)
        if dtype in (torch.float16, torch.bfloat16):
            dtype = torch.float32
        (x, y), (u, v) = x0.to(dtype).unbind(-1), x1.to(dtype).unbind(-1)
        E, eps = E.to(dtype), torch.finfo(dtype).eps
    # Written out rather than as matrix products: with rows of 2 that is faster, and under
    # autocast a product would drop to half precision.
    (a, b, c), (d, e, f), (g, h, i) = (
        [E[..., row, column, None] for column in range(3)] for row in range(3)
    )
    line1_x, line1_y = a * x + b * y + c, d * x + e * y + f
    line0_x, line0_y = a * u + d * v + g, b * u + e * v + h
    residual = u * line1_x + v * line1_y + (g * x + h * y + i)
    line0 = line0_x * line0_x + line0_y * line0_y
    line1 = line1_x * line1_x + line1_y * line1_y
    # A squared line norm below eps² is rounding noise for any E of ordinary scale.
    return residual, line0, line1, float(eps) ** 2
