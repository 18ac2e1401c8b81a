"""Optional compiled loops for the CPU, built at install time where there is a C compiler.

Everything here can be done by tensor operations too, only slower; `available()` tells which it is.
The environment variable N3MATCH_NATIVE=0 leaves the library aside.
"""

from n3match.native.library import available, weights, weights_backward
from n3match.native.workers import run_tasks

__all__ = ["available", "run_tasks", "weights", "weights_backward"]
