"""One figure of the operator's benchmark, the names it goes by, and what is too much to measure."""

from __future__ import annotations

from dataclasses import dataclass

OURS, PRODUCTS, PLAIN = "n3match", "matrix products", "plain formula"
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
    def attained(self) -> float | None:
        """Share of the ceiling, 0 … 1."""
        if self.floor_seconds is None or self.seconds is None:
            return None
        return self.floor_seconds / self.seconds


@dataclass(frozen=True)
class Limits:
    repeats: int = 5
    seconds: float = 20.0  # spent on one implementation at one size; the first call always counts
    baseline_bytes: float = 8e9  # a baseline that takes more is left out, and that is said
    memory: bool = True  # whether peak memory is measured

    def refusal(self, needed: float) -> str:
        """What is said of a baseline that takes about so many bytes; "" where it may run."""
        if needed <= self.baseline_bytes:
            return ""
        return f"not run: takes about {needed / 1e9:.2g} GB"
