"""The dense form prepared for its tiles, what a pass keeps, and the recursion without logarithms.

For one query let p_i be the unnormalised mass of candidate i and Z = Σ p. Then w_i = p_i / Z and
the next masses are p_i · (1 − w_i). Two facts make this exact:

* Only the *first* distribution can be peaked. With p'_i = p_i (Z − p_i) / Z,
  Σ_{j≠i} p'_j ≥ Σ_{j≠i} p_j p_i / Z = p'_i, so from the second distribution on no candidate
  holds more than half the mass, and 1 − w never cancels.
* In the first one, the masses are taken relative to the *second* nearest candidate. With
  q_j = exp((d₂ − d_j)/t) for all but the nearest, S = Σ q_j and g = exp((d₁ − d₂)/t) ≤ 1:
  w_nearest = 1 / (1 + gS), w_j = g q_j / (1 + gS), and the masses of the second step, divided by g,
  are S / (1 + gS) for the nearest and q_j (1 − w_j) for the others. Nothing underflows however far
  ahead the nearest is.

Rows in which the nearest is *certain* (see `reference`) or alone are recomputed by the reference
formula, row by row.

Backward, with Aᵏ = ∂L/∂aᵏ and u the gradient of the weights: Aᵏ = Aᵏ⁺¹ + wᵏ(h − Σ wᵏh),
h = uᵏ − Aᵏ⁺¹/(1 − wᵏ), and Σ wᵏuᵏ = grad_zᵏ · zᵏ. In the first step the nearest is treated by
itself so that no 1 − w ≈ 0 is ever divided by (the terms cancel).

Row constants cancel in a softmax, so the logits need only 2 q·k/t − |k|²/t: one product of the
queries, scaled by 2/t and with a column −1/t, with the keys and a row |k|². Embeddings are shifted
by the mean key, which changes no distance but keeps the products small.

Shapes: M queries, N items, E embedding and F feature channels, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from n3match import native
from n3match.ops import reference
from n3match.ops.selection import inverse_t_of


@dataclass
class Problem:
    """One batch element, shifted and laid out for the tile products.

    N is padded by items that can't be selected, to what the compiled loops want.
    """

    query: Tensor  # (M, E)
    key: Tensor  # (N, E)
    query_rows: Tensor  # (M, E + 1): 2q/t, −1/t
    key_columns: Tensor  # (E + 1, N): kᵀ, |k|² (+inf where masked)
    value: Tensor  # (N, F)
    inverse_t: Tensor  # (M, 1)
    log_t: Tensor  # (M, 1)
    mask: Tensor | None  # (N,); None: all may be selected
    exclude_self: bool

    def key_gradient(self, sums: Tensor, out: Tensor) -> Tensor:
        """From Σ_r a (2q/t, −1/t) over all queries, a = ∂L/∂a¹: Σ_r a (2q − 2k)/t."""
        return torch.addcmul(sums[:, :-1], self.key, sums[:, -1:], value=2.0, out=out)

    def exact_rows(
        self, query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, rows: Tensor, k: int
    ) -> Tensor:
        """The reference formula for the queries `rows` (their data given): (R, K, F)."""
        d = (query.double()[:, None] - key.double()[None]).square().sum(-1)
        allowed = torch.ones_like(d, dtype=torch.bool)
        if self.mask is not None:
            allowed &= self.mask
        if self.exclude_self:
            allowed[torch.arange(len(rows), device=rows.device), rows] = False
        w = reference.n3_weights(
            d[None], k, log_t.double()[None], mask=allowed[None]
        )[0]
        return torch.einsum("rok,of->rkf", w, value.double()).to(value.dtype)


def prepare(query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, mask, exclude_self: bool):
    """The `Problem` of one batch element; mask (N,) or None."""
    padding = -len(key) % native.LANES
    if padding:
        if mask is None:
            mask = torch.ones(len(key), dtype=torch.bool, device=key.device)
        mask = functional.pad(mask, (0, padding))
        key, value = (functional.pad(x, (0, 0, 0, padding)) for x in (key, value))
    if mask is not None:
        hidden = ~mask[:, None]
        key = key.masked_fill(hidden, 0.0)
        value = value.masked_fill(hidden, 0.0)
    selectable = len(key) if mask is None else mask.sum().clamp(min=1)
    centre = key.sum(0, keepdim=True) / selectable
    query, key = query - centre, key - centre
    norm = key.square().sum(1)
    if mask is not None:
        key = key.masked_fill(hidden, 0.0)
        norm = norm.masked_fill(~mask, float("inf"))
    inverse_t = inverse_t_of(log_t)
    n, e = key.shape
    query_rows = query.new_empty(len(query), e + 1)
    torch.mul(query, 2 * inverse_t, out=query_rows[:, :e])
    torch.neg(inverse_t, out=query_rows[:, e:])
    key_columns = key.new_empty(e + 1, n)
    key_columns[:e] = key.T
    key_columns[e] = norm
    return Problem(
        query.contiguous(), key.contiguous(), query_rows, key_columns, value.contiguous(),
        inverse_t, log_t, mask, exclude_self,
    )


@dataclass
class Saved:
    """What the forward pass leaves behind, one row a query."""

    nearest: Tensor  # (M, 1) index of the nearest candidate
    top: Tensor  # (M, 1) its logit
    second: Tensor  # (M, 1) logit of the second nearest
    sums: Tensor  # (M, K): S, then the totals Z of steps 2 … K
    exact: Tensor  # (M,) bool: rows left to the reference formula

    @classmethod
    def blank(cls, batch: int, queries: int, k: int, like: Tensor) -> Saved:
        """For a whole batch: every field with a batch dimension in front.

        Zeros, for where every row is left to the reference nothing else is written.
        """
        return cls(
            torch.zeros(batch, queries, 1, dtype=torch.int64, device=like.device),
            like.new_zeros(batch, queries, 1),
            like.new_zeros(batch, queries, 1),
            like.new_zeros(batch, queries, k),
            torch.ones(batch, queries, dtype=torch.bool, device=like.device),
        )

    def element(self, index: int) -> Saved:
        return Saved(*(t[index] for t in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        return self.nearest, self.top, self.second, self.sums, self.exact
