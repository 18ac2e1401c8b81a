"""Batches for training: real and generated pairs, augmented, padded to one length (torch)."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from .augment import Augmentation, augment
from .synthetic import SyntheticPairs


class MixedPairs:
    """Training batches drawn from real pairs, generated pairs, or both.

    ``batch(step)`` depends on (seed, step) and the data alone, so an interrupted training goes on
    exactly where it stopped. Within real data a scene is drawn in proportion to the square root of
    its number of pairs, then a pair of it.

    Args:
        real: samples (two_view.py) or items of a PairDataset; None for generated pairs only. A list
            made of the dataset (with ``scenes``) saves reading files again and again.
        synthetic: generated pairs; None for real pairs only.
        batch_size: pairs in a batch.
        num_matches: least and most matches of a pair. One number is drawn for a batch (uniform in
            the logarithm); a real pair with fewer matches keeps its own number.
        synthetic_share: expected share of generated pairs in a batch, where both are given.
        seed: non-negative.
        augmentation: for real pairs, None for Augmentation().
        synthetic_augmentation: for generated pairs; the default only adds what they lack.
        scenes: scene of each real pair, for the balance; None takes ``real.scenes`` where there is
            such an attribute and one scene otherwise.

    Raises:
        ValueError: no data at all, an empty ``real``, or an argument outside its range.
    """

    def __init__(
        self,
        real: Sequence | None,
        synthetic: SyntheticPairs | None,
        *,
        batch_size: int = 8,
        num_matches: tuple[int, int] = (1000, 1000),
        synthetic_share: float = 0.5,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        synthetic_augmentation: Augmentation | None = None,
        scenes: Sequence[str] | None = None,
    ):
        if real is None and synthetic is None:
            raise ValueError("real, synthetic: got None for both, wanted at least one")
        if real is not None and len(real) == 0:
            raise ValueError("real: got no pairs, wanted at least one (or None)")
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, wanted 1 or more")
        if not 8 <= num_matches[0] <= num_matches[1]:
            raise ValueError(f"num_matches: got {num_matches}, wanted 8 <= lo <= hi")
        if not 0 <= synthetic_share <= 1:
            raise ValueError(f"synthetic_share: got {synthetic_share}, wanted a share in [0, 1]")
        if seed < 0:
            raise ValueError(f"seed: got {seed}, wanted 0 or more")
        self.real, self.synthetic = real, synthetic
        self.batch_size, self.num_matches, self.seed = batch_size, tuple(num_matches), seed
        if real is None or synthetic is None:
            synthetic_share = 1.0 if real is None else 0.0
        self.synthetic_share = synthetic_share
        self.augmentation = Augmentation() if augmentation is None else augmentation
        if synthetic_augmentation is None:
            synthetic_augmentation = GENERATED_AUGMENTATION
        self.synthetic_augmentation = synthetic_augmentation
        if real is not None:
            if scenes is None:
                scenes = getattr(real, "scenes", None)
            self._members, self._cumulative = _balance(scenes, len(real))

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of this step (0 or more).

        Returns:
            float32 ``points0`` (B, N, 2), ``points1`` (B, N, 2), ``side`` (B, N, 5), ``shape``
            (B, N, 3), ``distances`` (B, N), ``R`` (B, 3, 3), ``t`` (B, 3), ``E`` (B, 3, 3), and
            bool ``mask`` (B, N), true where there is a match. N is the longest of the batch; the
            rest is zeros.
        """
        rng = np.random.default_rng((self.seed, int(step)))
        low, high = self.num_matches
        count = min(int(low * (high / low) ** rng.random() + 0.5), high)
        return collate([self._draw(rng, step, i, count) for i in range(self.batch_size)])

    def batches(self, first_step: int = 0, ahead: int = 2) -> Iterator[dict[str, torch.Tensor]]:
        """Endless iteration over the batches from ``first_step`` on.

        ``ahead`` batches (1 or more) are made by a thread while the caller is busy; the values are
        those of :meth:`batch` all the same. ``close()`` of the iterator ends the thread.
        """
        if ahead < 1:
            raise ValueError(f"ahead: got {ahead}, wanted 1 or more")
        return self._batches(first_step, ahead)

    def _batches(self, first_step: int, ahead: int) -> Iterator[dict[str, torch.Tensor]]:
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            steps = itertools.count(first_step)
            waiting = deque(pool.submit(self.batch, next(steps)) for _ in range(ahead))
            try:
                while True:
                    batch = waiting.popleft().result()
                    waiting.append(pool.submit(self.batch, next(steps)))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def _draw(self, rng: np.random.Generator, step: int, place: int, count: int) -> dict:
        if rng.random() < self.synthetic_share:
            sample = self.synthetic.sample(step * self.batch_size + place, num_matches=count)
            return augment(sample, rng, count, self.synthetic_augmentation)
        scene = np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1], "right")
        members = self._members[min(int(scene), len(self._members) - 1)]
        sample = self.real[int(members[rng.integers(len(members))])]
        return augment(_as_arrays(sample), rng, count, self.augmentation)


#: Generated pairs come in all orientations and shares already; they lack wrong focal lengths.
GENERATED_AUGMENTATION = Augmentation(
    swap=0.0, mirror=0.0, small_roll=0.0, common_roll=0.2, free_roll=0.0, tilt=2.0, focal=0.01,
    reshare=0.0, crop=0.1, outliers=0.0, ratio=0.0, drop_side=0.05,
    drop_candidates=0.05, drop_shape=0.05,
)


def _balance(scenes: Sequence[str] | None, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Indices of each scene's pairs, and the running sum of the square roots of their numbers."""
    if scenes is None:
        scenes = [""] * count
    if len(scenes) != count:
        raise ValueError(f"scenes: got {len(scenes)} names, wanted one for each of {count} pairs")
    _, scene_of = np.unique(np.asarray(scenes, dtype=str), return_inverse=True)
    members = [np.flatnonzero(scene_of == i) for i in range(scene_of.max() + 1)]
    return members, np.cumsum(np.sqrt([len(m) for m in members]))


def _as_arrays(sample: dict) -> dict:
    """A sample of two_view.py from one of a PairDataset, which calls its distances ``ys``."""
    labels = sample["distances"] if "distances" in sample else sample["ys"]
    keys = ("x", "side", "shape", "R", "t", "E")
    arrays = {key: np.asarray(sample[key], np.float32) for key in keys}
    arrays["E"] = arrays["E"] / np.linalg.norm(arrays["E"])
    return {**arrays, "distances": np.asarray(labels, np.float32)}


def collate(samples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Samples (two_view.py) padded to the longest with zeros: see :meth:`MixedPairs.batch`."""
    if not samples:
        raise ValueError("samples: got none, wanted at least one")
    longest = max(len(sample["x"]) for sample in samples)
    size = len(samples)
    x = np.zeros((size, longest, 4), np.float32)
    side = np.zeros((size, longest, samples[0]["side"].shape[1]), np.float32)
    shape = np.zeros((size, longest, 3), np.float32)
    distances = np.zeros((size, longest), np.float32)
    mask = np.zeros((size, longest), bool)
    for i, sample in enumerate(samples):
        count = len(sample["x"])
        x[i, :count], side[i, :count] = sample["x"], sample["side"]
        shape[i, :count] = sample["shape"]
        distances[i, :count], mask[i, :count] = sample["distances"], True
    arrays = {
        "points0": np.ascontiguousarray(x[..., :2]),
        "points1": np.ascontiguousarray(x[..., 2:]),
        "side": side,
        "shape": shape,
        "mask": mask,
        "distances": distances,
        **{
            key: np.stack([sample[key] for sample in samples]).astype(np.float32)
            for key in ("R", "t", "E")
        },
    }
    return {key: torch.from_numpy(value) for key, value in arrays.items()}
