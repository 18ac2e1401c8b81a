"""Many pairs through the filter: read, put into batches of like length."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from n3match.nn.match_filter import MatchFilter
from n3match.two_view import PairMatches, logits_of_many

Key = TypeVar("Key")

# Pairs are sorted by length within so many: enough to find alike ones, little to hold.
_WINDOW = 32
# Matches of a batch with its padding: larger batches leave the CPU's cache and aren't faster.
_BATCH_MATCHES = 8192


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
