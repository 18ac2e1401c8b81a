"""Many pairs through the filter: put together from features, then in batches of like length."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from n3match.matching import keypoint_change, ratio_and_mutual, side_info_columns
from n3match.nn.match_filter import MatchFilter
from n3match.two_view import PairMatches, logits_of_many

Key = TypeVar("Key")

# Pairs are sorted by length within so many: enough to find alike ones, little to hold.
_WINDOW = 32
# Matches of a batch with its padding: larger batches leave the CPU's cache and aren't faster.
_BATCH_MATCHES = 8192


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What is known of an image's N keypoints.

    Attributes:
        x: (N, 2) calibrated; K: (3, 3) of the camera.
        sizes_angles: (N, 2), or None. descriptors: SIFT's (N, 128), or None.
    """

    x: np.ndarray
    K: np.ndarray
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
    descriptors = image0.descriptors, image1.descriptors
    if not any(d is None for d in descriptors) and len(index0):
        ratio, mutual = ratio_and_mutual(index0, index1, *descriptors)
        side_info = side_info_columns(net.side_info, ratio, mutual)
    if image0.sizes_angles is not None and image1.sizes_angles is not None:
        focal = ((image.K[0, 0] + image.K[1, 1]) / 2 for image in (image0, image1))
        change = keypoint_change(
            image0.sizes_angles[index0], image1.sizes_angles[index1], *focal
        )
    return PairMatches(image0.x[index0], image1.x[index1], side_info, change)


def logits_stream(
    net: MatchFilter, pairs: Iterable[tuple[Key, PairMatches]]
) -> Iterator[tuple[Key, np.ndarray]]:
    """Logits of pairs as they come: (key, (N,) float64), in another order than given.

    Holds a few dozen pairs at a time, whatever their number.
    """
    pairs = iter(pairs)
    while window := list(islice(pairs, _WINDOW)):
        window.sort(key=lambda item: len(item[1]))
        while window:
            longest = len(window[-1][1])
            count = max(1, min(len(window), _BATCH_MATCHES // max(longest, 1)))
            # What is much shorter than the longest would mostly be padding.
            batch = [item for item in window[-count:] if 2 * len(item[1]) >= longest]
            del window[len(window) - len(batch) :]
            logits = logits_of_many(net, [matches for _, matches in batch])
            yield from ((key, found) for (key, _), found in zip(batch, logits))
        give_back_free_memory()


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
