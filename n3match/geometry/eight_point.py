"""The weighted eight-point algorithm, as published or on normalised coordinates.

B pairs · N matches
"""

from __future__ import annotations

import torch

from n3match.arguments import flag
from n3match.geometry.checks import check_tensor
from n3match.geometry.eigenvector import checked_damping, smallest_eigenvector


def weighted_eight_point(
    x0: torch.Tensor,
    x1: torch.Tensor,
    weights: torch.Tensor,
    damping: float = 1e-6,
    *,
    normalize: bool = False,
) -> torch.Tensor:
    """Essential matrices from weighted matches, differentiable with respect to all inputs.

    With (x, y) in camera 0, (x', y') in camera 1 and the rows
    (x'x, x'y, x', y'x, y'y, y', x, y, 1) stacked to X (N×9), the result is the eigenvector of
    the smallest eigenvalue of Xᵀ diag(w) X, reshaped row by row; Yi et al., "Learning to Find
    Good Correspondences" (CVPR 2018), after Longuet-Higgins (1981) and Hartley (1997). The
    singular values are left as they come out: see `project_to_essential`.

    The 9×9 problem is set up and solved in float64. The forward pass never raises for any
    values and the gradient is always finite:

    - a match with a coordinate or weight that is NaN or infinite, or with a negative weight,
      counts as weight zero (and gets no gradient);
    - with no positive weight at all E is the zero matrix, with gradient zero;
    - with fewer than 8 positive weights E is one of the many solutions, and the gradient is
      damped where eigenvalues meet (see `smallest_eigenvector`).

    Args:
        x0, x1: (B, N, 2) calibrated coordinates in camera 0 and camera 1.
        weights: (B, N), not negative.
        damping: relative eigenvalue gap below which the gradient is damped.
        normalize: solve in coordinates that are shifted and scaled, in each image, to weighted
            mean 0 and weighted mean square 1 in x and y together (Hartley, "In Defense of the
            Eight-Point Algorithm", TPAMI 1997). All nine columns are then of one size: the
            answer suffers less from noise, and its gradient is better conditioned.

    Returns:
        (B, 3, 3) with x1ᵀ E x0 = 0, Frobenius norm 1, arbitrary sign, dtype of x0 (float32 for
        half-precision input).

    Raises:
        ValueError: shapes don't fit together. TypeError: not floating-point tensors.
    """
    check_tensor("x0", x0, None, 2)
    check_tensor("x1", x1, None, 2)
    check_tensor("weights", weights, None)
    if x0.dim() != 3 or x1.shape != x0.shape:
        raise ValueError(
            f"x0 and x1 must both have shape (B, N, 2), got {tuple(x0.shape)} and {tuple(x1.shape)}"
        )
    if weights.shape != x0.shape[:2]:
        raise ValueError(
            f"weights must have shape (B, N) = {tuple(x0.shape[:2])}, got {tuple(weights.shape)}"
        )
    damping, normalize = checked_damping(damping), flag("normalize", normalize)
    out_dtype = torch.promote_types(x0.dtype, torch.float32)
    x, y, u, v, w = (
        tensor.to(torch.float64) for tensor in (*x0.unbind(-1), *x1.unbind(-1), weights)
    )
    # One sum finds every NaN or infinity: float64 sums of ordinary values don't overflow.
    usable = (x + y + u + v + w).isfinite() & (w >= 0)
    x, y, u, v, w = (torch.where(usable, tensor, 0.0) for tensor in (x, y, u, v, w))

    if normalize:
        (x, y, back0), (u, v, back1) = _normalized(x, y, w), _normalized(u, v, w)
    rows = _epipolar_rows(x, y, u, v)
    moments = (rows * w[:, None]) @ rows.transpose(1, 2)
    E = smallest_eigenvector(moments, damping).unflatten(-1, (3, 3))
    if normalize:
        E = back1.transpose(1, 2) @ E @ back0
        norm = torch.linalg.matrix_norm(E)[:, None, None]
        E = E / torch.where(norm > 0, norm, 1.0)
    return E.to(out_dtype)


def _normalized(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinates (B, N) with weighted mean 0 and mean square 1, and the (B, 3, 3) that made them
    from homogeneous ones. The identity where there is no weight or no extent."""
    total = w.sum(1, keepdim=True)
    share = w / torch.where(total > 0, total, 1.0)
    mean_x, mean_y = (share * x).sum(1, keepdim=True), (share * y).sum(1, keepdim=True)
    x, y = x - mean_x, y - mean_y
    extent = (share * (x.square() + y.square())).sum(1, keepdim=True) / 2
    scale = torch.rsqrt(torch.where(extent > 0, extent, 1.0))
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    matrix = torch.cat(
        (scale, zero, -scale * mean_x, zero, scale, -scale * mean_y, zero, zero, one), 1
    )
    return x * scale, y * scale, matrix.unflatten(1, (3, 3))


def _epipolar_rows(
    x: torch.Tensor, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """(B, 9, N): the coefficients of E, row by row, in x1ᵀ E x0 with x0 = (x, y), x1 = (u, v).

    Matches lie along the last dimension: the element-wise products are then long and contiguous.
    """
    return torch.stack((u * x, u * y, u, v * x, v * y, v, x, y, torch.ones_like(x)), dim=1)
