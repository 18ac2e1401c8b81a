"""Blocks and networks built on the N³ operator."""

from n3match.nn.config import MatchFilterConfig, PruningConfig
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.dncnn import DnCNN
from n3match.nn.image_n3_block import ImageN3Block
from n3match.nn.match_filter import FilterOutput, MatchFilter
from n3match.nn.n3_block import PointN3Block
from n3match.nn.n3net import PRESETS, N3Net, N3NetConfig
from n3match.nn.passes import mutual_mask

__all__ = [
    "ContextNormReLU",
    "DnCNN",
    "FilterOutput",
    "ImageN3Block",
    "MatchFilter",
    "MatchFilterConfig",
    "N3Net",
    "N3NetConfig",
    "PRESETS",
    "PointN3Block",
    "PruningConfig",
    "mutual_mask",
]
