"""How a row of distances becomes K distributions, and the way back: what all forms share but the
dense one in compiled loops.

A block of rows is a plain tensor (R, O) of squared distances, +inf where a candidate may not be
selected. The recursion as in dense/problem.py; logits are taken relative to the nearest candidate
before they are divided by t, so that no digits of the distances are lost at small t. Rows in which
the nearest is certain or alone (see `reference`), and every row in the "poster" recursion, go
through the reference formula. The compiled loops do the rest where they are there.

R rows (queries), O candidates, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from n3match import native
from n3match.ops import reference
from n3match.ops.noise import gumbel


@dataclass(frozen=True)
class Rule:
    """Which distributions are wanted."""

    k: int
    recursion: str = "released"
    selection: str = "n3"
    seed: int | None = None  # of the noise; None: no noise

    @property
    def differentiable(self) -> bool:
        return self.selection != "knn"


# The numbers that noise depends on, (R, O) int64, made only where there is noise.
Numbers = Callable[[], Tensor]


def _noisy(d: Tensor, rule: Rule, numbers: Numbers) -> Tensor:
    return d if rule.seed is None else d - gumbel(rule.seed, numbers(), d.dtype)


def weights(d: Tensor, log_t: Tensor, rule: Rule, numbers: Numbers) -> Tensor:
    """(R, O) -> (R, K, O), without gradients; log_t (R, 1). A row without candidates gives 0."""
    if rule.selection == "knn":
        return reference.nearest_one_hot(d, rule.k, d.isfinite()).mT
    return _row_weights(_noisy(d, rule, numbers), log_t, rule.k, rule.recursion)


def nearest(d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(R, O) -> (R, K) columns of the nearest, the first among equals, the last one again where
    there are no more; and (R,) bool, whether a row has candidates at all."""
    left, found = d.clone(), []
    for _ in range(k):
        least, column = left.min(1, keepdim=True)
        found.append(torch.where(least.isinf(), found[-1], column) if found else column)
        left.scatter_(1, found[-1], float("inf"))
    columns = torch.cat(found, 1)
    return columns, d.gather(1, columns[:, :1])[:, 0].isfinite()


def gradients(
    d: Tensor, log_t: Tensor, grad: Tensor, rule: Rule, numbers: Numbers
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a differentiable rule: the weights anew, and what a gradient of them, (R, K, O), does to d
    and log_t: (R, O) and (R, 1). `grad` is overwritten."""
    noisy = _noisy(d, rule, numbers)
    return _row_gradients(noisy, log_t, grad, rule.k, rule.recursion)


_MAX_INVERSE_T = 1e30


def inverse_t_of(log_t: Tensor) -> Tensor:
    return torch.exp(-log_t).clamp(max=_MAX_INVERSE_T)


def _logits(d: Tensor, inverse_t: Tensor, out: Tensor) -> Tensor:
    """−d/t relative to the nearest, −inf where not selectable."""
    nearest = d.amin(1, keepdim=True)
    nearest = torch.where(nearest.isinf(), torch.zeros_like(nearest), nearest)
    torch.sub(nearest, d, out=out)
    return out.mul_(inverse_t)


@dataclass
class _First:
    """The first distribution, apart from the nearest; each (R, 1) but `mass`."""

    nearest: Tensor  # index
    mass: Tensor  # (R, O) relative to the second nearest, 0 for the nearest
    s: Tensor  # their sum
    g: Tensor
    z: Tensor  # 1 + gS
    exact: Tensor  # (R,) the reference must do this row


def _first(logits: Tensor) -> _First:
    """Overwrites the logits."""
    top, nearest = logits.max(1, keepdim=True)
    rest = logits.scatter_(1, nearest, float("-inf"))
    second = rest.amax(1, keepdim=True)
    second = torch.where(second.isinf(), torch.zeros_like(second), second)
    mass = rest.sub_(second).exp_()
    s = mass.sum(1, keepdim=True)
    gap = top - second
    g = torch.exp(-gap)
    exact = ((s <= 0) | ~(gap <= reference.CERTAIN_GAP))[:, 0]
    # Numbers of rows that go to the reference only have to be finite here.
    s = s.masked_fill(exact[:, None], 1.0)
    g = g.masked_fill(exact[:, None], 1.0)
    return _First(nearest, mass, s, g, 1 + g * s, exact)


def _tensor_weights(logits: Tensor, w: Tensor) -> _First:
    """Fills w (R, K, O)."""
    first = _first(logits)
    nearest, q, s, g, z = first.nearest, first.mass, first.s, first.g, first.z
    torch.mul(q, g / z, out=w[:, 0])
    w[:, 0].scatter_(1, nearest, 1 / z)
    for step in range(1, w.shape[1]):
        before, here = w[:, step - 1], w[:, step]
        if step == 1:
            torch.mul(q, 1 - before, out=here)
            here.scatter_(1, nearest, s / z)
        else:
            torch.addcmul(before, before, before, value=-1.0, out=here)
        here.div_(here.sum(1, keepdim=True))
    return first


def _tensor_gradients(
    w: Tensor, u: Tensor, first: _First, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the logits (R, O) and of log t (R, 1).

    With A = ∂L/∂a of the next step and u the gradient of the weights: A += w(h − Σ wh),
    h = u − A/(1 − w). In the first step the nearest is treated by itself so that no 1 − w ≈ 0 is
    divided by (the terms cancel).
    """
    a = torch.zeros_like(w[:, 0])
    for step in range(w.shape[1] - 1, 0, -1):
        here = w[:, step]
        h = u[:, step] - a / (1 - here)
        a += here * (h - (here * h).sum(1, keepdim=True))
    nearest, q, s, g, z = first.nearest, first.mass, first.s, first.g, first.z
    omega, omega_bar = 1 / z, g * s / z
    a_n, u_n = a.gather(1, nearest), u[:, 0].gather(1, nearest)
    h = u[:, 0] - a / (1 - q * (g / z))
    mean = (q * h).sum(1, keepdim=True) / s
    offset = omega * a_n - omega_bar * (omega * u_n + omega_bar * mean)
    a = a + q / s * (omega_bar * h + offset)
    a.scatter_(1, nearest, omega_bar * (a_n + omega * (u_n - mean)))
    # Candidates that can't be selected carry a = 0, but 0·inf is NaN.
    return a, -(logits.clamp(min=-1e30) * a).sum(1, keepdim=True)


def _reference_rows(d: Tensor, log_t: Tensor, k: int, recursion: str) -> Tensor:
    """(R, O), (R, 1) -> (R, K, O)."""
    selectable = ~d.isinf()
    d = d.masked_fill(~selectable, 0.0)
    return reference.n3_weights(
        d[None], k, log_t[None], mask=selectable[None], recursion=recursion
    )[0].mT


def _row_weights(d: Tensor, log_t: Tensor, k: int, recursion: str) -> Tensor:
    """(R, O), (R, 1) -> (R, K, O)."""
    if recursion != "released":
        return _reference_rows(d, log_t, k, recursion)
    rows, o = d.shape
    if native.serves(d, k):
        w, exact = _compiled_weights(d, log_t, k)
    else:
        w = d.new_empty(rows, k, o)
        exact = _tensor_weights(_logits(d, inverse_t_of(log_t), torch.empty_like(d)), w).exact
    if bool(exact.any()):
        w[exact] = _reference_rows(d[exact], log_t[exact], k, recursion)
    return w


def _row_gradients(
    d: Tensor, log_t: Tensor, grad: Tensor, k: int, recursion: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (R, K, O), and gradients of d (R, O) and log_t (R, 1); `grad` (R, K, O) is used up.

    A candidate that can't be selected gets exactly 0.
    """
    if recursion != "released":
        return _reference_gradients(d, log_t, grad, k, recursion)
    inverse_t = inverse_t_of(log_t)
    if native.serves(d, k):
        w, d_logits, d_log_t, exact = _compiled_gradients(d, log_t, grad, k)
    else:
        logits = _logits(d, inverse_t, torch.empty_like(d))
        w = d.new_empty(len(d), k, d.shape[1])
        first = _tensor_weights(logits.clone(), w)
        d_logits, d_log_t = _tensor_gradients(w, grad, first, logits)
        exact = first.exact
    d_d = d_logits.mul_(-inverse_t)
    if bool(exact.any()):
        w[exact], d_d[exact], d_log_t[exact] = _reference_gradients(
            d[exact], log_t[exact], grad[exact], k, recursion
        )
    return w, d_d, d_log_t


def _reference_gradients(d, log_t, grad, k, recursion) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (d, log_t)]
        w = _reference_rows(*leaves, k, recursion)
        found = torch.autograd.grad(w, leaves, grad)
    return w.detach(), *found


def _compiled_block(d: Tensor, log_t: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(R, K, O) with logits in [:, 0], O padded as the compiled loops want it; and (R,) which rows
    these leave to the reference."""
    rows, o = d.shape
    m = d.new_empty(rows, k, o + -o % native.LANES)
    certain = torch.empty(rows, dtype=torch.bool)
    native.logits(d.contiguous(), inverse_t_of(log_t).contiguous(), m, certain)
    return m, certain


def _compiled_weights(d: Tensor, log_t: Tensor, k: int) -> tuple[Tensor, Tensor]:
    m, exact = _compiled_block(d, log_t, k)
    nearest = torch.empty(len(d), dtype=torch.int64)
    native.masses(
        m, nearest, d.new_empty(len(d)), d.new_empty(len(d)), d.new_empty(len(d), k), exact,
        normal=True,
    )
    return m[:, :, : d.shape[1]], exact


def _compiled_gradients(d, log_t, grad, k) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    m, exact = _compiled_block(d, log_t, k)
    o, padded = d.shape[1], m.shape[2]
    u = functional.pad(grad, (0, padded - o)) if padded > o else grad.contiguous()
    if bool(exact.any()):
        u = u.clone()  # the caller's is still wanted for the rows left out
    d_log_t = d.new_empty(len(d), 1)
    native.masses_backward(m, u, exact, None, d_log_t, normal=True)
    return m[:, :, :o], u[:, -1, :o], d_log_t, exact
