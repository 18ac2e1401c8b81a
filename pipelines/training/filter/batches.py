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
    subsample,
    take,
)
from n3match.datasets.pairs.batches import collate
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.datasets.pairs.store import has_second
from n3match.datasets.synthetic.pairs import SyntheticPairs
from n3match.matching.side_info import SIDE_INFO
from n3match.pipelines.training.filter.config import TrainingConfig

# Pairs are kept in memory once read, up to so many bytes: reading one takes milliseconds.
_KEEP_BYTES = 2 << 30
_SMALLEST_SHARE = 0.02
_PER_MUTUAL = 2  # generated matches for each one that is wanted, where mutual ones alone are
_MUTUAL = SIDE_INFO.index("mutual")
# Who knows second nearest neighbours knows all else that descriptors say.
_KNOWN = {"drop_side_info": 0.0, "drop_candidates": 0.0}


class RealPairs:
    """Samples (datasets/pairs/sample.py) of stores, drawn by store and scene.

    A store is drawn by its weight, then a scene of it in proportion to the square root of its
    number of pairs, then a pair of the scene. Without weights, all scenes are those of one store.
    Within a scene a pair is drawn in proportion to s^−hard, s the share of right ones among its
    mutual matches, at least 2 %: pairs in which most matches are wrong decide how good a filter is,
    and are few.

    Raises:
        FileNotFoundError, ValueError: as `PairDataset`; a store without pairs; no pair with second
            nearest neighbours, where these are asked for.
    """

    def __init__(
        self, stores: Sequence[str | Path], weights: Sequence[float] = (), hard: float = 0.0,
        second_nearest: bool = False,
    ):
        self._data = PairDataset(list(stores))
        self._with_second = PairDataset(list(stores), second_nearest=True)
        if second_nearest and not any(has_second(store) for store in stores):
            raise ValueError(
                f"pairs: {', '.join(map(str, stores))}: no second nearest neighbours (made by an "
                "earlier version?), wanted for second_nearest: build them again"
            )
        self._kept: dict[tuple[int, bool], dict] = {}
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
        self._within = [self._running(pairs, hard) for pairs in self._members]
        chance = np.sqrt([len(pairs) for pairs in self._members])
        if len(weights):
            of_scene = np.array([number for number, _ in sorted(members)])
            for number, weight in enumerate(weights):
                chance[of_scene == number] *= weight / chance[of_scene == number].sum()
        self._cumulative = np.cumsum(chance)

    def draw(self, rng: np.random.Generator, second_nearest: bool = False) -> dict:
        """One of the pairs, with its second nearest neighbours where they are asked for and known,
        see `PairDataset`."""
        scene = np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1], "right")
        scene = min(int(scene), len(self._members) - 1)
        members, running = self._members[scene], self._within[scene]
        if running is None:
            return self._sample(int(members[rng.integers(len(members))]), second_nearest)
        place = np.searchsorted(running, rng.random() * running[-1], "right")
        return self._sample(int(members[min(int(place), len(members) - 1)]), second_nearest)

    def _running(self, pairs: np.ndarray, hard: float) -> np.ndarray | None:
        """Running sum of how often each of the pairs is drawn; None where all are alike."""
        if not hard:
            return None
        shares = []
        for index in pairs:
            sample = self._sample(int(index))
            mutual = sample["side_info"][:, _MUTUAL] > 0
            mutual = mutual if mutual.any() else np.ones_like(mutual)
            right = sample["distances"][mutual] < TRUE_MATCH_DISTANCE
            shares.append(right.mean() if len(right) else 1.0)
        return np.cumsum(np.maximum(shares, _SMALLEST_SHARE) ** -hard)

    def _sample(self, index: int, second_nearest: bool = False) -> dict:
        key = (index, second_nearest)
        if key in self._kept:
            return self._kept[key]
        item = (self._with_second if second_nearest else self._data)[index]
        sample = {key: item[key].numpy().astype(np.float32) for key in _ARRAYS}
        sample["E"] /= np.linalg.norm(sample["E"])
        sample["distances"] = item["ys"].numpy().astype(np.float32)
        size = sum(array.nbytes for array in sample.values())
        if self._bytes + size <= _KEEP_BYTES:
            self._kept[key] = sample
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
        chosen = config.pairs, config.pair_weights, config.hard, config.second_nearest
        self._real = RealPairs(*chosen) if real else None
        most = config.max_matches
        self._generated = SyntheticPairs(config.seed, (most, most)) if config.generated else None
        self._augment, self._augment_generated = NO_AUGMENTATION, NO_AUGMENTATION
        if config.augment:
            names = ("drop_side_info", "drop_candidates", "drop_keypoint_change")
            dropped = {name: getattr(config, name) for name in names}
            self._augment = Augmentation(**dropped)
            self._augment_generated = replace(GENERATED_AUGMENTATION, **dropped)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """See `collate`; the number of matches is drawn for the whole batch.

        A network that sees mutual matches alone gets those alone, in pairs where they are known:
        the batch is then no longer than what it works on.
        """
        config = self._config
        low, high = config.min_matches, config.max_matches
        share = np.random.default_rng((config.seed, step)).random()
        count = min(int(low * (high / low) ** share + 0.5), high)
        return collate([self._pair(step, place, count) for place in self._places])

    def _pair(self, step: int, place: int, count: int) -> dict:
        # A third number: none of these is the generator of the whole batch.
        rng = np.random.default_rng((self._config.seed, step, place + 1))
        mutual_only = self._config.mutual_only
        if self._real is None or rng.random() < self._config.generated:
            number = step * self._config.batch + place
            drawn = count * _PER_MUTUAL if mutual_only else count
            sample, how = self._generated.sample(number, num_matches=drawn), self._augment_generated
        else:
            second = self._config.second_nearest
            if second and self._config.augment:
                second = rng.random() >= self._config.drop_second
            sample = self._real.draw(rng, second)
            how = replace(self._augment, **_KNOWN) if second else self._augment
            drawn = max(count, len(sample["x"])) if mutual_only else count
        sample = augment(sample, rng, drawn, how)
        if mutual_only:
            mutual = sample["side_info"][:, _MUTUAL] > 0
            sample = take(sample, mutual) if mutual.any() else sample
            sample = subsample(sample, rng, count)
        return sample
