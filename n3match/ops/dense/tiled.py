"""Dense N³ in tiles of query rows, forward and backward: linear memory, any device.

The recursion without logarithms. For one query let p_i be the unnormalised mass of candidate i and
Z = Σ p. Then w_i = p_i / Z and the next masses are p_i · (1 − w_i). Two facts make this exact:

* Only the *first* distribution can be peaked. With p'_i = p_i (Z − p_i) / Z,
  Σ_{j≠i} p'_j ≥ Σ_{j≠i} p_j p_i / Z = p'_i, so from the second distribution on no candidate
  holds more than half the mass, and 1 − w never cancels.
* In the first one, the masses are taken relative to the *second* nearest candidate. With
  q_j = exp((d₂ − d_j)/t) for all but the nearest, S = Σ q_j and g = exp((d₁ − d₂)/t) ≤ 1:
  w_nearest = 1 / (1 + gS), w_j = g q_j / (1 + gS), and the masses of the second step, divided by g,
  are S / (1 + gS) for the nearest and q_j (1 − w_j) for the others. Nothing underflows however far
  ahead the nearest is.

Rows in which the nearest is *certain* (see `reference`) or alone are recomputed by the reference
formula, row by row; so is every row in the "poster" recursion. Where the compiled row
loops are there, the tiles are those of `compiled`.

Kept for the backward pass, besides inputs and output: for each query the index and logit of the
nearest, the logit of the second nearest, S and the K − 1 sums Z. Distances and weights are
recomputed tile by tile; nothing of size M×N exists.

Row constants cancel in a softmax, so the logits need only 2 q·k/t − |k|²/t: one product of the
queries, scaled by 2/t and with a column −1/t, with the keys and a row |k|². Embeddings are shifted
by the mean key, which changes no distance but keeps the products small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from n3match import native
from n3match.ops import reference
from n3match.ops.dense import compiled as tiled_native

# Elements of one row tile: large enough to hide the cost of a call, small enough for the caches.
_TILE_ELEMENTS = {"cpu": 1 << 20}
_TILE_ELEMENTS_DEVICE = 1 << 24
_MAX_INVERSE_T = 1e30
_BLOCK = 64  # columns are padded to a multiple of this many, see `_row_max`
_RESCALE_EVERY = 64  # masses halve at most: rescaling this often keeps them in range for any K


@dataclass
class Problem:
    """One batch element, shifted and laid out for the tile products.

    N is padded by items that can't be selected, to a multiple of `_BLOCK`, or of what the compiled
    loops want.
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
    recursion: str

    def tile_rows(self) -> int:
        elements = _TILE_ELEMENTS.get(self.query.device.type, _TILE_ELEMENTS_DEVICE)
        return max(1, min(len(self.query), elements // max(1, len(self.key))))

    def tiles(self):
        step = self.tile_rows()
        for start in range(0, len(self.query), step):
            yield slice(start, min(start + step, len(self.query)))

    def logits(self, rows: slice, out: Tensor) -> Tensor:
        """−d/t of a tile of queries up to a constant per row: (R, N), −inf if not selectable."""
        torch.mm(self.query_rows[rows], self.key_columns, out=out)
        if self.exclude_self:
            out.diagonal(rows.start).fill_(float("-inf"))
        return out

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
            d[None], k, log_t.double()[None], mask=allowed[None], recursion=self.recursion
        )[0]
        return torch.einsum("rok,of->rkf", w, value.double()).to(value.dtype)


def _problem(query, key, value, log_t, mask, exclude_self, recursion, multiple: int) -> Problem:
    padding = -len(key) % multiple
    if padding:
        if mask is None:
            mask = torch.ones(len(key), dtype=torch.bool, device=key.device)
        mask = torch.nn.functional.pad(mask, (0, padding))
        key, value = (torch.nn.functional.pad(x, (0, 0, 0, padding)) for x in (key, value))
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
    inverse_t = torch.exp(-log_t).clamp(max=_MAX_INVERSE_T)
    n, e = key.shape
    query_rows = query.new_empty(len(query), e + 1)
    torch.mul(query, 2 * inverse_t, out=query_rows[:, :e])
    torch.neg(inverse_t, out=query_rows[:, e:])
    key_columns = key.new_empty(e + 1, n)
    key_columns[:e] = key.T
    key_columns[e] = norm
    return Problem(
        query.contiguous(), key.contiguous(), query_rows, key_columns, value.contiguous(),
        inverse_t, log_t, mask, exclude_self, recursion,
    )


def _problems(
    query, key, value, log_t, mask, exclude_self, recursion, compiled: bool
) -> list[Problem]:
    """One for each batch element."""

    def problem(i: int) -> Problem:
        return _problem(
            query[i], key[i], value[i], log_t[i], None if mask is None else mask[i],
            exclude_self, recursion, native.LANES if compiled else _BLOCK,
        )

    count = len(query)
    if not compiled:
        return [problem(i) for i in range(count)]
    found: list = [None] * count

    def work(share: Iterator[int]) -> None:
        for i in share:
            found[i] = problem(i)

    native.run_tasks(work, range(count))
    return found


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

    def first_step(self, rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """nearest, S, g and 1 + gS of a tile, each (R, 1)."""
        s = self.sums[rows, :1]
        g = torch.exp(self.second[rows] - self.top[rows])
        return self.nearest[rows], s, g, 1 + g * s


def _row_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Largest element of each row and its index, both (R, 1).

    A maximum with index over a long row is far slower than one without: find the largest of each
    block first, then search one block.
    """
    blocks = x.view(len(x), -1, _BLOCK)
    top, block = blocks.amax(2).max(1, keepdim=True)
    inside = blocks.gather(1, block[..., None].expand(-1, 1, _BLOCK))[:, 0].argmax(1, keepdim=True)
    return top, block * _BLOCK + inside


def _next_mass(mass: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """mass · (1 − mass · scale) into `out` (another tensor)."""
    torch.mul(mass, scale, out=out)
    return torch.addcmul(mass, mass, out, value=-1.0, out=out)


def _second_mass(q: Tensor, nearest, s, g, z, out: Tensor) -> Tensor:
    return _next_mass(q, g / z, out).scatter_(1, nearest, s / z)


def _rescale(mass: Tensor, step: int) -> Tensor:
    return mass.div_(mass.amax(1, keepdim=True)) if step % _RESCALE_EVERY == 0 else mass


def _forward_tile(p: Problem, rows: slice, k: int, z_out: Tensor, saved: Saved, buffers) -> None:
    """Fills z_out (R, K, F) and the tile's part of `saved`."""
    mass, spare = (buffer[: len(z_out)] for buffer in buffers)
    p.logits(rows, mass)
    top, nearest = _row_max(mass)
    mass.scatter_(1, nearest, float("-inf"))
    second = mass.amax(1, keepdim=True)
    # Fewer than two candidates: any finite base will do, the row is recomputed exactly.
    second = torch.where(second.isinf(), torch.zeros_like(second), second)
    mass.sub_(second).exp_()
    saved.nearest[rows], saved.top[rows], saved.second[rows] = nearest, top, second
    saved.sums[rows, 0] = mass.sum(1)
    nearest, s, g, z = saved.first_step(rows)
    gap = top - second
    saved.exact[rows] = ((s <= 0) | ~(gap <= reference.CERTAIN_GAP))[:, 0]
    torch.addcmul(p.value[nearest[:, 0]], torch.mm(mass, p.value), g, out=z_out[:, 0])
    z_out[:, 0].div_(z)
    for step in range(1, k):
        if step == 1:
            mass, spare = _second_mass(mass, nearest, s, g, z, spare), mass
        else:
            mass, spare = _next_mass(mass, 1 / saved.sums[rows, step - 1, None], spare), mass
        torch.sum(_rescale(mass, step), 1, out=saved.sums[rows, step])
        torch.div(torch.mm(mass, p.value), saved.sums[rows, step, None], out=z_out[:, step])


def _backward_tile(
    p: Problem, rows: slice, k: int, z: Tensor, grad_z: Tensor, saved: Saved, grads, buffers
) -> None:
    """Adds the gradients of one tile; grad_z (R, K, F) is zero in rows left to the reference.

    With Aᵏ = ∂L/∂aᵏ and u the gradient on the weights: Aᵏ = Aᵏ⁺¹ + wᵏ(h − Σ wᵏh),
    h = uᵏ − Aᵏ⁺¹/(1 − wᵏ), and Σ wᵏuᵏ = grad_zᵏ · zᵏ. In the first step the nearest is treated
    by itself so that no 1 − w ≈ 0 is ever divided by (the terms cancel analytically).
    """
    d_query, d_key, d_value, d_log_t = grads
    inverse_t = p.inverse_t[rows]
    value_t = p.value.T
    masses = [buffer[: len(z)] for buffer in buffers[:k]]
    a, h, spare = (buffer[: len(z)] for buffer in buffers[k:])
    nearest, s, g, z1 = saved.first_step(rows)
    sums = saved.sums[rows]
    logits = p.logits(rows, masses[0]).scatter_(1, nearest, float("-inf"))
    torch.exp(logits.sub_(saved.second[rows]), out=masses[0])
    for step in range(1, k):
        if step == 1:
            _second_mass(masses[0], nearest, s, g, z1, masses[1])
        else:
            _next_mass(masses[step - 1], 1 / sums[:, step - 1, None], masses[step])
        _rescale(masses[step], step)
    for step in range(k - 1, 0, -1):
        w, g_k = masses[step].div_(sums[:, step, None]), grad_z[:, step]
        d_value.addmm_(w.T, g_k)
        total = (g_k * z[:, step]).sum(1, keepdim=True)
        if step < k - 1:
            torch.sub(1.0, w, out=spare)
            torch.div(a, spare, out=spare)
            total = total - torch.mul(w, spare, out=h).sum(1, keepdim=True)
            torch.mm(g_k, value_t, out=h).sub_(spare)
            a.addcmul_(w, h.sub_(total))
        else:
            torch.mm(g_k, value_t, out=h)
            torch.mul(w, h.sub_(total), out=a)
    if k == 1:
        a.zero_()
    # First step.
    q, g_1 = masses[0], grad_z[:, 0]
    omega = 1 / z1
    omega_bar = g * s / z1
    d_value.addmm_(q.T, g_1 * (g / z1))
    d_value.index_add_(0, nearest[:, 0], g_1 * omega)
    a_n = a.gather(1, nearest)
    u_n = (g_1 * p.value[nearest[:, 0]]).sum(1, keepdim=True)
    torch.mul(q, -g / z1, out=h)
    torch.div(a, h.add_(1.0), out=h)
    torch.addmm(h, g_1, value_t, beta=-1.0, out=h)
    r_sum = torch.mul(q, h, out=spare).sum(1, keepdim=True) / s
    # a += q/S · (ω̄ (h − ω u_n − ω̄ Σ) + ω a_n)
    h.mul_(omega_bar / s).add_((omega * a_n - omega_bar * (omega * u_n + omega_bar * r_sum)) / s)
    a.addcmul_(q, h)
    a.scatter_(1, nearest, omega_bar * (a_n + omega * (u_n - r_sum)))
    # a is now ∂L/∂a¹, with a¹ = −d/t.
    if d_log_t is not None:
        # Masked candidates carry a = 0, but 0·inf is NaN.
        shifted = p.logits(rows, h).sub_(saved.second[rows]).clamp_(min=-1e30)
        d_log_t[rows] -= shifted.mul_(a).sum(1, keepdim=True)
    torch.mm(a, p.key, out=d_query[rows]).mul_(2 * inverse_t)
    # See Problem.key_gradient.
    d_key.addmm_(a.T, p.query_rows[rows])


def _chunks(flags: Tensor, size: int):
    rows = flags.nonzero()[:, 0]
    return rows.split(size) if len(rows) else ()


def dense_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    mask: Tensor | None,
    k: int,
    exclude_self: bool,
    recursion: str,
) -> tuple[Tensor, ...]:
    """The operator on checked input, without autograd.

    Returns:
        out (B, M, K, F), then what `dense_backward` wants to have kept: the fields of `Saved`,
        with a batch dimension in front.
    """
    b, m, _ = query.shape
    out = value.new_empty(b, m, k, value.shape[2])
    batch = Saved.blank(b, m, k, query)
    saved = [batch.element(i) for i in range(b)]
    compiled = tiled_native.usable(query, k, recursion)
    problems = _problems(query, key, value, log_t, mask, exclude_self, recursion, compiled)
    if compiled:
        tiled_native.forward(problems, k, out, saved)
    elif recursion == "released":
        buffers = query.new_empty(2, problems[0].tile_rows(), len(problems[0].key))
        for p, s, z in zip(problems, saved, out):
            for rows in p.tiles():
                _forward_tile(p, rows, k, z[rows], s, buffers)
    for p, s, z in zip(problems, saved, out):
        for rows in _chunks(s.exact, p.tile_rows()):
            z[rows] = p.exact_rows(p.query[rows], p.key, p.value, p.log_t[rows], rows, k)
    return out, *batch.tensors()


def dense_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    mask: Tensor | None,
    out: Tensor,
    saved: tuple[Tensor, ...],
    k: int,
    exclude_self: bool,
    recursion: str,
    needs_log_t: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of query, key, value and (where needed) log temperature."""
    compiled = tiled_native.usable(query, k, recursion)
    problems = _problems(query, key, value, log_t, mask, exclude_self, recursion, compiled)
    batch = [Saved(*saved).element(i) for i in range(len(query))]
    b, n, padded = len(query), key.shape[1], len(problems[0].key)
    d_query = query.new_empty(query.shape)
    d_key = key.new_empty(b, padded, key.shape[2])
    d_value = value.new_empty(b, padded, value.shape[2])
    d_log_t = log_t.new_empty(log_t.shape) if needs_log_t else None
    grads = [
        (d_query[i], d_key[i], d_value[i], None if d_log_t is None else d_log_t[i])
        for i in range(b)
    ]
    if compiled:
        tiled_native.backward(problems, k, out, grad_out.contiguous(), batch, grads)
    else:
        for p, z, g, s, found in zip(problems, out, grad_out, batch, grads):
            _tensor_backward(p, k, z, g, s, found)
    for p, g, s, found in zip(problems, grad_out, batch, grads):
        for rows in _chunks(s.exact, p.tile_rows()):
            _add_exact_gradients(p, rows, k, g, found)
    d_key, d_value = d_key[:, :n], d_value[:, :n]
    if mask is not None:
        hidden = ~mask[..., None]
        d_key, d_value = d_key.masked_fill(hidden, 0.0), d_value.masked_fill(hidden, 0.0)
    return d_query, d_key, d_value, d_log_t


def _tensor_backward(p: Problem, k: int, z: Tensor, grad_z: Tensor, saved: Saved, grads) -> None:
    """Fills `grads` with what all rows but the exact ones contribute."""
    d_query, d_key, d_value, d_log_t = (g if g is None else g.zero_() for g in grads)
    exact = saved.exact
    if bool(exact.all()):
        return
    if bool(exact.any()):
        grad_z = grad_z.masked_fill(exact[:, None, None], 0.0)
        # Their saved numbers may not be finite: stand-ins keep 0 · inf out of the products.
        saved = Saved(*(t.clone() for t in saved.tensors()))
        saved.sums[exact] = 1.0
        saved.top[exact] = saved.second[exact]
    buffers = p.query.new_empty(k + 3, p.tile_rows(), len(p.key))
    key_sums = p.key.new_zeros(len(p.key), p.key.shape[1] + 1)
    for rows in p.tiles():
        _backward_tile(
            p, rows, k, z[rows], grad_z[rows], saved, (d_query, key_sums, d_value, d_log_t), buffers
        )
    p.key_gradient(key_sums, out=d_key)


def _add_exact_gradients(p: Problem, rows: Tensor, k: int, grad_z: Tensor, grads) -> None:
    d_query, d_key, d_value, d_log_t = grads
    leaves = [t.detach().requires_grad_() for t in (p.query[rows], p.key, p.value, p.log_t[rows])]
    with torch.enable_grad():
        again = p.exact_rows(*leaves, rows, k)
        found = torch.autograd.grad(again, leaves, grad_z[rows])
    d_query[rows] = found[0]
    d_key += found[1]
    d_value += found[2]
    if d_log_t is not None:
        d_log_t[rows] = found[3]
