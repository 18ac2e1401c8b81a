"""n3match: learned match filtering and relative pose with neural nearest neighbours (N³)."""

from n3match import geometry, matching, nn, ops, plugins, weights
from n3match.filtering import score_matches
from n3match.geometry import PoseStatus, RelativePose
from n3match.match_filter import MatchFilter
from n3match.pose import estimate_relative_pose

__all__ = [
    "MatchFilter",
    "PoseStatus",
    "RelativePose",
    "estimate_relative_pose",
    "geometry",
    "matching",
    "nn",
    "ops",
    "plugins",
    "score_matches",
    "weights",
]
