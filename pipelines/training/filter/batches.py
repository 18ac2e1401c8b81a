"""Where a run's batches come from: stores of real pairs and generated geometry, mixed.

Pair number `place` of batch number `step` is a function of the seed, these two numbers and the data
alone. So a run can go on anywhere, any process can make its share of a batch by itself, and in
whatever order batches are made, they are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from n3match.datasets.pairs.augment import (
    GENERATED_AUGMENTATION,
    NO_AUGMENTATION,
    Augmentation,
    augment,
)
from n3match.datasets.pairs.batches import collate
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.synthetic.pairs import SyntheticPairs
from n3match.pipelines.training.filter.config import TrainingConfig

# Pairs are kept in memory once read, up to so many bytes: reading one takes milliseconds.
_KEEP_BYTES = 2 << 30


class RealPairs:
    """Samples (datasets/pairs/sample.py) of stores, drawn by store and scene.

    A store is drawn by its weight, then a scene of it in proportion to the square root of its
    number of pairs, then a pair of the scene. Without weights, all scenes are those of one store.

    Raises:
        FileNotFoundError, ValueError: as `PairDataset`; a store without pairs.
    """

    def __init__(self, stores: Sequence[str | Path], weights: Sequence[float] = ()):
        self._data = PairDataset(list(stores))
        self._kept: dict[int, dict] = {}
        self._bytes = 0
        members: dict[tuple[int, str], list[int]] = {}
        start = 0
        for number, store in enumerate(stores):
            count = len(PairDataset(store))
            if not count:
                raise ValueError(f"{store}: has no pairs")
            for index in range(start, start + count):
                members.setdefault((number, self._data.scenes[index]), []).append(index)
            start += count
        self._members = [np.array(members[scene]) for scene in sorted(members)]
        chance = np.sqrt([len(pairs) for pairs in self._members])
        if len(weights):
            of_scene = np.array([number for number, _ in sorted(members)])
            for number, weight in enumerate(weights):
                chance[of_scene == number] *= weight / chance[of_scene == number].sum()
        self._cumulative = np.cumsum(chance)

    def draw(self, rng: np.random.Generator) -> dict:
        """One of the pairs."""
        scene = np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1], "right")
        members = self._members[min(int(scene), len(self._members) - 1)]
        return self._sample(int(members[rng.integers(len(members))]))

    def _sample(self, index: int) -> dict:
        if index in self._kept:
            return self._kept[index]
        item = self._data[index]
        sample = {key: item[key].numpy().astype(np.float32) for key in _ARRAYS}
        sample["E"] /= np.linalg.norm(sample["E"])
        sample["distances"] = item["ys"].numpy().astype(np.float32)
        size = sum(array.nbytes for array in sample.values())
        if self._bytes + size <= _KEEP_BYTES:
            self._kept[index] = sample
            self._bytes += size
        return sample

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": {}, "_bytes": 0}  # sent to other processes


_ARRAYS = ("x", "side_info", "keypoint_change", "R", "t", "E")


class TrainingBatches(torch.utils.data.Dataset):
    """Batch number `step`, or one process's share of it, by ``batches[step]``.

    Args:
        rank, size: this process takes places rank, rank + size, … of each batch.

    Raises:
        ValueError: the batch can't be shared evenly. Otherwise as `RealPairs`.
    """

    def __init__(self, config: TrainingConfig, rank: int = 0, size: int = 1):
        if config.batch % size:
            raise ValueError(
                f"batch must be divisible by the number of processes, got {config.batch} "
                f"pairs for {size}"
            )
        self._config = config
        self._places = range(rank, config.batch, size)
        real = config.pairs and config.generated < 1
        self._real = RealPairs(config.pairs, config.pair_weights) if real else None
        most = config.max_matches
        self._generated = SyntheticPairs(config.seed, (most, most)) if config.generated else None
        self._augment, self._augment_generated = NO_AUGMENTATION, NO_AUGMENTATION
        if config.augment:
            dropped = {
                "drop_side_info": config.drop_side_info,
                "drop_keypoint_change": config.drop_keypoint_change,
            }
            self._augment = Augmentation(**dropped)
            self._augment_generated = replace(GENERATED_AUGMENTATION, **dropped)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """See `collate`; the number of matches is drawn for the whole batch."""
        config = self._config
        low, high = config.min_matches, config.max_matches
        share = np.random.default_rng((config.seed, step)).random()
        count = min(int(low * (high / low) ** share + 0.5), high)
        return collate([self._pair(step, place, count) for place in self._places])

    def _pair(self, step: int, place: int, count: int) -> dict:
        # A third number: none of these is the generator of the whole batch.
        rng = np.random.default_rng((self._config.seed, step, place + 1))
        if self._real is None or rng.random() < self._config.generated:
            number = step * self._config.batch + place
            sample = self._generated.sample(number, num_matches=count)
            return augment(sample, rng, count, self._augment_generated)
        return augment(self._real.draw(rng), rng, count, self._augment)
