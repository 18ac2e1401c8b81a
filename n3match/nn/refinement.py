"""A second pass over the matches that the first one liked best.

Among all putative matches most are wrong, and context normalisation averages over them. Leaving
out the worse half by the first pass's logits doubles the share of right ones; the second network
also sees those logits, and how far each match is from the first pass's epipolar geometry. The idea
of going over the survivors again is that of OANet (Zhang et al., ICCV 2019: residuals and weights
as inputs) and CLNet (Zhao et al., ICCV 2021: pruning). It may look several times, with the same
weights: each time at what it said the last time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from n3match.nn.epipolar_evidence import evidence
from n3match.nn.trunk import Trunk

if TYPE_CHECKING:
    from n3match.nn.classifier import ClassifierConfig

_FEWEST = 64  # matches that the second pass looks at, where there are so many
EVIDENCE_COLUMNS = 2  # of `epipolar_evidence.evidence`


class Refinement(nn.Module):
    """Logits again, for the better share of the matches.

    Args:
        columns: numbers C known of each match, calibrated x0, y0, x1, y1 first.
        config: of the second network too; its `refined_share` is looked at again. Matches that
            the pass before keeps (logit above 0) always are.
    """

    def __init__(self, columns: int, config: ClassifierConfig):
        super().__init__()
        self.share = config.refined_share
        self.trunk = Trunk(columns + EVIDENCE_COLUMNS, config)

    def forward(self, matches: Tensor, first: Tensor, mask: Tensor | None) -> Tensor:
        """
        Args:
            matches: (B, N, C) with N > 0.
            first: (B, N) logits of the pass before, −inf where the mask is False. No gradient
                flows back into them.
            mask: (B, N) bool or None.

        Returns:
            (B, N) logits; those of the pass before (not above 0) where a match was left out.
        """
        first = first.detach()
        counts = self._counts(first, mask)
        chosen = first.argsort(dim=1, descending=True, stable=True)
        columns = torch.cat([matches, evidence(matches, first, mask)], -1)
        if torch.compiler.is_compiling():  # a graph's shapes don't depend on values
            places = torch.arange(chosen.shape[1], device=first.device)
            looked = torch.zeros_like(chosen).scatter(1, chosen, places.expand_as(chosen))
            looked = looked < counts[:, None]
            again = self.trunk(columns.masked_fill(~looked[..., None], 0.0), looked)
            return torch.where(looked, again.to(first.dtype), first)
        chosen = chosen[:, : int(counts.max())]
        real = torch.arange(chosen.shape[1], device=first.device) < counts[:, None]
        columns = columns.gather(1, chosen[..., None].expand(-1, -1, columns.shape[-1]))
        again = self.trunk(columns.masked_fill(~real[..., None], 0.0), real).to(first.dtype)
        kept = first.gather(1, chosen)
        return first.scatter(1, chosen, torch.where(real, again, kept))

    def _counts(self, first: Tensor, mask: Tensor | None) -> Tensor:
        """(B,) how many matches of each pair are looked at again."""
        total = torch.full_like(first[:, 0], first.shape[1]) if mask is None else mask.sum(1)
        wanted = torch.ceil(total * self.share).clamp(min=_FEWEST).long()
        return torch.maximum(wanted, (first > 0).sum(1)).minimum(total.long())
