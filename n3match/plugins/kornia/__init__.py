"""Kornia: modules that take and return what its own do (kornia itself is never imported here)."""

from n3match.plugins.kornia.essential import WeightedEightPoint, find_essential
from n3match.plugins.kornia.match_filter import LocalFeatureMatchFilter
from n3match.plugins.kornia.matchers import N3GeometryAwareMatcher, N3LocalFeatureMatcher

__all__ = [
    "LocalFeatureMatchFilter",
    "N3GeometryAwareMatcher",
    "N3LocalFeatureMatcher",
    "WeightedEightPoint",
    "find_essential",
]
