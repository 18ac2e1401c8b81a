"""Time and peak memory of functions, side by side in one run, and what is too much to measure."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS, PRODUCTS = "n3match", "matrix products"
PLAIN = "plain formula"  # ops.reference: exact, in float64
FLOAT32 = "float32 tensors"  # the same, as fast as it goes without fusing anything
GATHERING, AUTHORS = "gathering", "authors' algorithm"

Call = Callable[[], object]


def median_seconds(
    functions: dict[str, Call], repeats: int, budget: float = math.inf
) -> dict[str, float]:
    """Median wall seconds of each function, see `seconds_in_turns`."""
    found = seconds_in_turns(functions, repeats, budget)
    return {name: statistics.median(values) for name, values in found.items()}


def seconds_in_turns(
    functions: dict[str, Call],
    repeats: int,
    budget: float = math.inf,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each function, called in turns after one warm-up each.

    Turns, so that a machine that slows down for a while slows all of them alike. Each function gets
    about `budget` seconds at most: one that takes long is called fewer times; one whose first call
    takes half the budget only that once, its warm-up being a small part of it. `clock`: None for
    the time on the wall.
    """
    seconds: dict[str, list[float]] = {}
    rounds: dict[str, int] = {}
    for name, function in functions.items():
        first = seconds_of_call(function, clock)
        rounds[name] = int(min(repeats + 1, budget / max(first, 1e-9))) - 1
        seconds[name] = [first] if rounds[name] < 1 else []
    for turn in range(repeats):
        for name, function in functions.items():
            if turn < rounds[name]:
                seconds[name].append(seconds_of_call(function, clock))
    return seconds


def seconds_of_call(function: Call, clock: Callable[[], float] | None = None) -> float:
    clock = clock or time.perf_counter
    start = clock()
    function()
    return clock() - start


def peak_resident() -> int:
    """Largest resident memory of this process so far, bytes.

    Not ru_maxrss: on Linux a started process inherits that of the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: peak memory can't be measured here")


def in_new_process(target: Callable[..., None], *arguments) -> list:
    """What an importable function sends through the connection that it is given last.

    Raises:
        MemoryError: it didn't end well.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    sent = []
    try:
        while True:
            sent.append(ours.recv())
    except EOFError:
        pass
    finally:
        process.join()
    if process.exitcode != 0:
        raise MemoryError("the measured process died (out of memory?)")
    return sent


def _measure(prepare, arguments, connection) -> None:
    functions = prepare(*arguments)
    before = peak_resident()
    for function in functions:
        function()
        connection.send(peak_resident() - before)


def peak_bytes_in_turn(prepare: Callable[..., Sequence[Call]], *arguments) -> list[int]:
    """Growth of the peak resident memory by calls made one after the other, in a new process.

    Args:
        prepare: importable function that makes the inputs and returns the calls to measure, the
            one that takes least first: each figure is the peak so far.
    """
    return in_new_process(_measure, prepare, arguments)


def _prepare_one(prepare, *arguments) -> list[Call]:
    return [prepare(*arguments)]


def peak_bytes(prepare: Callable[..., Call], *arguments) -> int:
    """`peak_bytes_in_turn` of one call, which `prepare` returns."""
    return peak_bytes_in_turn(_prepare_one, prepare, *arguments)[0]


@dataclass(frozen=True)
class Measurement:
    """One figure of the operator's benchmark."""

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


def _prepare(call, small: int, name: str, size: int, passes: Sequence[bool]) -> list[Call]:
    for gradients in passes:  # what torch loads at its first call isn't the operator's
        call(name, small, gradients)()
    return [call(name, size, gradients) for gradients in passes]


def side_by_side(
    form: str,
    size: int,
    names: Sequence[str],
    *,
    call: Callable[[str, int, bool], Call],
    small: int,
    needed_bytes: Callable[[str, bool], float],
    floor_seconds: Callable[[bool], float],
    limits: Limits,
    earlier: Sequence[Measurement] = (),
) -> list[Measurement]:
    """All implementations at one size: time in turns, then peak memory, each in its own process.

    A measurement for each name, without and with gradients.

    Args:
        call: importable; (name, size, gradients) -> the call to time, and to measure the memory of
            in another process, but for `PRODUCTS`.
        small: a size at which calls are made first there.
        needed_bytes: (name, gradients) -> about what it takes: too much for `limits`, and it is
            left out with a note.
        earlier: measurements of the same form at smaller sizes: what was too slow there is left
            out with a note, except `OURS` and `PRODUCTS`.
        floor_seconds: (gradients) -> the least time that `OURS` can take on this machine.
    """
    passes = (False, True)
    notes = {}
    for name in names:
        for g in passes:
            before = [r for r in earlier if (r.implementation, r.gradients) == (name, g)]
            if name in (OURS, PRODUCTS):
                before = []
            notes[name, g] = limits.refusal(needed_bytes(name, g), before)
    rows = []
    seconds = {}
    for g in passes:
        functions = {name: call(name, size, g) for name in names if not notes[name, g]}
        found = median_seconds(functions, limits.repeats, limits.seconds)
        seconds.update({(name, g): value for name, value in found.items()})
    peaks = {}
    for name in names if limits.memory else ():
        able = [g for g in passes if not notes[name, g]]
        if name != PRODUCTS and able:
            found = peak_bytes_in_turn(_prepare, call, small, name, size, able)
            peaks.update({(name, g): value for g, value in zip(able, found)})
    for g in passes:
        for name in names:
            rows.append(
                Measurement(
                    form=form,
                    size=size,
                    gradients=g,
                    implementation=name,
                    seconds=seconds.get((name, g)),
                    peak_bytes=peaks.get((name, g)),
                    floor_seconds=floor_seconds(g) if name == OURS else None,
                    note=notes[name, g],
                )
            )
    return rows
