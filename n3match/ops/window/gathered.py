"""The window form where patches aren't whole cells: patches are gathered, the items of the explicit
form."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import candidates
from n3match.ops.selection import Rule
from n3match.ops.window.grid import WindowGrid


def _search(grid: WindowGrid, exclude_self: bool, rule: Rule, device) -> candidates.Search:
    index = grid.candidates(device)
    m, o = index.shape
    own = torch.arange(m, device=device)[:, None]

    def near(of: int, rows: slice) -> candidates.Near:
        here = index[rows]
        selectable = here != own[rows] if exclude_self else None
        return candidates.Near(here, selectable, lambda: (of * m + own[rows]) * m + here)

    return candidates.Search(rule, near, o, gathered=True)


def _put_back(z: Tensor, grid: WindowGrid) -> Tensor:
    """(B, M, K, C·P²) -> (B, K, C, H, W)."""
    return torch.stack([grid.put_back(part) for part in z.unbind(2)], 1)


def forward(
    query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, grid: WindowGrid, exclude_self: bool,
    rule: Rule,
) -> Tensor:
    """As `cells.forward`."""
    search = _search(grid, exclude_self, rule, query.device)
    patches = [grid.patches(image) for image in (query, key, value)]
    return _put_back(candidates.forward(*patches, log_t.reshape(len(log_t), -1, 1), search), grid)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, log_t: Tensor, grid: WindowGrid,
    exclude_self: bool, rule: Rule, wanted,
) -> list[Tensor]:
    """As `cells.backward`."""
    images = [image.detach().requires_grad_() for image in (query, key, value)]
    with torch.enable_grad():
        patches = [grid.patches(image) for image in images]
        blank = value.new_zeros(*patches[2].shape[:2], rule.k, patches[2].shape[2])
        put_back = _put_back(blank.requires_grad_(), grid)
    (g,) = torch.autograd.grad(put_back, blank, grad)
    search = _search(grid, exclude_self, rule, query.device)
    parts = [p.detach() for p in patches]
    *found, d_log_t = candidates.backward(g, *parts, log_t.reshape(len(log_t), -1, 1), search)
    return [*torch.autograd.grad(patches, images, found), d_log_t.reshape(log_t.shape)]
