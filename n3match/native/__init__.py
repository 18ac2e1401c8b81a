"""Optional compiled loops for the CPU, built at install time where there is a C compiler.

Everything here can be done by tensor operations too, only slower; `available()` tells which it is.
The loops are there for several levels of processors, `LEVELS`, and the best one is taken; `level()`
tells which. The environment variable N3MATCH_NATIVE, read at the first use, holds them to a lower
one: `plain` (what every processor has), `avx2`, `avx512` or `avx512vnni` at most; 0 leaves the
library aside, 1 is as if it weren't set.

`masses` and `masses_backward` are the recursion of K distributions in place, row by row: with
`normal=True` logits (−d/t) become weights, and gradients of the weights gradients of the logits.
`descriptors` finds nearest neighbours. `run_tasks` hands whole tiles to threads.
"""

from n3match.native import descriptors
from n3match.native.library import (
    LANES,
    LEVELS,
    available,
    finish,
    level,
    logits,
    masses,
    masses_backward,
    prepare,
    serves,
)
from n3match.native.threads import run_tasks

__all__ = [
    "LANES", "LEVELS", "available", "descriptors", "finish", "level", "logits",
    "masses", "masses_backward", "prepare", "run_tasks", "serves",
]
