"""Time and peak memory of functions, side by side in one run."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
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
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _peak_resident() -> int:
    """Largest resident memory of this process so far, bytes.

    Not ru_maxrss: on Linux a started process inherits that of the one that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: peak memory can't be measured here")


def _measure(prepare, arguments, connection) -> None:
    function = prepare(*arguments)
    before = _peak_resident()
    function()
    connection.send(_peak_resident() - before)


def peak_bytes(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    """Growth of the peak resident memory by one call, in a process of its own.

    Args:
        prepare: importable function that makes the inputs and returns the call to measure.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(prepare, arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise MemoryError("the measured process died (out of memory?)") from None
    finally:
        process.join()
