"""hloc's HDF5 files: which groups are pairs, what their arrays say, filtered ones written."""

from n3match.plugins.hloc.arrays import (
    HlocFeatures,
    add_features,
    add_matches,
    read_features,
    read_matches,
    write_matches,
)
from n3match.plugins.hloc.layout import HlocPair, find_pair, image_names, list_pairs

__all__ = [
    "HlocFeatures",
    "HlocPair",
    "add_features",
    "add_matches",
    "find_pair",
    "image_names",
    "list_pairs",
    "read_features",
    "read_matches",
    "write_matches",
]
