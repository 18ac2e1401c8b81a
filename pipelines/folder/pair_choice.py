"""Which photographs of a folder are matched with which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from n3match.pipelines.filtering.hloc_files import read_pairs_list

# Of the global descriptor: centres of a vocabulary made of the folder's own SIFT descriptors, and
# how many of these it is made from.
_WORDS = 64
_SAMPLE = 20_000
_ROUNDS = 10


@dataclass(frozen=True)
class PairChoice:
    """Which pairs: the union of what is given; where nothing is, all of them.

    Attributes:
        listed: a text file of lines NAME0 NAME1.
        sequential: each photograph with the next so many by name.
        similar: each photograph with the so many that look most alike.
    """

    listed: Path | None = None
    sequential: int | None = None
    similar: int | None = None

    def pairs(
        self, names: Sequence[str], descriptors: Callable[[str], np.ndarray]
    ) -> list[tuple[str, str]]:
        """Pairs of names in their order, sorted.

        Args:
            names: of the photographs, sorted.
            descriptors: (N, 128) of a photograph; one without any is like no other.

        Raises:
            FileNotFoundError, ValueError: the list can't be read, or names what is not there.
        """
        order = {name: i for i, name in enumerate(names)}
        if self == PairChoice():
            return list(combinations(names, 2))
        chosen: set[tuple[int, int]] = set()
        if self.listed is not None:
            for pair in read_pairs_list(self.listed):
                unknown = [name for name in pair if name not in order]
                if unknown:
                    raise ValueError(f"{self.listed}: {unknown[0]} is no photograph of the folder")
                chosen.add((order[pair[0]], order[pair[1]]))
        if self.sequential is not None:
            chosen |= {
                (i, j) for i in range(len(names))
                for j in range(i + 1, min(i + 1 + self.sequential, len(names)))
            }
        if self.similar is not None:
            found = [descriptors(name) for name in names]
            likeness = global_descriptors(found)
            likeness = likeness @ likeness.T
            np.fill_diagonal(likeness, -np.inf)
            likeness[:, [not len(of_one) for of_one in found]] = -np.inf
            nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : self.similar]
            for i, row in enumerate(nearest.tolist()):
                chosen |= {(i, j) for j in row if np.isfinite(likeness[i, j])}
        pairs = {(min(pair), max(pair)) for pair in chosen if pair[0] != pair[1]}
        return [(names[i], names[j]) for i, j in sorted(pairs)]


def global_descriptors(descriptors: Sequence[np.ndarray]) -> np.ndarray:
    """What photographs look like as a whole: VLAD of their SIFT descriptors.

    Jégou et al., "Aggregating local descriptors into a compact image representation", CVPR 2010,
    with a vocabulary of the photographs at hand and square roots of the entries.

    Args:
        descriptors: (N_i, 128) of each photograph.

    Returns:
        (photographs, W · 128) float32 of unit length; their products tell how alike two are.
    """
    each = max(1, _SAMPLE // max(len(descriptors), 1))
    # Strongest first, so those found again in other photographs.
    sample = np.concatenate([found[:each] for found in descriptors]).astype(np.float32)
    words = min(_WORDS, len(sample))
    if not words:
        return np.zeros((len(descriptors), 1), np.float32)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_MAX_ITER, _ROUNDS, 0)
    centres = cv2.kmeans(sample, words, None, stop, 1, cv2.KMEANS_PP_CENTERS)[2]
    half_squares = (centres**2).sum(axis=1) / 2
    result = np.zeros((len(descriptors), words, 128), np.float32)
    for sums, found in zip(result, descriptors):
        if len(found):
            word = np.argmax(found @ centres.T - half_squares, axis=1)
            np.add.at(sums, word, found - centres[word])
    result = result.reshape(len(descriptors), -1)
    result = np.sign(result) * np.sqrt(np.abs(result))
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
