"""Optional compiled loops for the CPU, built at install time where there is a C compiler.

Everything here can be done by tensor operations too, only slower; `available()` tells which it is.
The loops are there for several levels of processors, `LEVELS`, and the best one is taken; `level()`
tells which. The environment variable N3MATCH_NATIVE, read at the first use, holds them to a lower
one: `plain` (what every processor has), `avx2`, `avx512` or `avx512vnni` at most; 0 leaves the
library aside, 1 is as if it weren't set.

`masses` and `masses_backward` are the recursion of K distributions in place, row by row: with
`normal=True` logits (−d/t) become weights, and gradients of the weights gradients of the logits.
`nearest` takes minima of rows and columns together; `integer_distances` are products of 16-bit
integers, on processors that have an instruction for it. `run_tasks` hands whole tiles to threads.
"""

from n3match.native.integers import (
    PANEL,
    has_integer_products,
    in_panels,
    integer_distances,
)
from n3match.native.library import (
    LANES,
    LARGEST_K,
    LEVELS,
    available,
    finish,
    level,
    logits,
    masses,
    masses_backward,
    nearest,
    prepare,
)
from n3match.native.workers import run_tasks

__all__ = [
    "LANES", "LARGEST_K", "LEVELS", "PANEL", "available", "finish", "has_integer_products",
    "in_panels", "integer_distances", "level", "logits", "masses", "masses_backward", "nearest",
    "prepare", "run_tasks",
]
