"""Local affine frames: [A | c] with A (2, 2) from the patch to pixels and centre c = (x, y)."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.matching.side_info import LARGEST_LOG_SCALE


def filled(lafs: Tensor) -> Tensor:
    """(..., 2, 3) -> (...) bool: False for the all-zero frames that pad kornia's detections."""
    return lafs.ne(0).flatten(-2).any(-1)


def keypoint_change(lafs0: Tensor, lafs1: Tensor, focal_ratio: Tensor) -> Tensor:
    """Turn and change of size of every match: `n3match.matching.keypoint_change` for LAFs.

    An orientation of exactly 0 is that of upright frames, and a frame of scale exactly 1 is made
    from a bare point (`laf_from_center_scale_ori`): both say nothing, and count as not known.

    Args:
        lafs0, lafs1: (N, 2, 3) frames of the matched keypoints.
        focal_ratio: (N,) focal length of camera 0 / that of camera 1.

    Returns:
        (N, 3): cosine and sine of the turn from image 0 to image 1, clockwise as seen on the
        screen; natural logarithm of the ratio of angular sizes; (0, 0) and 0 where not known.
    """
    (angle0, scale0), (angle1, scale1) = _angle_and_scale(lafs0), _angle_and_scale(lafs1)
    turn_known = (angle0 != 0) & (angle1 != 0)
    size_known = (scale0 > 0) & (scale1 > 0) & (scale0 != 1) & (scale1 != 1)
    # Kornia counts angles counter-clockwise with y pointing down.
    turn = angle0 - angle1
    ratio = torch.where(size_known, scale1, 1.0) / torch.where(size_known, scale0, 1.0)
    log_scale = (ratio * focal_ratio).log().clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
    return torch.stack(
        (turn.cos() * turn_known, turn.sin() * turn_known, log_scale * size_known), -1
    )


def _angle_and_scale(lafs: Tensor) -> tuple[Tensor, Tensor]:
    """Radians counter-clockwise as kornia's `get_laf_orientation`, √|det A| in pixels."""
    (a, b), (c, d) = (row.unbind(-1) for row in lafs[..., :2].unbind(-2))
    return torch.atan2(b, a), (a * d - b * c).abs().sqrt()
