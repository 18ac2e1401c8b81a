"""The pruning match classifier: look, keep the better half, look again, then judge all matches.

Among all putative matches most are wrong. Each stage looks at those that the one before liked best,
N, then N/2, then N/4, with a narrower network: there right matches are denser, and context
normalisation and neighbours say more. At the end the weighted eight-point algorithm gives the
geometry of the last stage, and a small network judges *all* matches by how far they are from it.
Pruning is that of CLNet (Zhao et al., ICCV 2021), which seeks neighbours by a hard top-k; here they
are those of the N³ operator, so that the search is trained as well.

B pairs · N matches · C columns known of each match, calibrated x0, y0, x1, y1 first
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from n3match.nn.epipolar_evidence import closeness, essential_of_logits, evidence, flattened
from n3match.nn.neighbour_edges import NeighbourEdges
from n3match.nn.refinement import EVIDENCE_COLUMNS
from n3match.nn.trunk import ResidualBlock

SELECTIONS = ("n3", "knn", "concrete", "none")
_DETERMINED = 8  # matches that determine an essential matrix
_FEWEST = 32  # matches that a stage looks at, where there are so many


@dataclass(frozen=True)
class PruningConfig:
    """What a pruning network is built from."""

    widths: tuple[int, ...] = (128, 96, 64)  # channels of each stage
    blocks: int = 2  # residual blocks of a stage before its neighbours, and as many behind them
    selection: str = "n3"  # of neighbours: one of SELECTIONS; none: a stage without them
    neighbours: int = 6  # K
    embedding_channels: int = 16  # of the space in which neighbours are sought
    value_channels: int = 32  # of the features that neighbours show of themselves
    kept_share: float = 0.5  # of a stage's matches that the next one looks at
    verdict_width: int = 32  # of the network that judges all matches at the end

    def __post_init__(self):
        # Configurations come back from JSON as lists.
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {SELECTIONS}, got {self.selection!r}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be one or more, each at least 1, got {self.widths}")
        for name in (
            "blocks", "neighbours", "embedding_channels", "value_channels", "verdict_width"
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.kept_share <= 1.0:
            raise ValueError(f"kept_share must lie in 0 … 1, got {self.kept_share}")


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
        columns: C.
        width: of this stage; before: of the features of the stage before it, 0: it is the first.
        config: of the whole network.
        keypoint_columns: numbers of the change of the keypoints' shape behind the side information,
            0 where the network doesn't know it; and where they are.
        coldest: see `neighbour_edges.NeighbourEdges`.
    """

    def __init__(
        self,
        columns: int,
        width: int,
        before: int,
        config: PruningConfig,
        shape_at: slice,
        coldest: float | None,
    ):
        super().__init__()
        self.lift = nn.Linear(columns + (EVIDENCE_COLUMNS if before else 0), width)
        self.carry = nn.Linear(before, width, bias=False) if before else None
        self.first = nn.ModuleList(ResidualBlock(width, width) for _ in range(config.blocks))
        self.edges = None
        if config.selection != "none":
            self.edges = NeighbourEdges(
                columns,
                width,
                shape_at,
                k=config.neighbours,
                embedding_channels=config.embedding_channels,
                value_channels=config.value_channels,
                selection=config.selection,
                coldest=coldest,
            )
        self.graph = GlobalGraph(width)
        self.second = nn.ModuleList(ResidualBlock(width, width) for _ in range(config.blocks))
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
            x = self.lift(matches)
        else:
            x = self.lift(torch.cat([matches, known], -1)) + self.carry(features)
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
        columns: C.
        config: see `PruningConfig`.
        shape_at: columns that hold the change of the keypoints' shape; empty where there is none.
        coldest: lower bound of log temperatures; None: none.
    """

    def __init__(
        self, columns: int, config: PruningConfig, shape_at: slice, coldest: float | None = None
    ):
        super().__init__()
        self.share = config.kept_share
        before = (0, *config.widths[:-1])
        self.stages = nn.ModuleList(
            Stage(columns, width, previous, config, shape_at, coldest)
            for width, previous in zip(config.widths, before)
        )
        # Closeness to the geometry found, the first logit, the last one, and of which stage it is.
        self.judge = nn.Linear(columns + 4, config.verdict_width)
        self.block = ResidualBlock(config.verdict_width, config.verdict_width)
        self.head = nn.Linear(config.verdict_width, 1)

    def forward(self, matches: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """matches (B, N, C), mask (B, N) bool or None -> logits (B, N) of every stage and, last, of
        the verdict. −inf where the mask is False, and in a stage where it didn't look."""
        b, n = matches.shape[:2]
        if not n:
            return (matches.new_zeros(b, 0),)
        if mask is not None and not torch.compiler.is_compiling() and bool(mask.all()):
            mask = None  # nothing is padding: spare every layer the masking
        features, logits = self.stages[0](matches, None, None, mask)
        found, here, real = [logits], matches, mask
        place = torch.arange(n, device=matches.device).expand(b, n)
        nowhere = matches.new_full((b, n), float("-inf"))
        for stage in self.stages[1:]:
            known = evidence(here, logits, real, _DETERMINED)
            chosen, real = better(logits, real, self.share)
            here, known, features = (_take(t, chosen, real) for t in (here, known, features))
            place = place.gather(1, chosen)
            features, logits = stage(here, known, features, real)
            found.append(nowhere.scatter(1, place, logits))
        with torch.no_grad(), torch.autocast(matches.device.type, enabled=False):
            essential = essential_of_logits(here, logits, _DETERMINED)
        return (*found, self._verdict(matches, essential, found, mask))

    def _verdict(
        self, matches: Tensor, essential: Tensor, found: list[Tensor], mask: Tensor | None
    ) -> Tensor:
        """(B, N) logits of all matches. What was said before is taken as it is: the stages learn
        from their own losses."""
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
        x = self.block(torch.relu(self.judge(torch.cat([matches, said], -1))), weight)
        logits = self.head(x)[..., 0].to(matches.dtype)
        return logits if mask is None else logits.masked_fill(~mask, float("-inf"))


def better(logits: Tensor, mask: Tensor | None, share: float) -> tuple[Tensor, Tensor | None]:
    """The better share of each pair's matches, best first.

    Args:
        logits: (B, N), −inf where the mask is False; mask: (B, N) bool or None; share: in (0, 1].

    Returns:
        (B, M) int64 places, and (B, M) bool or None: False where a pair has fewer than M. In a
        graph, whose shapes don't depend on values, M = N and all places stand in their order.
    """
    n = logits.shape[1]
    chosen = logits.detach().argsort(dim=1, descending=True, stable=True)
    if mask is None and not torch.compiler.is_compiling():
        return chosen[:, : min(n, max(_FEWEST, -int(-n * share // 1)))], None
    total = torch.full_like(chosen[:, 0], n) if mask is None else mask.sum(1)
    counts = torch.ceil(total * share).long().clamp(min=_FEWEST).minimum(total)
    places = torch.arange(n, device=logits.device).expand_as(chosen)
    if torch.compiler.is_compiling():
        looked = torch.zeros_like(chosen).scatter(1, chosen, places) < counts[:, None]
        return places, looked
    most = int(counts.max())
    return chosen[:, :most], places[:, :most] < counts[:, None]


def _take(x: Tensor, chosen: Tensor, real: Tensor | None) -> Tensor:
    """(B, N, D) and (B, M) -> (B, M, D), zeros where `real` is False."""
    x = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
    return x if real is None else x.masked_fill(~real[..., None], 0.0)
