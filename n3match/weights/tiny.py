"""Numbers too small to matter, which slow a CPU down."""

from __future__ import annotations

from torch import Tensor

# Products of such weights with features are denormal: many times slower, and without effect.
SMALLEST = 1e-20


def without_tiny(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary in which floating-point numbers nearer to 0 than 1e-20 are 0."""
    return {
        name: t.masked_fill(t.abs() < SMALLEST, 0.0) if t.is_floating_point() else t
        for name, t in state.items()
    }
