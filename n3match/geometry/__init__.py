"""Two-view geometry: epipolar distances, the eight-point algorithm, poses and their errors."""

from n3match.geometry.cheirality import recover_pose
from n3match.geometry.coordinates import denormalize_points, normalize_points
from n3match.geometry.distort import distort_points
from n3match.geometry.eigenvector import smallest_eigenvector
from n3match.geometry.eight_point import weighted_eight_point
from n3match.geometry.epipolar import (
    essential_from_pose,
    sampson_distance,
    skew_symmetric,
    symmetric_epipolar_distance,
)
from n3match.geometry.epipolar_lines import epipolar_lines
from n3match.geometry.essential import decompose_essential, project_to_essential
from n3match.geometry.estimate import estimate_relative_pose_from_matches
from n3match.geometry.fundamental import FundamentalMatrix, estimate_fundamental_from_matches
from n3match.geometry.intrinsics import guess_intrinsics
from n3match.geometry.metrics import mean_average_precision, pose_auc
from n3match.geometry.pose_error import pose_error_deg, rotation_error_deg, translation_error_deg
from n3match.geometry.relative_pose import PoseStatus, RelativePose
from n3match.geometry.undistort import undistort_points

__all__ = [
    "FundamentalMatrix",
    "PoseStatus",
    "RelativePose",
    "decompose_essential",
    "denormalize_points",
    "distort_points",
    "epipolar_lines",
    "essential_from_pose",
    "estimate_fundamental_from_matches",
    "estimate_relative_pose_from_matches",
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
