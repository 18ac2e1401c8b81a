"""The pose of an essential matrix: the one of four that puts the points before both cameras.

... any leading dimensions · N matches
"""

from __future__ import annotations

import torch

from n3match.geometry.checks import check_same_length, check_tensor
from n3match.geometry.essential import decompose_essential

# Parallax angle (radians) at which a match has half a vote on the sign of t: about one pixel at
# a focal length of 1000 pixels. Far below it the sign of a depth is noise.
_HALF_VOTE_PARALLAX = 1e-3
# A match on the wrong side counts as behind only with more than half a vote.
_TOO_FAR_TO_TELL = -0.5


def recover_pose(
    E: torch.Tensor,
    x0: torch.Tensor,
    x1: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R and t of essential matrices, by the votes of matches for depths that are positive.

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
        ValueError: shapes don't fit together. TypeError: not tensors of floating-point numbers.
    """
    check_tensor("E", E, 3, 3)
    check_tensor("x0", x0, None, 2)
    check_tensor("x1", x1, None, 2)
    check_same_length("x0", x0, "x1", x1)
    dtype = torch.promote_types(torch.promote_types(E.dtype, x0.dtype), x1.dtype)
    E, x0, x1 = E.to(torch.float64), x0.to(torch.float64), x1.to(torch.float64)
    if weights is None:
        votes = torch.ones_like(x0[..., 0])
    else:
        if weights.shape[-1:] != x0.shape[-2:-1]:
            raise ValueError(
                f"weights must have shape (..., N) with N = {x0.shape[-2]}, "
                f"got {tuple(weights.shape)}"
            )
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


def in_front_of_both(
    R: torch.Tensor, t: torch.Tensor, x0: torch.Tensor, x1: torch.Tensor
) -> torch.Tensor:
    """Which matches have positive depth in both cameras of a given pose, or are too far to tell.

    Args:
        R: (..., 3, 3), t: (..., 3) unit length, x1 ~ R x0 + t. x0, x1: (..., N, 2) calibrated.

    Returns:
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
