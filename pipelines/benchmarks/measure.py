"""Time and peak memory of functions, side by side in one run."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def median_seconds(
    functions: dict[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Median wall seconds of each function, called in turns after one warm-up each.

    Turns, so that a machine that slows down for a while slows all of them alike.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(_seconds(function))
    return {name: statistics.median(values) for name, values in seconds.items()}


def seconds_within(
    functions: dict[str, Callable[[], object]], repeats: int, budget: float
) -> dict[str, float]:
    """As `median_seconds`, but each function gets about `budget` seconds at most.

    One that takes long is called fewer times; one whose first call takes half the budget only that
    once, its warm-up being a small part of it.
    """
    seconds: dict[str, list[float]] = {}
    rounds: dict[str, int] = {}
    for name, function in functions.items():
        first = _seconds(function)
        rounds[name] = min(repeats, int(budget / max(first, 1e-9)) - 1)
        seconds[name] = [first] if rounds[name] < 1 else []
    for turn in range(repeats):
        for name, function in functions.items():
            if turn < rounds[name]:
                seconds[name].append(_seconds(function))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_resident() -> int:
    """Largest resident memory of this process so far, bytes.

    Not ru_maxrss: on Linux a started process inherits that of the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: peak memory can't be measured here")


def _measure(prepare, arguments, connection) -> None:
    functions = prepare(*arguments)
    before = peak_resident()
    for function in functions:
        function()
        connection.send(peak_resident() - before)


def peak_bytes_in_turn(
    prepare: Callable[..., Sequence[Callable[[], object]]], *arguments
) -> list[int]:
    """Growth of the peak resident memory by calls made one after the other, in a new process.

    Args:
        prepare: importable function that makes the inputs and returns the calls to measure, the
            one that takes least first: each figure is the peak so far.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, arguments, theirs))
    process.start()
    theirs.close()
    peaks = []
    try:
        while True:
            peaks.append(ours.recv())
    except EOFError:
        pass
    finally:
        process.join()
    if process.exitcode != 0:
        raise MemoryError("the measured process died (out of memory?)")
    return peaks


def _prepare_one(prepare, *arguments) -> list[Callable[[], object]]:
    return [prepare(*arguments)]


def peak_bytes(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    """`peak_bytes_in_turn` of one call, which `prepare` returns."""
    return peak_bytes_in_turn(_prepare_one, prepare, *arguments)[0]
