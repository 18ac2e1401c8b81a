"""The N³ operator: a differentiable relaxation of k-nearest-neighbour selection.

``n3_weights`` and ``n3_aggregate`` choose a backend; ``reference`` holds the same two as plain
formulas, the oracle of every test.
"""

from n3match.ops import reference
from n3match.ops.functional import backends, n3_aggregate, n3_weights

__all__ = ["backends", "n3_aggregate", "n3_weights", "reference"]
