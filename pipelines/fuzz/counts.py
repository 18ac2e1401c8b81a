"""Counts of long runs, in a file that grows: a restart goes on, and several runs may share it."""

from __future__ import annotations

import collections
import json
import time
from dataclasses import dataclass
from pathlib import Path

from n3match.pipelines.fuzz.outcomes import OUTCOMES
from n3match.pipelines.fuzz.watched import Tally

_EVERY_S = 30.0


@dataclass(frozen=True)
class Run:
    """What numbers of cases are of.

    Attributes:
        what: calls, files or kills.
        seed: of them.
        only: part of the names of what they are of; "": all.
    """

    what: str
    seed: int
    only: str = ""


class Counts:
    """A line of JSON for each stretch of cases: of which run, the outcomes, failures, seconds.

    A line is written at once and at the end of the file: a run that is killed loses its last
    stretch, which is run again, and the lines of another aren't touched.

    Args:
        path: of the file, which needn't be there.

    Raises:
        OSError: it can't be read. ValueError: a line of it is no such.
    """

    def __init__(self, path: Path):
        self.path = path
        self.of: dict[Run, Tally] = collections.defaultdict(Tally)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                run = Run(entry["what"], entry["seed"], entry["only"])
                counts = {name: entry["counts"].get(name, 0) for name in OUTCOMES}
                tally = Tally(
                    collections.Counter({name: int(n) for name, n in counts.items() if n}),
                    [(int(n), str(outcome), str(told)) for n, outcome, told in entry["failures"]],
                    float(entry["seconds"]),
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}: line {number} isn't of counts: {error}") from error
            _add(self.of[run], tally)

    def recorder(self, run: Run):
        """Takes what became of a run so far, and writes what is new in it."""
        told = Tally()
        last = time.monotonic()

        def record(tally: Tally, at_once: bool = False) -> None:
            nonlocal told, last
            is_new = tally.cases > told.cases or len(tally.failures) > len(told.failures)
            if not is_new or not (at_once or time.monotonic() - last >= _EVERY_S):
                return
            new = Tally(
                tally.counts - told.counts, tally.failures[len(told.failures) :],
                tally.seconds - told.seconds,
            )
            entry = {
                "what": run.what, "seed": run.seed, "only": run.only, "counts": dict(new.counts),
                "seconds": round(new.seconds, 1), "failures": new.failures,
            }
            line = json.dumps(entry) + "\n"
            with self.path.open("ab", buffering=0) as file:
                if file.write(line.encode()) < len(line):
                    raise OSError(f"{self.path}: no space for a line of counts")
            _add(self.of[run], new)
            told = Tally(tally.counts.copy(), list(tally.failures), tally.seconds)
            last = time.monotonic()

        return record

    def total(self, what: str) -> Tally:
        """Of all runs of one kind."""
        found = Tally()
        for run, tally in self.of.items():
            if run.what == what:
                _add(found, tally)
        return found


def _add(tally: Tally, more: Tally) -> None:
    tally.counts.update(more.counts)
    tally.failures.extend(more.failures)
    tally.seconds += more.seconds
