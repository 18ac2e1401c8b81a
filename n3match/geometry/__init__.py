"""Two-view geometry: cameras, epipolar distances, the eight-point algorithm, poses, their errors.

Convention throughout: integers are pixel centres; x1 ~ R x0 + t, E = [t]× R, x1ᵀ E x0 = 0.
"""

from n3match.geometry.camera import (
    calibrated_points,
    denormalize_points,
    distort_points,
    guess_focal,
    guess_intrinsics,
    normalize_points,
    undistort_points,
)
from n3match.geometry.eigenvector import smallest_eigenvector
from n3match.geometry.eight_point import weighted_eight_point
from n3match.geometry.epipolar import sampson_distance, symmetric_epipolar_distance
from n3match.geometry.epipolar_lines import epipolar_lines
from n3match.geometry.essential import (
    decompose_essential,
    essential_from_pose,
    project_to_essential,
    recover_pose,
    skew_symmetric,
)
from n3match.geometry.fundamental import FundamentalMatrix, estimate_fundamental_from_matches
from n3match.geometry.metrics import (
    mean_average_precision,
    pose_auc,
    pose_error_deg,
    rotation_error_deg,
    translation_error_deg,
)
from n3match.geometry.relative_pose import RelativePose, estimate_relative_pose_from_matches
from n3match.geometry.verification.verdict import PoseStatus

__all__ = [
    "FundamentalMatrix",
    "PoseStatus",
    "RelativePose",
    "calibrated_points",
    "decompose_essential",
    "denormalize_points",
    "distort_points",
    "epipolar_lines",
    "essential_from_pose",
    "estimate_fundamental_from_matches",
    "estimate_relative_pose_from_matches",
    "guess_focal",
    "guess_intrinsics",
    "mean_average_precision",
    "normalize_points",
    "pose_auc",
    "pose_error_deg",
    "project_to_essential",
    "recover_pose",
    "rotation_error_deg",
    "sampson_distance",
    "skew_symmetric",
    "smallest_eigenvector",
    "symmetric_epipolar_distance",
    "translation_error_deg",
    "undistort_points",
    "weighted_eight_point",
]
