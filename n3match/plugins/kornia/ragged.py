"""Matches of several pairs in one list, to a padded batch and back.

N matches in all · P pairs that have any · M matches of the largest
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Where each match of the list stands in the batch.

    Attributes:
        pairs: (P,) the batch indices that occur, ascending.
        row, column: (N,) place of each match in the batch.
        mask: (P, M) bool, True where there is a match.
    """

    pairs: Tensor
    row: Tensor
    column: Tensor
    mask: Tensor

    @classmethod
    def of(cls, batch_indexes: Tensor) -> Ragged:
        """From the pair of every match (N,), in any order."""
        pairs, row, count = torch.unique(batch_indexes, return_inverse=True, return_counts=True)
        order = torch.argsort(row, stable=True)
        start = count.cumsum(0) - count
        place = torch.arange(len(row), device=row.device) - start[row[order]]
        column = torch.empty_like(row)
        column[order] = place
        longest = int(count.max()) if len(count) else 0
        mask = torch.arange(longest, device=row.device) < count[:, None]
        return cls(pairs, row, column, mask)

    def pad(self, values: Tensor) -> Tensor:
        """(N, ...) -> (P, M, ...), zeros in the padding."""
        batch = values.new_zeros(*self.mask.shape, *values.shape[1:])
        return batch.index_put((self.row, self.column), values)

    def unpad(self, batch: Tensor) -> Tensor:
        """(P, M, ...) -> (N, ...)."""
        return batch[self.row, self.column]
