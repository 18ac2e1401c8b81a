"""One figure of the operator's benchmark, the names it goes by, and what is too much to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OURS, PRODUCTS = "n3match", "matrix products"
PLAIN = "plain formula"  # ops.reference: exact, in float64
FLOAT32 = "float32 tensors"  # the same, as fast as it goes without fusing anything
GATHERING, AUTHORS = "gathering", "authors' algorithm"


@dataclass(frozen=True)
class Measurement:
    form: str  # "dense" or "window"
    size: int  # N, or the side of a square image, pixels
    gradients: bool
    implementation: str
    seconds: float | None = None  # None: not run
    peak_bytes: int | None = None  # above the inputs; None: not measured
    floor_seconds: float | None = None  # at the machine's ceilings; of OURS alone
    note: str = ""

    @property
    def size_label(self) -> str:
        return f"{self.size}" if self.form == "dense" else f"{self.size}²"

    @property
    def attained(self) -> float | None:
        """Share of the ceiling, 0 … 1."""
        if self.floor_seconds is None or self.seconds is None:
            return None
        return self.floor_seconds / self.seconds


@dataclass(frozen=True)
class Limits:
    repeats: int = 5
    # Spent on one implementation at one size; the first call always counts. A baseline whose call
    # takes longer than that isn't run at larger sizes, and that is said.
    seconds: float = 10.0
    baseline_bytes: float = 5e9  # a baseline that takes more isn't run, and that is said
    memory: bool = True  # whether peak memory is measured

    def refusal(self, needed: float, earlier: Sequence[Measurement] = ()) -> str:
        """What is said of a baseline that isn't run; "" where it may run.

        Args:
            needed: about the bytes it takes. earlier: what was measured of it at smaller sizes.
        """
        if needed > self.baseline_bytes:
            return f"not run: takes about {needed / 1e9:.2g} GB"
        for row in earlier:
            if row.seconds is not None and row.seconds > self.seconds:
                return f"not run: took {row.seconds:.2g} s at {row.size_label}"
        return ""
