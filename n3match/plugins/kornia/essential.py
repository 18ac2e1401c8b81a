"""A differentiable essential matrix by the weighted eight-point algorithm, as a kornia layer.

B pairs · N matches
"""

from __future__ import annotations

from torch import Tensor, nn

from n3match.geometry import normalize_points, project_to_essential, weighted_eight_point
from n3match.geometry.checks import check_leading, check_tensor
from n3match.plugins.kornia.tensors import check_together

_FEWEST = 8


def find_essential(points1: Tensor, points2: Tensor, weights: Tensor | None = None) -> Tensor:
    """Essential matrices from weighted matches, differentiable in points and weights.

    Called as `kornia.geometry.epipolar.find_essential`, which is a five-point solver: it ignores
    the weights, and returns ten candidates. Here there is one matrix, as of `find_fundamental`.

    Convention:
        x2ᵀ E x1 = 0 in normalised camera coordinates K⁻¹ (u, v, 1), not in pixels; Frobenius norm
        1, singular values (1, 1, 0) / √2, arbitrary sign. The rows of the linear system are
        multiplied by √w, of which the gradient is finite at w = 0, too.

    Args:
        points1, points2: (B, N, 2) in the first and the second camera, N ≥ 8.
        weights: (B, N); only their ratios matter, a negative one counts as zero. None: all 1.

    Returns:
        (B, 3, 3), on the device and in the dtype of the points (solved in float64). Zeros for a
        pair with no positive weight.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that don't fit, naming the argument.
    """
    points = {"points1": points1, "points2": points2}
    if weights is not None:
        points["weights"] = weights
    check_together(points)
    check_tensor("points1", points1, None, 2)
    if points1.ndim != 3 or points2.shape != points1.shape:
        raise ValueError(
            "points1 and points2 must both have shape (B, N, 2), got "
            f"{tuple(points1.shape)} and {tuple(points2.shape)}"
        )
    if points1.shape[1] < _FEWEST:
        raise ValueError(f"points1 must hold at least {_FEWEST} points, got {points1.shape[1]}")
    if weights is None:
        weights = points1.new_ones(points1.shape[:2])
    if weights.shape != points1.shape[:2]:
        raise ValueError(
            f"weights must have shape (B, N) = {tuple(points1.shape[:2])}, "
            f"got {tuple(weights.shape)}"
        )
    E = weighted_eight_point(points1, points2, weights, normalize=True)
    return project_to_essential(E).to(points1.dtype)


class WeightedEightPoint(nn.Module):
    """`find_essential` as a layer without parameters, which takes pixels with their cameras too."""

    def forward(
        self,
        points1: Tensor,
        points2: Tensor,
        weights: Tensor | None = None,
        K1: Tensor | None = None,
        K2: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            points1, points2, weights: as in `find_essential`; in pixels where K1 and K2 are given.
            K1, K2: (B, 3, 3) or (3, 3) camera matrices, both or neither; differentiable.

        Returns:
            (B, 3, 3) essential matrices, see `find_essential`. The fundamental matrix, for pixels,
            is `kornia.geometry.epipolar.fundamental_from_essential(E, K1, K2)`.

        Raises:
            ValueError, TypeError: as there.
        """
        if (K1 is None) != (K2 is None):
            raise ValueError("K1 and K2: found one of them, wanted both or neither")
        for name, points in (("points1", points1), ("points2", points2)):
            check_tensor(name, points, None, 2)
        if K1 is not None:
            for name, K in (("K1", K1), ("K2", K2)):
                check_tensor(name, K, 3, 3)
            check_together({"points1": points1, "points2": points2, "K1": K1, "K2": K2})
            for name, points, K_name, K in (
                ("points1", points1, "K1", K1), ("points2", points2, "K2", K2)
            ):
                check_leading({name: 2, K_name: 2}, **{name: points, K_name: K})
            points1, points2 = normalize_points(points1, K1), normalize_points(points2, K2)
        return find_essential(points1, points2, weights)
