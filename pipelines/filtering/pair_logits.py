"""Many pairs through the filter: put together from features, then in batches of like length.

Threads work on pairs and batches of their own: one has nothing to hand over to another inside.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from n3match.matching import keypoint_change, side_info_of_matches
from n3match.native import run_tasks
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.colmap.model import ColmapCamera
from n3match.two_view import PairMatches, logits_of_many

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")

# Pairs are sorted by length within so many: enough to find alike ones, little to hold.
_WINDOW = 32
# Matches of a batch with its padding: larger batches leave the CPU's cache and aren't faster,
# smaller ones are mostly overhead.
_BATCH_MATCHES, _LEAST_MATCHES = 8192, 1024
# Batches for a thread at a time: a slow one leaves the rest to the others, and what is killed
# hasn't lost much.
_BATCHES_A_THREAD = 2


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What is known of an image's N keypoints.

    Attributes:
        pixels: (N, 2); x: (N, 2) calibrated, NaN where the camera has no ray.
        camera: of the image.
        sizes_angles: (N, 2), or None. descriptors: SIFT's (N, 128), or None.
    """

    pixels: np.ndarray
    x: np.ndarray
    camera: ColmapCamera
    sizes_angles: np.ndarray | None
    descriptors: np.ndarray | None


def pair_matches(
    net: MatchFilter,
    image0: ImageFeatures,
    image1: ImageFeatures,
    index0: np.ndarray,
    index1: np.ndarray,
) -> PairMatches:
    """Matches for the network, with all that it wants to know and that is known.

    Args:
        net: the filter.
        image0, image1: of the pair.
        index0, index1: (M,) rows of their keypoints.
    """
    side_info = change = None
    focal0, focal1 = (np.diag(image.camera.K)[:2].mean() for image in (image0, image1))
    if len(index0) and image0.descriptors is not None and image1.descriptors is not None:
        side_info = side_info_of_matches(
            net.side_info, index0, index1, image0.pixels, image0.descriptors,
            image1.pixels, image1.descriptors, focal1,
        )
    if image0.sizes_angles is not None and image1.sizes_angles is not None:
        change = keypoint_change(
            image0.sizes_angles[index0], image1.sizes_angles[index1], focal0, focal1
        )
    return PairMatches(image0.x[index0], image1.x[index1], side_info, change)


def filter_stream(
    net: MatchFilter,
    pairs: Iterable[tuple[Key, Callable[[], PairMatches]]],
    then: Callable[[Key, PairMatches, np.ndarray], Result],
) -> Iterator[tuple[Key, Result]]:
    """Pairs through the network as they come; in another order than given.

    Holds a few dozen pairs at a time, whatever their number.

    Args:
        net: in eval mode.
        pairs: keys, and what makes the pair's matches. The iterator is advanced in the calling
            thread; what it yields may be called in another.
        then: makes the result from key, matches and (N,) float64 logits; called in any thread.
    """
    pairs = iter(pairs)
    threads = torch.get_num_threads()
    while made := _prepared(pairs, threads):
        batches = _batches(made, threads)

        def run(batch: list[tuple[Key, PairMatches]]) -> list[tuple[Key, Result]]:
            logits = logits_of_many(net, [matches for _, matches in batch])
            return [(key, then(key, m, found)) for (key, m), found in zip(batch, logits)]

        while batches:
            here = batches[: _BATCHES_A_THREAD * threads]
            del batches[: len(here)]
            for results in _each(run, here, next(net.parameters()).device):
                yield from results
        give_back_free_memory()


def _prepared(pairs: Iterator, threads: int) -> list[tuple[Key, PairMatches]]:
    """The next pairs. What makes them is held for a few at a time: it may be large."""
    made: list[tuple[Key, PairMatches]] = []
    while len(made) < _WINDOW and (few := list(islice(pairs, _BATCHES_A_THREAD * threads))):
        made += _each(lambda item: (item[0], item[1]()), few)
    return made


def _batches(made: list[tuple[Key, PairMatches]], threads: int) -> list[list]:
    """Pairs of like length together, the longest first."""
    rest = sorted(made, key=lambda item: len(item[1]))
    share = sum(len(matches) for _, matches in made) // (_BATCHES_A_THREAD * threads)
    most = min(max(share, _LEAST_MATCHES), _BATCH_MATCHES)
    batches = []
    while rest:
        longest = len(rest[-1][1])
        count = max(1, min(len(rest), most // max(longest, 1)))
        # What is much shorter than the longest would mostly be padding.
        batches.append([item for item in rest[-count:] if 2 * len(item[1]) >= longest])
        del rest[len(rest) - len(batches[-1]) :]
    return batches


def _each(
    function: Callable[[Item], Result], items: list[Item], device: torch.device | None = None
) -> list[Result]:
    """The function's result for each, by several threads where there is work for all of them."""
    if len(items) < torch.get_num_threads() or (device is not None and device.type != "cpu"):
        return [function(item) for item in items]  # they may share out a single one
    results: list = [None] * len(items)

    def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            results[number] = function(items[number])

    run_tasks(work, range(len(items)))
    return results


def give_back_free_memory() -> None:
    """To the system, where the C library is glibc, and does nothing elsewhere.

    glibc keeps what is freed below the last block in use. A job that goes through thousands of
    pairs leaves small results between large passing tensors, and would seem to grow without end.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
