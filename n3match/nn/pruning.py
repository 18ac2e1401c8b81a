"""Pruning for the match filter: look, keep the better half, look again, then judge all matches.

Among all putative matches most are wrong. Each stage looks at those that the one before liked best,
N, then N/2, then N/4, with a narrower network: there right matches are denser, and context
normalisation and neighbours say more. At the end the weighted eight-point algorithm gives the
geometry of the last stage, and a small network judges *all* matches by how far they are from it
and, where it has neighbours, by how those of the last stage move that lie near them. The stages may
keep to mutual matches, few and dense, and the verdict still be on all.
Pruning is that of CLNet (Zhao et al., ICCV 2021), which seeks neighbours by a hard top-k; here they
are those of the N³ operator, so that the search is trained as well.

B pairs · N matches · C columns known of each match, calibrated x0, y0, x1, y1 first
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from n3match import ops
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn.config import COORDINATES, MatchFilterConfig
from n3match.nn.consensus import bounded, motion_features
from n3match.nn.epipolar_evidence import (
    EVIDENCE_COLUMNS,
    closeness,
    essential_of_logits,
    evidence,
    flattened,
)
from n3match.nn.passes import ResidualBlock, chosen_first, known_mutual, lifted
from n3match.ops.checks import may_look

_NEAR = 0.05  # calibrated units: neighbours are about so near at the start
_MOTION = 5  # columns of `motion_features` beside the differences of a match's own
_DETERMINED = 8  # matches that determine an essential matrix
_FEWEST = 32  # matches that a stage looks at, where there are so many


class NeighbourEdges(nn.Module):
    """K neighbours of each match among all, and what the edges to them say.

    Neighbours are sought in a learned map of features and place: at the start by place in both
    images, so that a right match has right ones for neighbours where most are wrong. An edge shows
    how the neighbour's features differ from the match's own, and whether it moves as the match
    does (`consensus.motion_features`). A layer looks at each edge, another at all K in their order:
    the K distributions of the operator are ordered, nearest first.

    Args:
        config: of the whole filter, with pruning. Selection "concrete" has noise in training alone.
        width: of the features.
        k: how many neighbours, K.
    """

    def __init__(self, config: MatchFilterConfig, width: int, k: int):
        super().__init__()
        pruning = config.pruning
        self.k, self.selection = k, pruning.selection
        self.min_log_temperature = config.min_log_temperature
        self.change_columns = config.change_columns
        embedding_channels, value_channels = pruning.embedding_channels, pruning.value_channels
        self.embedding = nn.Linear(width, embedding_channels, bias=False)
        self.place = nn.Linear(config.columns, embedding_channels, bias=False)
        self.temperature = nn.Linear(width, 1)
        self.value = nn.Linear(width, value_channels)
        own = COORDINATES + CHANGE_COLUMNS * config.keypoint_change
        self.edge = nn.Linear(value_channels + own + _MOTION, value_channels)
        self.own = nn.Linear(value_channels, value_channels)
        self.out = nn.Linear(self.k * value_channels, width)
        nn.init.zeros_(self.temperature.weight)
        nn.init.zeros_(self.temperature.bias)
        with torch.no_grad():
            self.place.weight.zero_()
            size = min(COORDINATES, embedding_channels)
            self.place.weight[:size, :size].copy_(torch.eye(size) / _NEAR)

    def forward(
        self, x: Tensor, matches: Tensor, mask: Tensor | None, among: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            x: (B, N, width); matches: (B, N, C).
            mask: (B, M) bool or None, False for what is nobody's neighbour.
            among: (B, M) places of those that may be neighbours. None: all, M = N; no match is then
                its own neighbour, else it may be.

        Returns:
            (B, N, width).
        """
        own = torch.cat([matches[..., :COORDINATES], matches[..., self.change_columns]], -1)
        value = self.value(x)
        embedding, temperature = self.embedding(x), self.temperature(x)
        with torch.autocast(x.device.type, enabled=False):  # distances need their digits
            embedding = embedding.to(matches.dtype) + self.place(matches)
            temperature = bounded(temperature.to(matches.dtype), self.min_log_temperature)
            shown = torch.cat([value.to(matches.dtype), own], -1)
            key = embedding
            if among is not None:
                key, shown = (_take(t, among, mask) for t in (key, shown))
            z = ops.n3_aggregate(
                embedding, key, shown, self.k, temperature, mask=mask, exclude_self=among is None,
                selection=self.selection, generator=self._noise(),
            )  # fmt: skip
        channels = value.shape[-1]
        edges = torch.cat(
            [z[..., :channels] - value[..., None, :], motion_features(own, z[..., channels:])], -1
        )
        seen = torch.relu(self.edge(edges) + self.own(value)[..., None, :])
        return torch.relu(self.out(seen.flatten(2)))

    def _noise(self) -> torch.Generator | None:
        if self.selection != "concrete" or not self.training:
            return None
        # Seeded by the global generator: a run that sets that one has the same noise again.
        return torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))


class GlobalGraph(nn.Module):
    """Each match takes from a weighted mean of all, as much as it has weight itself.

    With weights w this is a graph that joins i and j by w_i w_j: a matrix of rank one, so that its
    product with the features costs no more than reading them.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Linear(width, 1)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """(B, N, width) -> the same; weight (B, N, 1), 0 for padding, or None."""
        w = torch.sigmoid(self.weight(x))
        if weight is not None:
            w = w * weight
        mean = (w.mT @ x) / w.square().sum(1, keepdim=True).clamp(min=1e-3)
        return x + w * torch.relu(self.linear(mean))


class Stage(nn.Module):
    """One look at some of the matches: features and a logit for each.

    Args:
        config: of the whole filter, with pruning.
        width: of this stage.
        before: of the features of the stage before it; 0: it is the first.
    """

    def __init__(self, config: MatchFilterConfig, width: int, before: int):
        super().__init__()
        blocks = config.pruning.blocks
        self.lift = nn.Linear(config.columns + (EVIDENCE_COLUMNS if before else 0), width)
        self.carry = nn.Linear(before, width, bias=False) if before else None
        self.first = nn.ModuleList(ResidualBlock(width, width) for _ in range(blocks))
        self.edges = None
        if config.pruning.selection != "none":
            self.edges = NeighbourEdges(config, width, config.pruning.neighbours)
        self.graph = GlobalGraph(width)
        self.second = nn.ModuleList(ResidualBlock(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 1)

    def forward(
        self, matches: Tensor, known: Tensor | None, features: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            matches: (B, N, C); known: (B, N, 2) evidence and features: (B, N, before) of the stage
                before, None in the first; mask: (B, N) bool, False for padding, or None.

        Returns:
            (B, N, width) features and (B, N) logits, −inf where the mask is False.
        """
        weight = None if mask is None else mask[..., None].to(matches)
        if self.carry is None:
            x = lifted(self.lift, matches)
        else:
            seen = torch.cat([matches, known], -1)
            x = lifted(self.lift, seen) + self.carry(features)
        for block in self.first:
            x = block(x, weight)
        if self.edges is not None:
            x = x + self.edges(x, matches, mask)
        x = self.graph(x, weight)
        for block in self.second:
            x = block(x, weight)
        # Under autocast the head answers in half precision; what follows is epipolar geometry.
        logits = self.head(x)[..., 0].to(matches.dtype)
        return x, logits if mask is None else logits.masked_fill(~mask, float("-inf"))


class PruningNetwork(nn.Module):
    """Stages on ever fewer matches, then a verdict on all of them.

    Args:
        config: of the whole filter, with pruning.
    """

    def __init__(self, config: MatchFilterConfig):
        super().__init__()
        pruning = config.pruning
        self.share = pruning.kept_share
        before = (0, *pruning.widths[:-1])
        self.stages = nn.ModuleList(
            Stage(config, width, previous) for width, previous in zip(pruning.widths, before)
        )
        # Closeness to the geometry found, the first logit, the last one, and of which stage it is.
        width = pruning.verdict_width
        self.judge = nn.Linear(config.columns + 4, width)
        self.edges = None
        if pruning.verdict_neighbours:
            self.edges = NeighbourEdges(config, width, pruning.verdict_neighbours)
        self.mutual = None
        if pruning.mutual_stages:
            self.mutual = COORDINATES + config.side_info.index("mutual")
        self.block = ResidualBlock(width, width)
        self.head = nn.Linear(width, 1)

    def freeze_stages(self) -> None:
        """From now on the verdict alone learns; the stages are as in eval mode, always."""
        self.stages.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PruningNetwork:
        super().train(mode)
        if not next(self.stages.parameters()).requires_grad:
            self.stages.eval()
        return self

    def forward(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """matches (B, N, C), mask (B, N) bool or None -> logits (B, N) of every stage and, last, of
        the verdict. −inf where the mask is False, and in a stage where it didn't look."""
        b, n = matches.shape[:2]
        if not n:
            return (matches.new_zeros(b, 0),)
        if mask is not None and may_look(mask) and bool(mask.all()):
            mask = None  # nothing is padding: spare every layer the masking
        here, real = matches, mask
        place = torch.arange(n, device=matches.device).expand(b, n)
        nowhere = matches.new_full((b, n), float("-inf"))
        if self.mutual is not None:
            real = known_mutual(matches[..., self.mutual], mask)
            looks = may_look(real)
            if looks:  # else shapes don't depend on values
                place, real = chosen_first(real)
            here = _take(matches, place, real)
            if looks and bool(real.all()):
                real = None
        features, logits = self.stages[0](here, None, None, real)
        found = [logits if self.mutual is None else nowhere.scatter(1, place, logits)]
        for stage in self.stages[1:]:
            known = evidence(here, logits, real, _DETERMINED)
            chosen, real = better(logits, real, self.share)
            here, known, features = (_take(t, chosen, real) for t in (here, known, features))
            place = place.gather(1, chosen)
            features, logits = stage(here, known, features, real)
            found.append(nowhere.scatter(1, place, logits))
        with torch.no_grad(), torch.autocast(matches.device.type, enabled=False):
            essential = essential_of_logits(here, logits, _DETERMINED)
        return (*found, self._verdict(matches, essential, found, mask, place, real))

    def _verdict(
        self,
        matches: Tensor,
        essential: Tensor,
        found: list[Tensor],
        mask: Tensor | None,
        place: Tensor,
        real: Tensor | None,
    ) -> Tensor:
        """(B, N) logits of all matches; place, real (B, M): those of the last stage. What was said
        before is taken as it is: the stages learn from their own losses."""
        with torch.no_grad():
            last, reached = found[0], torch.zeros_like(found[0])
            for logits in found[1:]:
                looked = logits.isfinite()
                last = torch.where(looked, logits, last)
                reached = reached + looked.to(reached) / len(found)
            said = [closeness(matches, essential), flattened(found[0]), flattened(last), reached]
            said = torch.stack(said, -1)
            if mask is not None:
                said = said.masked_fill(~mask[..., None], 0.0)
        weight = None if mask is None else mask[..., None].to(matches)
        x = torch.relu(lifted(self.judge, torch.cat([matches, said], -1)))
        if self.edges is not None:
            x = x + self.edges(x, matches, real, place)
        x = self.block(x, weight)
        logits = self.head(x)[..., 0].to(matches.dtype)
        return logits if mask is None else logits.masked_fill(~mask, float("-inf"))


def better(logits: Tensor, mask: Tensor | None, share: float) -> tuple[Tensor, Tensor | None]:
    """The better share of each pair's matches, best first.

    Args:
        logits: (B, N), −inf where the mask is False; mask: (B, N) bool or None; share: in (0, 1].

    Returns:
        (B, M) int64 places, and (B, M) bool or None: False where a pair has fewer than M, the
        better share of N. In a graph, where N need not be a number, M = N and all places stand in
        their order.
    """
    n = logits.shape[1]
    chosen = logits.detach().argsort(dim=1, descending=True, stable=True)
    if not torch.compiler.is_compiling():
        chosen = chosen[:, : min(n, max(_FEWEST, -int(-n * share // 1)))]
        if mask is None:
            return chosen, None
    total = torch.full_like(chosen[:, 0], n) if mask is None else mask.sum(1)
    counts = torch.ceil(total * share).long().clamp(min=_FEWEST).minimum(total)
    places = torch.arange(chosen.shape[1], device=logits.device).expand_as(chosen)
    if torch.compiler.is_compiling():
        looked = torch.zeros_like(chosen).scatter(1, chosen, places) < counts[:, None]
        return places, looked
    return chosen, places < counts[:, None]


def _take(x: Tensor, chosen: Tensor, real: Tensor | None) -> Tensor:
    """(B, N, D) and (B, M) -> (B, M, D), zeros where `real` is False."""
    x = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
    return x if real is None else x.masked_fill(~real[..., None], 0.0)
