"""Features (SIFT, binary ones), exact nearest neighbours, what is known of a putative match."""

from n3match.matching.features import (
    FEATURES,
    Features,
    extract_features,
    extract_sift,
    root_sift,
)
from n3match.matching.nearest import Matches, nearest_neighbors
from n3match.matching.putative import (
    PutativeMatches,
    exclusive_logits,
    one_to_one,
    putative_matches,
    side_info_of_matches,
)
from n3match.matching.side_info import (
    is_gradient_histogram,
    keypoint_change,
    side_info_columns,
)

__all__ = [
    "FEATURES",
    "Features",
    "Matches",
    "PutativeMatches",
    "exclusive_logits",
    "extract_features",
    "extract_sift",
    "is_gradient_histogram",
    "keypoint_change",
    "nearest_neighbors",
    "one_to_one",
    "putative_matches",
    "root_sift",
    "side_info_columns",
    "side_info_of_matches",
]
