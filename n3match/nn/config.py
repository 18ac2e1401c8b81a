"""What a match filter is built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from n3match.arguments import instance, one_of, real, sequence, whole
from n3match.matching.side_info import CHANGE_COLUMNS, NEUTRAL

COORDINATES = 4  # x0, y0, x1, y1
# Chosen on the validation scenes: at 2 000 keypoints second nearest neighbours win 2 to 3 points,
# at 4 000 and 8 000 none (docs/results/ablations.md), for three times the filter's time.
MOST_WITH_SECOND = 2500
# More than any use has: a damaged file of weights must not ask for more.
_WIDEST, _MOST_BLOCKS = 2**14, 2**9
SELECTIONS = ("n3", "knn", "concrete", "none")


def _wholes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Numbers of 1 and more; from JSON they come as a list."""
    return tuple(whole(name, n, 1, _WIDEST) for n in sequence(name, values, "numbers"))


def pruning_config(fields: dict) -> PruningConfig:
    """From its fields by name.

    Raises:
        ValueError: one that isn't known, or out of range.
    """
    unknown = set(fields) - {field.name for field in dataclasses.fields(PruningConfig)}
    if unknown:
        raise ValueError(f"pruning: found {sorted(map(str, unknown))}, which aren't known")
    return PruningConfig(**fields)


@dataclass(frozen=True)
class PruningConfig:
    """What a pruning network is built from, see `pruning`."""

    widths: tuple[int, ...] = (128, 96, 64)  # channels of each stage
    blocks: int = 2  # residual blocks of a stage before its neighbours, and as many behind them
    selection: str = "n3"  # of neighbours: one of SELECTIONS; none: a stage without them
    neighbours: int = 6  # K
    embedding_channels: int = 16  # of the space in which neighbours are sought
    value_channels: int = 32  # of the features that neighbours show of themselves
    kept_share: float = 0.5  # of a stage's matches that the next one looks at
    verdict_width: int = 32  # of the network that judges all matches at the end
    verdict_neighbours: int = 0  # K of those that it sees of each match, among the last stage's
    mutual_stages: bool = False  # the stages look at mutual matches alone; the verdict is on all

    def __post_init__(self) -> None:
        # Configurations come back from JSON as lists.
        object.__setattr__(self, "widths", _wholes("widths", self.widths))
        one_of("selection", self.selection, SELECTIONS)
        if not 0 < len(self.widths) <= _MOST_BLOCKS:
            raise ValueError(f"widths must be 1 to {_MOST_BLOCKS}, got {len(self.widths)} of them")
        whole("blocks", self.blocks, 1, _MOST_BLOCKS)
        for name in ("neighbours", "embedding_channels", "value_channels", "verdict_width"):
            whole(name, getattr(self, name), 1, _WIDEST)
        if not 0.0 < real("kept_share", self.kept_share) <= 1.0:
            raise ValueError(f"kept_share must lie in 0 … 1, got {self.kept_share}")
        whole("verdict_neighbours", self.verdict_neighbours, 0, _WIDEST)
        instance("mutual_stages", self.mutual_stages, bool)
        if self.verdict_neighbours and self.selection == "none":
            raise ValueError(
                f"verdict_neighbours: {self.verdict_neighbours} of them need a selection, got none"
            )


@dataclass(frozen=True)
class MatchFilterConfig:
    """What a match filter is built from."""

    width: int = 128  # channels of every block
    blocks: int = 12  # residual blocks
    n3_after: tuple[int, ...] = (6,)  # an N³ block after these blocks (1-based); () is CNNet
    neighbours: int = 3  # K of the N³ blocks
    embedding_width: int = 128  # of the embedding and temperature networks
    embedding_channels: int = 32
    min_log_temperature: float | None = None  # None: no bound, as published
    consensus: bool = False  # N³ blocks also see how the neighbours' motions differ
    side_info: tuple[str, ...] = ()  # names of extra input columns
    keypoint_change: bool = False  # three more: how the keypoint turns and changes its size
    binary_descriptors: bool = False  # learnt what ratios of Hamming distances mean, not of others
    mutual_only: bool = False  # matches known not to be mutual are left out, see `mutual_mask`
    # Is shown second nearest neighbours, too, of pairs of few keypoints (`wants_second`): the
    # column `mutual` is then 1 where each is among the other's two nearest.
    second_nearest: bool = False
    refine: bool = False  # refinement passes over the better matches, see `passes.Refinement`
    refined_share: float = 0.5  # of the matches that a refinement pass goes over
    refinements: int = 1  # how many passes, each over what the one before said
    pruning: PruningConfig | None = None  # stages on ever fewer matches in place of all the passes

    def __post_init__(self) -> None:
        # Configurations come back from JSON as lists.
        object.__setattr__(self, "n3_after", _wholes("n3_after", self.n3_after))
        object.__setattr__(
            self, "side_info", tuple(sequence("side_info", self.side_info, "names"))
        )
        if not all(isinstance(name, str) for name in self.side_info):
            raise TypeError(f"side_info must be names, got {self.side_info}"[:300])
        if isinstance(self.pruning, dict):
            object.__setattr__(self, "pruning", pruning_config(self.pruning))
        if self.pruning is not None:
            instance("pruning", self.pruning, PruningConfig)
        for name in ("width", "neighbours", "embedding_width", "embedding_channels"):
            whole(name, getattr(self, name), 1, _WIDEST)
        for name in ("blocks", "refinements"):
            whole(name, getattr(self, name), 1, _MOST_BLOCKS)
        for name in (
            "consensus", "keypoint_change", "binary_descriptors", "mutual_only", "second_nearest",
            "refine",
        ):
            instance(name, getattr(self, name), bool)
        if self.min_log_temperature is not None:
            real("min_log_temperature", self.min_log_temperature)
        mutual_stages = self.pruning is not None and self.pruning.mutual_stages
        for name, asked in (("mutual_only", self.mutual_only), ("mutual_stages", mutual_stages)):
            if asked and "mutual" not in self.side_info:
                raise ValueError(
                    f'side_info: {name} needs "mutual" among them, got {self.side_info}'
                )
        if self.second_nearest and not self.mutual_only:
            raise ValueError("second_nearest: found True without mutual_only, to which it adds")
        if not 0.0 < real("refined_share", self.refined_share) <= 1.0:
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

    def wants_second(self, count: int) -> bool:
        """Whether the filter is to be shown second nearest neighbours.

        Args:
            count: keypoints of image 0. Where they are many, right matches are dense without.

        Raises:
            ValueError, TypeError: no whole number of 0 or more.
        """
        return whole("count", count, 0) <= MOST_WITH_SECOND and self.second_nearest

    @property
    def columns(self) -> int:
        """Numbers known of each match: calibrated x0, y0, x1, y1, side information, change."""
        return COORDINATES + len(self.side_info) + CHANGE_COLUMNS * self.keypoint_change

    @property
    def change_columns(self) -> slice:
        """Which of them hold the keypoints' change; none where it isn't known."""
        return slice(COORDINATES + len(self.side_info), self.columns)

    @property
    def neutral_side_info(self) -> tuple[float, ...]:
        """What each column of side information holds where nothing is known of a match."""
        return tuple(NEUTRAL.get(name, 0.0) for name in self.side_info)
