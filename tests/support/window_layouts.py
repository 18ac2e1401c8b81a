"""Layouts of the window form that matter, and inputs for them."""

import torch

from n3match.ops.window.grid import WindowGrid

# (height, width, patch, stride, window): P = S, 2S, 3S; larger windows than the grid; padding on
# either side; even windows; patches that aren't multiples of the stride; a single patch.
LAYOUTS = [
    (23, 31, 4, 2, 5),
    (21, 20, 4, 2, 20),
    (11, 45, 6, 2, 3),
    (19, 17, 3, 3, 4),
    (16, 40, 2, 1, 18),
    (17, 22, 5, 2, 3),
    (18, 13, 5, 4, 15),
    (7, 50, 7, 1, 6),
    (6, 6, 6, 3, 15),
    (36, 9, 8, 4, 15),
]


def inputs(layout, dtype=torch.float64, log_t=None, b=2, e=3, c=2, seed=0):
    h, w, *rest = layout
    n1, n2 = WindowGrid(*layout).shape
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)

    tau = draw(b, 1, n1, n2) + 1 if log_t is None else torch.full((b, 1, n1, n2), log_t).to(dtype)
    return (draw(b, e, h, w), draw(b, e, h, w), draw(b, c, h, w), tau), rest
