"""What is public, and that importing it stays light."""

import prepared

from n3match import geometry

PUBLIC = {
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
}


def test_public_names():
    assert set(geometry.__all__) == PUBLIC
    assert all(getattr(geometry, name).__doc__ for name in PUBLIC)


def test_statuses_are_their_strings():
    assert {str(s) for s in geometry.PoseStatus} == {
        "ok",
        "too_few_matches",
        "estimation_failed",
        "degenerate",
        "no_parallax",
        "insufficient_support",
    }
    assert geometry.PoseStatus.OK == "ok"
    assert f"{geometry.PoseStatus.NO_PARALLAX}" == "no_parallax"


def test_geometry_needs_neither_the_network_nor_poselib():
    code = (
        "import sys; sys.modules['poselib'] = None; import n3match.geometry; "
        "assert not [m for m in sys.modules if m.startswith(('n3match.nn', 'n3match.datasets', "
        "'n3match.pipelines', 'n3match.matching', 'kornia'))]"
    )
    assert prepared.run(code) == 0
