"""One pass of the match classifier: per-match columns in, a logit per match out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from n3match.nn.consensus import COORDINATES, LocalConsensus
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.n3_block import PointN3Block

if TYPE_CHECKING:
    from n3match.nn.classifier import MatchFilterConfig


class ResidualBlock(nn.Module):
    """Two (linear, context norm, batch norm, ReLU) layers with a skip where the widths agree."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.linear1 = nn.Linear(channels_in, channels_out)
        self.norm1 = ContextNormReLU(channels_out)
        self.linear2 = nn.Linear(channels_out, channels_out)
        self.norm2 = ContextNormReLU(channels_out)
        self.residual = channels_in == channels_out

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm1(self.linear1(x), mask)
        y = self.norm2(self.linear2(y), mask)
        return x + y if self.residual else y

    def in_place(self, x: Tensor, mask: Tensor | None, spare: tuple[Tensor, Tensor]) -> Tensor:
        """`forward` in eval mode and without gradients; `x` is overwritten where widths agree.

        Args:
            x, mask: as there.
            spare: two tensors of B·N·width numbers or more; the answer may lie in them.
        """
        shape = (*x.shape[:2], self.linear1.out_features)
        y, z = (tensor[: math.prod(shape)].view(shape) for tensor in spare)
        # Context normalisation takes the mean over the matches away, and a bias with it.
        torch.mm(x.flatten(0, 1), self.linear1.weight.T, out=y.flatten(0, 1))
        self.norm1.in_place(y, mask, z)
        torch.mm(y.flatten(0, 1), self.linear2.weight.T, out=z.flatten(0, 1))
        self.norm2.in_place(z, mask, y)
        return x.add_(z) if self.residual else z


class Trunk(nn.Module):
    """A linear layer, residual blocks with N³ blocks in between, a linear head.

    Args:
        columns: numbers C known of each match.
        config: width, number of blocks, where the N³ blocks are.
    """

    def __init__(self, columns: int, config: MatchFilterConfig):
        super().__init__()
        self.lift = nn.Linear(columns, config.width)
        self.consensus = None
        if config.consensus:
            self.consensus = LocalConsensus(
                columns, config.width, config.keypoint_change,
                min_log_temperature=config.min_log_temperature,
            )
        narrow = config.width // (config.neighbours + 1)
        self.blocks = nn.ModuleList()
        self.n3_blocks = nn.ModuleDict()
        for index in range(1, config.blocks + 1):
            has_n3 = index in config.n3_after
            self.blocks.append(ResidualBlock(config.width, narrow if has_n3 else config.width))
            if has_n3:
                self.n3_blocks[str(index)] = PointN3Block(
                    narrow,
                    config.neighbours,
                    config.embedding_width,
                    config.embedding_channels,
                    config.consensus,
                    config.keypoint_change,
                    config.min_log_temperature,
                )
        self.shape_from = COORDINATES + len(config.side_information)
        self.head = nn.Linear(config.width, 1)

    def forward(self, matches: Tensor, mask: Tensor | None = None) -> Tensor:
        """matches (B, N, C) -> (B, N); mask (B, N) bool, True for real matches."""
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None  # nothing is padding: spare every layer the masking
        weight = None if mask is None else mask[..., None].to(matches)
        x = self.lift(matches)
        if self.consensus is not None:
            own = self._own(matches, self.consensus.motion.columns)
            x = x + self.consensus(matches, own, mask)
        spare = self._spare(x)
        for index, block in enumerate(self.blocks, 1):
            x = block(x, weight) if spare is None else block.in_place(x, weight, spare)
            if str(index) in self.n3_blocks:
                n3_block = self.n3_blocks[str(index)]
                x = n3_block(x, mask, self._own(matches, n3_block.columns))
        return self.head(x)[..., 0]

    def _spare(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Memory for the blocks to work in; None where they can't."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        if x.dtype not in (torch.float32, torch.float64):
            return None
        for block in self.blocks:
            # Weights are read directly: a layer put in place of one, e.g. quantised, is called.
            plain = type(block.linear1) is type(block.linear2) is nn.Linear
            if not plain or block.norm1.training or block.norm2.training:
                return None
        return torch.empty_like(x).flatten(), torch.empty_like(x).flatten()

    def _own(self, matches: Tensor, columns: int) -> Tensor | None:
        """Coordinates, and the keypoints' change of shape, for blocks that want them."""
        if not columns:
            return None
        shape = matches[..., self.shape_from : self.shape_from + columns - COORDINATES]
        return torch.cat([matches[..., :COORDINATES], shape], -1)
