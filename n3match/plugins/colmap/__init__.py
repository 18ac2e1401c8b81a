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
    UnsupportedCamera,
    colmap_parameters,
    covisible_pairs,
    has_colmap_model,
    read_colmap_model,
    read_colmap_points,
    relative_pose,
)
from n3match.plugins.colmap.new_database import NewColmapDatabase

__all__ = [
    "ColmapCamera",
    "ColmapDatabase",
    "ColmapImage",
    "ColmapModel",
    "DatabaseKeypoints",
    "NewColmapDatabase",
    "PairResult",
    "TwoViewGeometry",
    "UnsupportedCamera",
    "colmap_parameters",
    "covisible_pairs",
    "has_colmap_model",
    "pair_ids",
    "pair_number",
    "read_colmap_model",
    "read_colmap_points",
    "relative_pose",
]
