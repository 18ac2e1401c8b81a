"""What determines the training of a match filter, and the named protocols."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from n3match.pipelines.training.config import RunConfig

if TYPE_CHECKING:  # torch takes seconds to load, `--help` should not
    from n3match.nn import MatchFilterConfig

# Networks by name: how each differs from `MatchFilterConfig()`. They see ratio and mutual flag,
# those with pruning all side information.
NETWORKS: dict[str, dict] = {
    "n3": {"n3_after": (6,)},  # as published
    "cnnet": {"n3_after": ()},  # as published
    "n3-two": {"n3_after": (4, 8)},
    "n3-three": {"n3_after": (3, 6, 9)},
    "n3-consensus": {"n3_after": (6,), "consensus": True},
    "n3-two-consensus": {"n3_after": (4, 8), "consensus": True},
    # Stages on ever fewer matches; and what stands in N³'s place there.
    "n3-prune": {"pruning": {}},
    # … at mutual matches; the verdict is on all, with neighbours of its own.
    "n3-prune-all": {"pruning": {"mutual_stages": True, "verdict_neighbours": 6}},
    "cnnet-prune": {"pruning": {"selection": "none"}},
    "knn-prune": {"pruning": {"selection": "knn"}},
    "concrete-prune": {"pruning": {"selection": "concrete"}},
}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(RunConfig):
    """What determines a run's curve."""

    network: str = "n3"
    refine: bool = False  # a refinement pass over the better matches; networks that prune have none
    refinements: int = 0  # how often it is run; 0: as in the weights to start from, else once
    pairs: tuple[str, ...] = ()  # HDF5 stores of real pairs
    pair_weights: tuple[float, ...] = ()  # how often each store is drawn; (): by its scenes
    generated: float = 0.5  # share of generated pairs in a batch
    side_info: bool = True  # the network sees ratio and mutual flag, with pruning all columns
    keypoint_change: bool = True  # … and how the keypoint turns and changes its size
    mutual_only: bool = False  # the network keeps no match that is known not to be mutual
    second_nearest: bool = False  # … nor among the two nearest both ways, which it sees as well
    verdict_only: bool = False  # of a network that prunes the verdict alone learns
    min_log_temperature: float = -math.inf  # lower bound of the N³ blocks' log temperatures
    augment: bool = True
    steps: int = 4000
    batch: int = 8  # pairs per step, of all processes together
    # Per pair, mutual ones where the network sees no others; each batch draws a number in between.
    min_matches: int = 500
    max_matches: int = 2000
    drop_side_info: float = 0.2  # share of pairs whose side information is withheld
    drop_candidates: float = 0.15  # … of which ratio and mutual flag alone are known
    # Share of pairs whose second nearest neighbours are withheld; the two above are of these alone.
    drop_second: float = 0.4
    drop_keypoint_change: float = 0.2  # share of pairs whose keypoint changes are withheld
    hard: float = 0.0  # how much more often hard pairs are drawn, see batches.py; 0: all alike
    label_threshold: float = 1e-4  # squared symmetric epipolar distance of a right match
    balance: float = 1.0  # of right and wrong matches in the loss, see losses.py; 1: published
    not_mutual: float = 1.0  # weight in the loss of right matches that aren't mutual
    essential_weight: float = 0.1  # of the distance of the essential matrices (published)
    geometric_weight: float = 0.0  # of the virtual matches' distances
    essential_after: int = 1500  # step from which these two count
    swapped_weight: float = 0.0  # of the disagreement with what is said of the images swapped
    clip: float = 1.0  # largest gradient norm; 0: any
    validation: tuple[str, ...] = ()  # HDF5 stores never trained on
    validate_every: int = 500  # steps
    validation_pairs: int = 100  # at most, evenly spread over the stores
    validation_estimator: str = "opencv_ransac"
    patience: int = 0  # validations without a better one after which the run ends; 0: never

    def __post_init__(self):
        super().__post_init__()
        self._check_known(network=NETWORKS)
        if not 0.0 <= self.generated <= 1.0:
            raise ValueError(f"generated must lie in 0 … 1, got {self.generated}")
        if not self.pairs and self.generated < 1.0:
            raise ValueError("pairs: no stores given; name some, or set generated to 1")
        self._check_weights("pairs", self.pair_weights, self.pairs)
        self._check_least(1, "batch", "validate_every", "validation_pairs")
        self._check_least(0, "patience", "refinements")
        for name in ("hard", "swapped_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 8 <= self.min_matches <= self.max_matches:
            raise ValueError(
                "min_matches must lie in 8 … max_matches, got "
                f"{self.min_matches} … {self.max_matches}"
            )
        if self.second_nearest and not self.mutual_only:
            raise ValueError("second_nearest: needs mutual_only, to which it adds; got False")
        if not 0.0 <= self.drop_second <= 1.0:
            raise ValueError(f"drop_second must lie in 0 … 1, got {self.drop_second}")
        if self.refinements and not self.refine:
            raise ValueError(f"refinements: {self.refinements} of them need refine, got False")
        if self.refinements > 1 and "pruning" in NETWORKS[self.network]:
            raise ValueError(
                f"refinements: {self.network} has stages in their place, got {self.refinements}"
            )
        if self.verdict_only and not (self.initial and "pruning" in NETWORKS[self.network]):
            raise ValueError(
                "verdict_only: wanted a network that prunes and weights to start from (initial), "
                f"got {self.network} and {self.initial or 'none'}"
            )
        if self.patience and not self.validation:
            raise ValueError("patience: needs validation stores, none given")
        if not self.min_log_temperature < math.inf:
            found = self.min_log_temperature
            raise ValueError(f"min_log_temperature must be a number or -inf, got {found}")
        twice = {Path(p).resolve() for p in self.pairs} & {
            Path(p).resolve() for p in self.validation
        }
        if twice:
            raise ValueError(f"validation: {sorted(map(str, twice))[0]} is trained on as well")

    @property
    def net(self) -> MatchFilterConfig:
        """The network's configuration."""
        from n3match.matching.side_info import SIDE_INFO
        from n3match.nn import MatchFilterConfig

        network = NETWORKS[self.network]
        prunes = "pruning" in network
        columns = SIDE_INFO if prunes else ("ratio", "mutual")
        bound = self.min_log_temperature
        return MatchFilterConfig(
            side_info=columns if self.side_info else (),
            keypoint_change=self.keypoint_change,
            mutual_only=self.mutual_only,
            second_nearest=self.second_nearest,
            min_log_temperature=None if math.isinf(bound) else bound,
            refine=self.refine and not prunes,  # whose stages are such passes
            refinements=max(1, self.refinements),
            **network,
        )


# Named protocols: how each differs from `TrainingConfig()`.
PROTOCOLS: dict[str, dict] = {
    # Yi et al. (CVPR 2018) and Plötz & Roth (NeurIPS 2018): coordinates alone, real pairs alone.
    "published": {
        "generated": 0.0,
        "side_info": False,
        "keypoint_change": False,
        "augment": False,
        "steps": 500_000,
        "batch": 32,
        "min_matches": 2000,
        "max_matches": 2000,
        "schedule": "constant",
        "warmup": 0,
        "essential_after": 20_000,
        "clip": 0.0,
    },
    # OANet's geometric loss and side information, generated pairs, augmentation, two passes.
    "modern": {
        "refine": True,
        "min_log_temperature": -4.0,
        "drop_side_info": 0.15,
        "drop_keypoint_change": 0.15,
        "warmup": 100,
        "label_threshold": 2e-5,
        "balance": 0.5,
        "not_mutual": 0.3,
        "essential_weight": 0.0,
        "geometric_weight": 0.5,
        "essential_after": 0,
        "clip": 2.0,
    },
}
