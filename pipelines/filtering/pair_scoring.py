"""Many pairs through the filter: read, put into batches of like length, scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.free_memory import give_back_free_memory
from n3match.two_view import PairMatches, logits_of_many

Key = TypeVar("Key")

# Pairs are sorted by length within so many: enough to find alike ones, little to hold.
_WINDOW = 32
# Matches of a batch with its padding: larger batches leave the CPU's cache and aren't faster.
_BATCH_MATCHES = 8192


def score_stream(
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
