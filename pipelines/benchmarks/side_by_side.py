"""All implementations at one size: time in turns, then peak memory, each in its own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from n3match.pipelines.benchmarks.measure import peak_bytes_in_turn, seconds_within
from n3match.pipelines.benchmarks.measurement import OURS, PRODUCTS, Limits, Measurement

Call = Callable[[], object]


def side_by_side(
    form: str,
    size: int,
    names: Sequence[str],
    *,
    call: Callable[[str, int, bool], Call],
    prepare: Callable[..., Sequence[Call]],
    needed_bytes: Callable[[str, bool], float],
    floor_seconds: Callable[[bool], float],
    limits: Limits,
    earlier: Sequence[Measurement] = (),
) -> list[Measurement]:
    """A measurement for each name, without and with gradients.

    Args:
        call: (name, size, gradients) -> the call to time.
        prepare: importable; (name, size, passes) -> a call for each of `passes` (gradients?), made
            in the process that measures its memory. Not asked for `PRODUCTS`.
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
        found = seconds_within(functions, limits.repeats, limits.seconds)
        seconds.update({(name, g): value for name, value in found.items()})
    peaks = {}
    for name in names if limits.memory else ():
        able = [g for g in passes if not notes[name, g]]
        if name != PRODUCTS and able:
            found = peak_bytes_in_turn(prepare, name, size, able)
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
