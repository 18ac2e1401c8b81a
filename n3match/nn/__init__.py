"""Blocks and networks built on the N³ operator."""

from n3match.nn.classifier import ClassifierConfig, FilterOutput, MatchClassifier, considered
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.dncnn import DnCNN
from n3match.nn.image_n3_block import ImageN3Block
from n3match.nn.n3_block import PointN3Block
from n3match.nn.n3net import PRESETS, N3Net, N3NetConfig
from n3match.nn.pruning import PruningConfig

__all__ = [
    "ClassifierConfig",
    "ContextNormReLU",
    "DnCNN",
    "FilterOutput",
    "ImageN3Block",
    "MatchClassifier",
    "N3Net",
    "N3NetConfig",
    "PRESETS",
    "PointN3Block",
    "PruningConfig",
    "considered",
]
