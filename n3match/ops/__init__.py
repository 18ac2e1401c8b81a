"""The N³ operator: a differentiable relaxation of k-nearest-neighbour selection.

``n3_aggregate`` and ``n3_window_aggregate`` choose a backend; ``reference`` is the one of plain
formulas, the oracle of every test.
"""

from n3match.ops import reference
from n3match.ops.dispatch import backends
from n3match.ops.functional import n3_aggregate, n3_window_aggregate
from n3match.ops.reference import n3_weights
from n3match.ops.window.spread import window_distance_moments

__all__ = [
    "backends",
    "n3_aggregate",
    "n3_weights",
    "n3_window_aggregate",
    "reference",
    "window_distance_moments",
]
