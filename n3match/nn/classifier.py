"""The match classifier: CNNet (Yi et al., CVPR 2018) and its N³ version, one class configured.

A linear layer lifts each match (x0, y0, x1, y1, side information, change of keypoint shape) to
`width` channels; residual blocks of two per-match linear layers follow, each with context
normalisation, batch normalisation and ReLU; a linear head gives a logit per match. With
`n3_after`, the block before each N³ block narrows to width/(K+1) channels, so that features and K
neighbours together are `width` again.

The published networks are the defaults: ``ClassifierConfig()`` is N³ after block 6 of 12,
``ClassifierConfig(n3_after=())`` is CNNet. With `refine`, a second network looks at the better
matches again, once or, with `refinements`, several times (`refinement`). With `pruning`, another
network stands in the place of both (`pruning`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from n3match.geometry import weighted_eight_point
from n3match.nn.consensus import SHAPE_COLUMNS
from n3match.nn.pruning import PruningConfig, PruningNetwork
from n3match.nn.refinement import Refinement
from n3match.nn.trunk import Trunk
from n3match.side_information import NEUTRAL


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is built from."""

    width: int = 128  # channels of every block
    blocks: int = 12  # residual blocks
    n3_after: tuple[int, ...] = (6,)  # an N³ block after these blocks (1-based); () is CNNet
    neighbours: int = 3  # K of the N³ blocks
    embedding_width: int = 128  # of the embedding and temperature networks
    embedding_channels: int = 32
    coldest: float | None = None  # lower bound of log temperatures; None: none, as published
    consensus: bool = False  # N³ blocks also see how the neighbours' motions differ
    side_information: tuple[str, ...] = ()  # names of extra input columns
    keypoint_shape: bool = False  # three more: how the keypoint turns and changes its size
    mutual_only: bool = False  # matches known not to be mutual are left out, see `considered`
    refine: bool = False  # a second pass over the better matches, see refinement.py
    refined_share: float = 0.5  # of the matches that the second pass looks at
    refinements: int = 1  # how often it looks, each time at what it said the last time
    pruning: PruningConfig | None = None  # stages on ever fewer matches in place of all the above

    def __post_init__(self):
        # Configurations come back from JSON as lists.
        object.__setattr__(self, "n3_after", tuple(self.n3_after))
        object.__setattr__(self, "side_information", tuple(self.side_information))
        if isinstance(self.pruning, dict):
            object.__setattr__(self, "pruning", PruningConfig(**self.pruning))
        for name in (
            "width", "blocks", "neighbours", "embedding_width", "embedding_channels", "refinements"
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mutual_only and "mutual" not in self.side_information:
            raise ValueError('mutual_only needs "mutual" among side_information, got none')
        if not 0.0 < self.refined_share <= 1.0:
            raise ValueError(f"refined_share must lie in 0 … 1, got {self.refined_share}")
        if self.pruning is not None and self.refine:
            raise ValueError("refine: found True with pruning, whose stages are such passes")
        if self.refinements > 1 and not self.refine:
            raise ValueError(f"refinements: {self.refinements} of them need refine, got False")
        for block in self.n3_after:
            if not 1 <= block < self.blocks:
                raise ValueError(f"n3_after must lie in 1 … {self.blocks - 1}, got {block}")
        if self.n3_after and self.width % (self.neighbours + 1):
            raise ValueError(
                f"width must be divisible by neighbours + 1 = {self.neighbours + 1}, "
                f"got {self.width}"
            )


@dataclass(frozen=True)
class FilterOutput:
    """What a filter says of B pairs of N matches."""

    logits: Tensor  # (B, N); positive: keep. −inf where the mask is False
    weights: Tensor  # (B, N) relu(tanh(logits)), in [0, 1)
    essential: Tensor  # (B, 3, 3) weighted eight-point, unit norm: x1ᵀ E x0 = 0
    earlier_logits: tuple[Tensor, ...]  # (B, N) of the passes before the last, if any; −inf
    # where a pass didn't look


class MatchClassifier(nn.Module):
    """Scores putative matches of image pairs; invariant to their order, for any number of them.

    Args:
        config: what it is built from; None for `ClassifierConfig()`.
    """

    def __init__(self, config: ClassifierConfig | None = None):
        super().__init__()
        self.config = config = config or ClassifierConfig()
        columns = 4 + len(config.side_information) + SHAPE_COLUMNS * config.keypoint_shape
        self.trunk = self.refinement = self.pruning = None
        if config.pruning is not None:
            shape_at = slice(4 + len(config.side_information), columns)
            self.pruning = PruningNetwork(columns, config.pruning, shape_at, config.coldest)
            return
        self.trunk = Trunk(columns, config)
        self.refinement = Refinement(columns, config) if config.refine else None

    def forward(
        self,
        points0: Tensor,
        points1: Tensor,
        side: Tensor | None = None,
        mask: Tensor | None = None,
        shape: Tensor | None = None,
    ) -> FilterOutput:
        """What the filter says of B pairs of N matches.

        Args:
            points0, points1: (B, N, 2) calibrated coordinates (K⁻¹ applied) of each match.
            side: (B, N, S) side information, columns named by `config.side_information`; None
                where it isn't known: its columns are then neutral (see `neutral_side`).
            mask: (B, N) bool, True for real matches, False for padding.
            shape: (B, N, 3) change of the keypoints' orientation and size, see
                `n3match.matching.relative_shape`; None where it isn't known. Only for networks
                with `config.keypoint_shape`; others don't look at it.

        Returns:
            `FilterOutput` of (B, N) logits and weights and (B, 3, 3) essential matrices.

        Raises:
            ValueError, TypeError: for shapes and types that don't fit, naming the argument.
        """
        matches = self._inputs(points0, points1, side, mask, shape)
        *earlier, logits = self._logits(matches, mask)
        with torch.autocast(matches.device.type, enabled=False):
            weights = torch.relu(torch.tanh(logits))
            essential = weighted_eight_point(
                matches[..., :2], matches[..., 2:4], weights, normalize=True
            )
        return FilterOutput(logits, weights, essential, tuple(earlier))

    def score(
        self,
        points0: Tensor,
        points1: Tensor,
        side: Tensor | None = None,
        mask: Tensor | None = None,
        shape: Tensor | None = None,
    ) -> Tensor:
        """The logits of `forward` alone, (B, N), without the eight-point algorithm.

        Args:
            points0, points1, side, mask, shape: as in `forward`.

        Raises:
            ValueError, TypeError: as there.
        """
        return self._logits(self._inputs(points0, points1, side, mask, shape), mask)[-1]

    def _logits(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Logits (B, N) of each pass, in their order; −inf where the mask is False."""
        if not self.config.mutual_only or not matches.shape[1]:
            return self._passes(matches, mask)
        looked = considered(matches[..., 4:], self.config, mask)
        left_out = matches.new_full(matches.shape[:2], _NOT_MUTUAL)
        if mask is not None:
            left_out = left_out.masked_fill(~mask, float("-inf"))
        if torch.compiler.is_compiling():  # a graph's shapes don't depend on values
            return tuple(torch.where(looked, x, left_out) for x in self._passes(matches, looked))
        counts = looked.sum(1)
        order = looked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(counts.max())]
        real = torch.arange(order.shape[1], device=order.device) < counts[:, None]
        chosen = matches.gather(1, order[..., None].expand(-1, -1, matches.shape[-1]))
        chosen = chosen.masked_fill(~real[..., None], 0.0)
        return tuple(
            left_out.scatter(1, order, torch.where(real, x, left_out.gather(1, order)))
            for x in self._passes(chosen, real)
        )

    def _passes(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        if self.pruning is not None:
            return self.pruning(matches, mask)
        # Under autocast the head answers in half precision; what follows is epipolar geometry.
        logits = self.trunk(matches, mask).to(matches.dtype)
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        passes = [logits]
        if self.refinement is not None and matches.shape[1]:
            for _ in range(self.config.refinements):
                passes.append(self.refinement(matches, passes[-1], mask))
        return tuple(passes)

    def _inputs(self, points0, points1, side, mask, shape) -> Tensor:
        check_matches(points0, points1, side, mask, shape, self.config.side_information)
        columns = [points0, points1]
        if self.config.side_information:
            columns.append(neutral_side(points0, self.config) if side is None else side)
        if self.config.keypoint_shape:
            unknown = points0.new_zeros(*points0.shape[:2], SHAPE_COLUMNS)
            columns.append(unknown if shape is None else shape)
        matches = torch.cat(columns, -1)
        return matches if mask is None else matches.masked_fill(~mask[..., None], 0.0)


_NOT_MUTUAL = -8.0  # the logit of such a match


def neutral_side(like: Tensor, config: ClassifierConfig) -> Tensor:
    """(B, N, S) side information of matches of which nothing is known."""
    values = [NEUTRAL.get(name, 0.0) for name in config.side_information]
    return like.new_tensor(values).expand(*like.shape[:2], len(values))


def considered(side: Tensor, config: ClassifierConfig, mask: Tensor | None = None) -> Tensor:
    """(B, N) bool, the matches that a network looks at.

    With `config.mutual_only` these are the mutual ones, in pairs where that is known (where any is
    mutual). A point has one image at most: of several keypoints matched to the same one, those that
    aren't its nearest are wrong, or right by a few pixels only; and the fewer wrong ones there are,
    the more the statistics of all matches say.

    Args:
        side: (B, N, S) side information, or more columns behind it.
        config: of the network.
        mask: (B, N) bool, False for padding; None: there is none.
    """
    everything = torch.ones_like(side[..., 0], dtype=torch.bool) if mask is None else mask
    if not config.mutual_only:
        return everything
    mutual = (side[..., config.side_information.index("mutual")] > 0) & everything
    return torch.where(mutual.any(1, keepdim=True), mutual, everything)


def check_matches(points0, points1, side, mask, shape, side_names) -> None:
    for name, points in (("points0", points0), ("points1", points1)):
        if not isinstance(points, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(points).__name__}")
        if points.ndim != 3 or points.shape[-1] != 2:
            raise ValueError(f"{name} must have shape (B, N, 2), got {tuple(points.shape)}")
        if not points.dtype.is_floating_point:
            raise TypeError(f"{name} must be floating point, got {points.dtype}")
    if points0.shape != points1.shape:
        raise ValueError(
            "points0 and points1 must have one shape, "
            f"got {tuple(points0.shape)} and {tuple(points1.shape)}"
        )
    b, n = points0.shape[:2]
    if side is not None and tuple(side.shape) != (b, n, len(side_names)):
        raise ValueError(
            f"side must have shape (B, N, S) = {(b, n, len(side_names))} "
            f"with columns {tuple(side_names)}, got {tuple(side.shape)}"
        )
    if shape is not None and tuple(shape.shape) != (b, n, SHAPE_COLUMNS):
        raise ValueError(
            f"shape must have shape (B, N, 3) = {(b, n, SHAPE_COLUMNS)}, got {tuple(shape.shape)}"
        )
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (b, n)):
        raise ValueError(
            f"mask must be bool of shape (B, N) = {(b, n)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    if torch.compiler.is_compiling():
        return  # a graph has no place for questions about values
    for name, tensor in (
        ("points0", points0), ("points1", points1), ("side", side), ("shape", shape)
    ):
        if tensor is None:
            continue
        shown = tensor if mask is None else tensor[mask]
        if not bool(torch.isfinite(shown).all()):
            raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
