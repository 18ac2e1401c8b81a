"""What a match filter is built from."""

from __future__ import annotations

from dataclasses import dataclass

from n3match.matching.side_info import CHANGE_COLUMNS, NEUTRAL

COORDINATES = 4  # x0, y0, x1, y1


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
    mutual_only: bool = False  # matches known not to be mutual are left out, see `mutual_mask`
    refine: bool = False  # refinement passes over the better matches, see `passes.Refinement`
    refined_share: float = 0.5  # of the matches that a refinement pass goes over
    refinements: int = 1  # how many passes, each over what the one before said

    def __post_init__(self) -> None:
        # Configurations come back from JSON as lists.
        object.__setattr__(self, "n3_after", tuple(self.n3_after))
        object.__setattr__(self, "side_info", tuple(self.side_info))
        for name in (
            "width", "blocks", "neighbours", "embedding_width", "embedding_channels", "refinements"
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mutual_only and "mutual" not in self.side_info:
            raise ValueError(
                f'side_info: mutual_only needs "mutual" among them, got {self.side_info}'
            )
        if not 0.0 < self.refined_share <= 1.0:
            raise ValueError(f"refined_share must lie in 0 … 1, got {self.refined_share}")
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

    @property
    def columns(self) -> int:
        """Numbers known of each match: calibrated x0, y0, x1, y1, side information, change."""
        return COORDINATES + len(self.side_info) + CHANGE_COLUMNS * self.keypoint_change

    @property
    def neutral_side_info(self) -> tuple[float, ...]:
        """What each column of side information holds where nothing is known of a match."""
        return tuple(NEUTRAL.get(name, 0.0) for name in self.side_info)
