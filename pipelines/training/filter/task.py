"""Match filters, as a run trains them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from n3match.datasets.pairs.store import open_store, read_feature
from n3match.nn import MatchFilter
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.training.filter import objective
from n3match.pipelines.training.filter.batches import TrainingBatches
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.pipelines.training.filter.initial import load_initial, with_refinements
from n3match.pipelines.training.filter.validation import MARKS, Validation
from n3match.pipelines.training.run import Task


class FilterTask(Task):
    """Right and wrong matches told apart, and the essential matrix that follows."""

    name = "filter"
    marks = MARKS
    config: TrainingConfig

    def __init__(self, config: TrainingConfig):
        self.config = with_refinements(config)

    def network(self) -> MatchFilter:
        net = MatchFilter(replace(self.config.net, binary_descriptors=self._binary()))
        if self.config.verdict_only:
            net.pruning.freeze_stages()
        return net

    def _binary(self) -> bool:
        """Whether the descriptors behind all stores are binary."""
        kinds = set()
        for path in self.config.pairs:
            with open_store(path) as file:
                kinds.add(read_feature(file))
        return bool(kinds) and not kinds & {None, "sift"}

    def initialise(self, net: MatchFilter) -> None:
        if self.config.initial:
            load_initial(net, self.config.initial)

    def optimizer(self, net: MatchFilter) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), lr=self.config.rate)

    def batches(self, folder: Path, processes: Processes) -> TrainingBatches:
        return TrainingBatches(self.config, processes.rank, processes.size)

    def losses(
        self, net: MatchFilter, batch: dict[str, Tensor], step: int, processes: Processes
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return objective.losses(net, batch, self.config, step, processes)

    def validation(self) -> Validation | None:
        config = self.config
        if not config.validation:
            return None
        return Validation(config.validation, config.validation_estimator, config.validation_pairs)

    def notes(self) -> dict:
        # Only names: where files lay on the machine that trained is nobody's business.
        config = self.config
        return asdict(config) | {
            "pairs": [Path(store).name for store in config.pairs],
            "validation": [Path(store).name for store in config.validation],
            "initial": Path(config.initial).name,
        }
