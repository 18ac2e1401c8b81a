"""COLMAP's files without COLMAP: models, binary and text, and databases."""

from n3match.plugins.colmap.database import (
    ColmapDatabase,
    DatabaseKeypoints,
    PairResult,
    TwoViewGeometry,
    pair_ids,
    pair_number,
)
from n3match.plugins.colmap.model import (
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    covisible_pairs,
    has_colmap_model,
    read_colmap_model,
    read_colmap_points,
    relative_pose,
)

__all__ = [
    "ColmapCamera",
    "ColmapDatabase",
    "ColmapImage",
    "ColmapModel",
    "DatabaseKeypoints",
    "PairResult",
    "TwoViewGeometry",
    "covisible_pairs",
    "has_colmap_model",
    "pair_ids",
    "pair_number",
    "read_colmap_model",
    "read_colmap_points",
    "relative_pose",
]
