"""The passes over the matches of a pair: per-match columns in, a logit per match out.

The first pass sees all matches, or the mutual ones. Most of them are wrong, and context
normalisation averages over them. Leaving out the worse half by the first pass's logits doubles the
share of right ones; a refinement pass, by a second network, also sees those logits, and how far
each match is from the epipolar geometry that they give. The idea of going over the survivors again
is that of OANet (Zhang et al., ICCV 2019: residuals and weights as inputs) and CLNet (Zhao et al.,
ICCV 2021: pruning). There may be several refinement passes, with the same weights: each over what
the one before said.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from n3match.arguments import dense_tensor, instance
from n3match.nn.config import COORDINATES, MatchFilterConfig
from n3match.nn.consensus import LocalConsensus
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.epipolar_evidence import EVIDENCE_COLUMNS, evidence
from n3match.nn.n3_block import PointN3Block
from n3match.ops.checks import may_look

_FEWEST = 64  # matches that a refinement pass goes over, where there are so many


def mutual_mask(
    side_info: Tensor, config: MatchFilterConfig, mask: Tensor | None = None
) -> Tensor:
    """(B, N) bool, the matches that a network sees.

    With `config.mutual_only` these are the mutual ones (with `config.second_nearest` the caller
    says so of those that are among the two nearest both ways), in pairs where that is known (where
    any is mutual). A point has one image at most: of several keypoints matched to the same one,
    those that aren't its nearest are wrong, or right by a few pixels only; and the fewer wrong ones
    there are, the more the statistics of all matches say.

    Args:
        side_info: (B, N, S) side information, or more columns behind it.
        config: of the network.
        mask: (B, N) bool, False for padding; None: there is none.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    instance("config", config, MatchFilterConfig)
    dense_tensor("side_info", side_info)
    if side_info.ndim != 3 or side_info.shape[2] < len(config.side_info):
        raise ValueError(
            f"side_info must have shape (B, N, S) with S = {len(config.side_info)} or more, "
            f"got {tuple(side_info.shape)}"
        )
    if side_info.is_complex():
        raise TypeError(f"side_info must be real numbers, got {side_info.dtype}")
    if mask is not None:
        dense_tensor("mask", mask)
        if mask.dtype != torch.bool or mask.shape != side_info.shape[:2]:
            raise ValueError(
                f"mask must be bool of shape (B, N) = {tuple(side_info.shape[:2])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
    if not config.mutual_only:
        return torch.ones_like(side_info[..., 0], dtype=torch.bool) if mask is None else mask
    return known_mutual(side_info[..., config.side_info.index("mutual")], mask)


def known_mutual(flag: Tensor, mask: Tensor | None) -> Tensor:
    """(B, N) bool, matches whose flag (B, N) is above 0; all of a pair without such a match."""
    everything = torch.ones_like(flag, dtype=torch.bool) if mask is None else mask
    mutual = (flag > 0) & everything
    return torch.where(mutual.any(1, keepdim=True), mutual, everything)


def chosen_first(
    chosen: Tensor, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(B, M) places of the chosen matches and (B, M) bool, False behind the last of a pair.

    Args:
        chosen: (B, N) bool. order: (B, N) places with the chosen ones first; None: in their own.
    """
    counts = chosen.sum(1)
    if order is None:
        order = chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    order = order[:, : int(counts.max())]
    return order, torch.arange(order.shape[1], device=order.device) < counts[:, None]


def on_chosen(
    run: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    columns: Tensor,
    chosen: Tensor,
    otherwise: Tensor,
    order: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """What a network says of some of the matches, and something else for the others.

    Args:
        run: columns (B, M, C), mask (B, M) -> any number of (B, M).
        columns: (B, N, C).
        chosen: (B, N) bool, the matches it is to see.
        otherwise: (B, N), for the others.
        order: (B, N) indices with the chosen ones first; None: in their own order.

    Returns:
        As many (B, N) as `run` gives.
    """
    if not may_look(chosen):  # shapes that don't depend on values
        found = run(columns.masked_fill(~chosen[..., None], 0.0), chosen)
        return tuple(torch.where(chosen, x, otherwise) for x in found)
    order, real = chosen_first(chosen, order)
    part = columns.gather(1, order[..., None].expand(-1, -1, columns.shape[-1]))
    rest = otherwise.gather(1, order)
    return tuple(
        otherwise.scatter(1, order, torch.where(real, x, rest))
        for x in run(part.masked_fill(~real[..., None], 0.0), real)
    )


def lifted(layer: nn.Linear, columns: Tensor) -> Tensor:
    """What a linear layer makes of columns with coordinates among them, in its own precision.

    Under autocast it would see bfloat16 coordinates: eight bits, which in an image of 1 000 pixels
    are two pixels, as much as wrong matches are off. There are few columns, so it costs little.

    Args:
        layer: or what stands for one, e.g. quantised, and may have no parameters.
        columns: (…, C), as `layer` takes them.
    """
    own = next(layer.parameters(), columns)
    with torch.autocast(columns.device.type, enabled=False):
        return layer(columns.to(own.dtype))


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
        self.change_from = COORDINATES + len(config.side_info)
        self.head = nn.Linear(config.width, 1)

    def forward(self, matches: Tensor, mask: Tensor | None = None) -> Tensor:
        """matches (B, N, C) -> (B, N); mask (B, N) bool, True for real matches."""
        if mask is not None and may_look(mask) and bool(mask.all()):
            mask = None  # nothing is padding: spare every layer the masking
        weight = None if mask is None else mask[..., None].to(matches)
        x = lifted(self.lift, matches)
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
        """Coordinates, and the keypoints' change, for blocks that want them."""
        if not columns:
            return None
        change = matches[..., self.change_from : self.change_from + columns - COORDINATES]
        return torch.cat([matches[..., :COORDINATES], change], -1)


class Refinement(nn.Module):
    """Logits again, for the better share of the matches.

    Args:
        columns: numbers C known of each match, calibrated x0, y0, x1, y1 first.
        config: of the whole filter; its `refined_share` is looked at again. Matches that the pass
            before keeps (logit above 0) always are.
    """

    def __init__(self, columns: int, config: MatchFilterConfig):
        super().__init__()
        self.share = config.refined_share
        self.trunk = Trunk(columns + EVIDENCE_COLUMNS, config)

    def forward(self, matches: Tensor, first: Tensor, mask: Tensor | None) -> Tensor:
        """
        Args:
            matches: (B, N, C) with N > 0.
            first: (B, N) logits of the pass before, −inf where the mask is False. No gradient
                flows back into them.
            mask: (B, N) bool or None.

        Returns:
            (B, N) logits; those of the pass before (not above 0) where a match was left out.
        """
        first = first.detach()
        order = first.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(order.shape[1], device=first.device).expand_as(order)
        chosen = torch.zeros_like(order).scatter(1, order, places) < self._counts(first, mask)

        def again(columns: Tensor, real: Tensor) -> tuple[Tensor]:
            return (self.trunk(columns, real).to(first.dtype),)

        columns = torch.cat([matches, evidence(matches, first, mask)], -1)
        return on_chosen(again, columns, chosen, first, order)[0]

    def _counts(self, first: Tensor, mask: Tensor | None) -> Tensor:
        """(B, 1) how many matches of each pair are looked at again."""
        total = torch.full_like(first[:, 0], first.shape[1]) if mask is None else mask.sum(1)
        wanted = torch.ceil(total * self.share).clamp(min=_FEWEST).long()
        return torch.maximum(wanted, (first > 0).sum(1)).minimum(total.long())[:, None]
