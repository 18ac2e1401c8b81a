"""How long each stage of a run takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Wall-clock seconds by stage, in the order in which the stages ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add({name: time.perf_counter() - began})

    def add(self, seconds: dict[str, float]) -> None:
        """Stages that were measured elsewhere, behind these or added to them."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
