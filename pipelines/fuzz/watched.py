"""Cases by a process of their own, which is watched: crashes, hangs and memory are seen there."""

from __future__ import annotations

import collections
import multiprocessing
import os
import re
import resource
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from n3match.pipelines.common.progress import Progress
from n3match.pipelines.fuzz.outcomes import CRASH, GOOD, HANG, OUTCOMES

#: Of a case: longer is a hang. A busy machine may keep a process waiting for half a minute.
HANG_S = 120.0
#: Bytes that a case may take beyond what the process has before the first one.
MEMORY = 3 << 30
_LOOK_EVERY_S = 0.2

#: A case by its number: what became of it, and what is to be said.
Case = Callable[[int], tuple[str, str]]


@dataclass
class Tally:
    """What became of cases.

    Attributes:
        counts: by outcome.
        failures: number, outcome and description of each that shouldn't be.
        seconds: that it took.
    """

    counts: collections.Counter = field(default_factory=collections.Counter)
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        return sum(self.counts.values())

    def kinds(self) -> list[list[tuple[int, str, str]]]:
        """Failures that are alike, but for numbers, together; the most frequent first."""
        groups: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
        for failure in self.failures:
            _, outcome, told = failure
            head, _, tail = told.partition("): ")
            alike = re.sub(r"\d+|'[^']*'", "#", tail)[:120]
            groups.setdefault((outcome, head.partition("(")[0] + alike), []).append(failure)
        return sorted(groups.values(), key=len, reverse=True)


def run_watched(
    make: Callable[..., Case],
    arguments: tuple[Any, ...],
    *,
    seconds: float,
    first: int = 0,
    most: int | None = None,
    hang_s: float = HANG_S,
    method: str = "spawn",
    tell: Callable[[Tally], object] = lambda tally: None,
) -> Tally:
    """Runs cases one after the other until the time is over.

    Args:
        make: importable; (*arguments) -> the cases, made in the watched process.
        arguments: for it.
        seconds: that cases are begun in.
        first: number of the first one.
        most: the number that isn't reached; None: any is.
        hang_s: of one; longer is a hang.
        method: how processes are started, see `multiprocessing`.
        tell: is given what became of them so far, now and then and at the end.
    """
    context = multiprocessing.get_context(method)
    counts = context.RawArray("q", len(OUTCOMES))
    at = context.RawArray("d", 2)  # number of the case that runs, and since when
    tally, began = Tally(), time.monotonic()

    def look() -> None:
        tally.counts = collections.Counter({name: n for name, n in zip(OUTCOMES, counts) if n})
        tally.seconds = time.monotonic() - began
        bar.reach(min(seconds, tally.seconds))
        tell(tally)

    with Progress(seconds, "second") as bar:
        while time.monotonic() - began < seconds and (most is None or first < most):
            ours, theirs = context.Pipe(duplex=False)
            at[0], at[1] = first, 0.0
            until = seconds - (time.monotonic() - began)
            process = context.Process(
                target=_work, args=(make, arguments, first, most, until, counts, at, theirs)
            )
            process.start()
            theirs.close()
            ended = _watch(process, ours, at, tally, hang_s, look)
            if ended is None:
                break
            number = int(at[0])
            tally.failures.append((number, *ended))
            counts[OUTCOMES.index(ended[0])] += 1
            first = number + 1
        look()
    return tally


def _watch(process, connection, at, tally: Tally, hang_s: float, tick) -> tuple[str, str] | None:
    """None where it ended well; else how the case that ran ended."""
    while True:
        tick()
        try:
            if connection.poll(_LOOK_EVERY_S):
                tally.failures.append(connection.recv())
                continue
        except (EOFError, OSError):
            process.join()
            code = process.exitcode
            return None if code == 0 else (CRASH, f"(): the process ended with {code}")
        since = at[1]  # read once: the case may end between two looks
        if since and time.monotonic() - since > hang_s:
            process.kill()
            process.join()
            return HANG, f"(): longer than {hang_s:g} s"


def _work(make, arguments, first, most, seconds, counts, at, connection) -> None:
    warnings.simplefilter("ignore")
    # Libraries print of damaged files what they like.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    case = make(*arguments)
    _limit_memory(MEMORY)
    until, parent = time.monotonic() + seconds, os.getppid()
    number = first
    # Whoever started this may have been killed.
    while (
        time.monotonic() < until and (most is None or number < most) and os.getppid() == parent
    ):
        at[0], at[1] = number, time.monotonic()
        outcome, told = case(number)
        at[1] = 0.0
        counts[OUTCOMES.index(outcome)] += 1
        if outcome not in GOOD:
            connection.send((number, outcome, told.encode("utf-8", "replace").decode()))
        number += 1
    at[0] = number
    connection.close()


def _limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_one(case: Case, number: int) -> tuple[str, str]:
    """A case in this process, with the traceback of its error printed."""
    try:
        return case(number)
    except BaseException:
        traceback.print_exc()
        raise
