"""The dense form as a custom operator: by the compiled loops where they are there, else as explicit
candidates that are all items."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from n3match import native
from n3match.ops import candidates as explicit
from n3match.ops.custom_op import differentiable
from n3match.ops.dense import compiled
from n3match.ops.dense.problem import Problem, Saved, prepare
from n3match.ops.selection import Rule

_EXACT_ELEMENTS = 1 << 19  # distances that the reference formula does at a time


def _problems(query, key, value, log_t, mask, exclude_self) -> list[Problem]:
    """One for each batch element."""
    found: list = [None] * len(query)

    def work(share: Iterator[int]) -> None:
        for i in share:
            of_mask = None if mask is None else mask[i]
            found[i] = prepare(query[i], key[i], value[i], log_t[i], of_mask, exclude_self)

    native.run_tasks(work, range(len(query)))
    return found


def _exact_rows(saved: Saved, items: int):
    rows = saved.exact.nonzero()[:, 0]
    return rows.split(max(1, _EXACT_ELEMENTS // items)) if len(rows) else ()


def _search(query, key, mask, k, exclude_self, recursion) -> explicit.Search:
    return explicit.search_for(query, key, None, mask, exclude_self, Rule(k, recursion))


def _forward(query, key, value, log_t, mask, k, exclude_self, recursion) -> tuple[Tensor, ...]:
    b, m, _ = query.shape
    kept = Saved.blank(b, m, k, query)
    if not native.serves(query, k, recursion):
        search = _search(query, key, mask, k, exclude_self, recursion)
        return explicit.forward(query, key, value, log_t, search), *kept.tensors()
    out = value.new_empty(b, m, k, value.shape[2])
    saved = [kept.element(i) for i in range(b)]
    problems = _problems(query, key, value, log_t, mask, exclude_self)
    compiled.forward(problems, k, out, saved)
    for p, s, z in zip(problems, saved, out):
        for rows in _exact_rows(s, len(p.key)):
            z[rows] = p.exact_rows(p.query[rows], p.key, p.value, p.log_t[rows], rows, k)
    return out, *kept.tensors()


def _backward(grad, tensors, outputs, options, wanted) -> tuple[Tensor | None, ...]:
    query, key, value, log_t, mask = tensors
    k, exclude_self, recursion = options
    if not native.serves(query, k, recursion):
        search = _search(query, key, mask, k, exclude_self, recursion)
        return *explicit.backward(grad, query, key, value, log_t, search), None
    out, *saved = outputs
    batch = [Saved(*saved).element(i) for i in range(len(query))]
    problems = _problems(query, key, value, log_t, mask, exclude_self)
    b, n, padded = len(query), key.shape[1], len(problems[0].key)
    d_query = query.new_empty(query.shape)
    d_key = key.new_empty(b, padded, key.shape[2])
    d_value = value.new_empty(b, padded, value.shape[2])
    d_log_t = log_t.new_empty(log_t.shape) if wanted[3] else None
    grads = [
        (d_query[i], d_key[i], d_value[i], None if d_log_t is None else d_log_t[i])
        for i in range(b)
    ]
    compiled.backward(problems, k, out, grad.contiguous(), batch, grads)
    for p, g, s, found in zip(problems, grad, batch, grads):
        for rows in _exact_rows(s, len(p.key)):
            _add_exact_gradients(p, rows, k, g, found)
    d_key, d_value = d_key[:, :n], d_value[:, :n]
    if mask is not None:
        d_key, d_value = (d.masked_fill(~mask[..., None], 0.0) for d in (d_key, d_value))
    return d_query, d_key, d_value, d_log_t, None


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


def _blank(query, key, value, log_t, mask, k, exclude_self, recursion) -> tuple[Tensor, ...]:
    b, m, _ = query.shape
    return value.new_empty(b, m, k, value.shape[2]), *Saved.blank(b, m, k, query).tensors()


_dense = differentiable(
    "dense",
    "query key value log_t mask?",
    "int k, bool exclude_self, str recursion",
    forward=_forward,
    backward=_backward,
    blank=_blank,
    kept=5,
)


def aggregate(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, mask: Tensor | None, k: int,
    exclude_self: bool, recursion: str = "released",
) -> Tensor:
    """(B, M, E), (B, N, E), (B, N, F), (B, M, 1), (B, N) or None -> (B, M, K, F), float32 or
    float64, checked before; memory linear in M and N."""
    return _dense(query, key, value, log_t, mask, k, exclude_self, recursion)[0]
