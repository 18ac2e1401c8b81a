"""The window form on images: patches are gathered.

float16 and bfloat16 are computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.ops import candidates, checks
from n3match.ops.noise import draw_seed
from n3match.ops.selection import Rule
from n3match.ops.window import cells as window_cells
from n3match.ops.window.grid import WindowGrid


def n3_window_aggregate(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    log_temperature: float | Tensor = 0.0,
    patch_size: int = 10,
    stride: int = 5,
    window: int = 15,
    *,
    exclude_self: bool = True,
    recursion: str = "released",
    selection: str = "n3",
    generator: torch.Generator | None = None,
) -> Tensor:
    """As `reference.n3_window_aggregate`, in linear memory. Differentiable once."""
    checks.check_k(k)
    checks.check_recursion(recursion)
    checks.check_selection(selection, generator)
    checks.check_window_images(query, key, value)
    grid = checks.window_grid(query, patch_size, stride, window)
    b = len(query)
    log_t = checks.as_window_log_temperature(log_temperature, b, grid, query)
    rule = Rule(k, recursion, selection, draw_seed(generator))
    if value.numel() * b == 0:
        return value.new_zeros(b, k, *value.shape[1:])
    given = value.dtype
    if given in (torch.float16, torch.bfloat16):
        query, key, value, log_t = (t.float() for t in (query, key, value, log_t))
    run = window_cells.aggregate if window_cells.usable(grid) else _gathering
    return run(query, key, value, log_t, grid, exclude_self, rule).to(given)


def _gathering(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    grid: WindowGrid,
    exclude_self: bool,
    rule: Rule,
) -> Tensor:
    """Whole patches as the items of the explicit form."""
    index = grid.candidates(query.device)
    m, o = index.shape
    own = torch.arange(m, device=query.device)[:, None]

    def near(of: int, rows: slice) -> candidates.Near:
        here = index[rows]
        selectable = here != own[rows] if exclude_self else None
        return candidates.Near(here, selectable, lambda: (of * m + own[rows]) * m + here)

    z = candidates.aggregate(
        *(grid.patches(image) for image in (query, key, value)), log_t,
        candidates.Search(rule, near, o),
    )
    return torch.stack([grid.put_back(z[:, :, step]) for step in range(rule.k)], 1)
