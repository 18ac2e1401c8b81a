"""Features and putative matches: SIFT, RootSIFT, exact nearest neighbours."""

from n3match.matching.keypoint_change import keypoint_change
from n3match.matching.nearest import Matches, nearest_neighbors
from n3match.matching.putative import PutativeMatches, putative_matches
from n3match.matching.root_sift import root_sift
from n3match.matching.sift import Features, extract_sift

__all__ = [
    "Features",
    "Matches",
    "PutativeMatches",
    "extract_sift",
    "nearest_neighbors",
    "putative_matches",
    "keypoint_change",
    "root_sift",
]
