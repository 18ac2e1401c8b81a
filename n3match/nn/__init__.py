"""Blocks and networks built on the N³ operator."""

from n3match.nn.classifier import ClassifierConfig, FilterOutput, MatchClassifier
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.n3_block import PointN3Block

__all__ = [
    "ClassifierConfig",
    "ContextNormReLU",
    "FilterOutput",
    "MatchClassifier",
    "PointN3Block",
]
