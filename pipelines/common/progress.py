"""How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Where standard error is no terminal, seconds to the first line and from line to line: none for
# what is done soon, few enough not to fill a log over night.
FIRST_LINE_S, LINE_EVERY_S = 5.0, 30.0

_quiet = ContextVar("quiet", default=False)


def is_quiet() -> bool:
    """Whether this is within `quietly`."""
    return _quiet.get()


@contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """No progress is shown within, where `quiet`."""
    before = _quiet.set(quiet or is_quiet())
    try:
        yield
    finally:
        _quiet.reset(before)


class Progress:
    """Counts work that is done, and shows it.

    Args:
        total: of the work, in units.
        unit: what is counted, e.g. "pair".
        done: so much was there before this run.
        shown: nothing is shown otherwise, nor within `quietly`.
    """

    def __init__(self, total: float, unit: str, *, done: float = 0, shown: bool = True):
        self.total, self.unit, self.done = total, unit, done
        self._what = ""
        self._before, self._began = done, time.monotonic()
        self._line_at = self._began + FIRST_LINE_S
        self._said: float | None = None  # what the last line told of
        self._shown = shown and not is_quiet()
        self._bar = None
        if self._shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=done, unit=unit, dynamic_ncols=True,
                bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
            )
            self._show()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, failed: type | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif failed is None and self._said not in (None, self.done):
            self._line()

    def update(self, count: float = 1) -> None:
        """So much more is done."""
        self.reach(self.done + count)

    def reach(self, done: float) -> None:
        """So much is done in all; units need not be whole."""
        more, self.done = done - self.done, done
        if self._bar is not None:
            self._show()
            self._bar.update(more)
        elif self._shown and time.monotonic() >= self._line_at:
            self._line()

    def describe(self, what: str) -> None:
        """What is being done now, shown before the numbers."""
        self._what = what
        if self._bar is not None:
            self._bar.set_description(what)

    def say(self, line: str) -> None:
        """A line on standard error that doesn't run into the bar, said even within `quietly`."""
        if self._bar is not None:
            self._bar.clear()
        print(line, file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def _show(self) -> None:
        # tqdm's own count has all the digits of a part of a unit.
        self._bar.set_postfix_str(f"{self._count()} {self.unit}s", refresh=False)

    def _count(self) -> str:
        return "/".join(f"{n:.0f}" if n == int(n) else f"{n:.2f}" for n in (self.done, self.total))

    def _line(self) -> None:
        now = time.monotonic()
        self._said, self._line_at = self.done, now + LINE_EVERY_S
        parts = [f"{self._count()} {self.unit}s"]
        if self.total:
            parts[0] += f" ({self.done / self.total:.0%})"
        parts.append(f"{duration(now - self._began)} passed")
        if self._before < self.done < self.total:
            rate = (self.done - self._before) / max(now - self._began, 1e-9)
            parts.append(f"about {duration((self.total - self.done) / rate)} left")
        if self._what:
            parts.insert(0, self._what)
        print(f"n3match: {', '.join(parts)}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds for people: "0:07", "12:05", "3:00:21"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
