"""Throws generated and damaged input at everything public, and counts what comes of it.

calls: every public function and method, with arguments of any type, shape, order and size, NaN
among them. files: every reader, and commands on files, with bytes changed, cut and added, and
links, pipes, devices or folders in a file's place. kills: commands that write are killed at random
moments, started again, and compared with an undisturbed run.

A result and a clear error (ValueError, TypeError, OSError or ImportError of n3match's own, which
names the argument or the file) are what is wanted. Counted and told besides: errors that come from
elsewhere, crashes, hangs, more memory than the limit, NaN or infinity from finite input of ordinary
size, and what a kill left behind. Each has a number: --case NUMBER with the same --seed runs it
again by itself.

Long runs: with --counts FILE what was counted is added to a file now and then, the same command
goes on where that ends, and other seeds may count into the same file at the same time; --cases 0
only prints it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from n3match.pipelines.fuzz.watched import Tally

WHAT = ("calls", "files", "kills")
_SHOWN = 40  # kinds of failures
_HANG_S = {"kills": 600.0}  # several runs each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what", nargs="+", choices=WHAT, default=["calls", "files"], metavar="WHAT",
        help=f"{', '.join(WHAT)} (default: calls and files)",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="for each of them (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")
    parser.add_argument(
        "--cases", type=int, default=None, metavar="N",
        help="at most so many of each, those before a restart among them",
    )
    parser.add_argument(
        "--counts", default=None, metavar="FILE", help="adds to the counts in this file (JSON, a "
        "line for each stretch), goes on after them and prints all of them",
    )
    parser.add_argument(
        "--case", type=int, default=None, metavar="NUMBER", help="this one alone, in this process"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="functions, files or commands with this in "
        "their names; then other cases have the numbers"
    )


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.fuzz.counts import Counts, Run
    from n3match.pipelines.fuzz.outcomes import GOOD
    from n3match.pipelines.fuzz.watched import HANG_S, run_one, run_watched

    if not arguments.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {arguments.seconds}")
    for name, value in (("--seed", arguments.seed), ("--cases", arguments.cases or 0)):
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    counts = None if arguments.counts is None else Counts(Path(arguments.counts))
    bad = 0
    for what in dict.fromkeys(arguments.what):
        make, given = makers()[what], (arguments.seed, arguments.only)
        if arguments.case is not None:
            outcome, told = run_one(make(*given), arguments.case)
            print(f"{what} {arguments.case}: {outcome}: {told}")
            bad += outcome not in GOOD
            continue
        hang_s = _HANG_S.get(what, HANG_S)
        if counts is None:
            tally = run_watched(
                make, given, seconds=arguments.seconds, most=arguments.cases, hang_s=hang_s
            )
        else:
            run = Run(what, *given)
            record = counts.recorder(run)
            tally = run_watched(
                make, given, seconds=arguments.seconds, most=arguments.cases, hang_s=hang_s,
                first=counts.of[run].cases, tell=record,
            )
            record(tally, at_once=True)
        _show(f"{what}, seed {arguments.seed}", tally)
        if counts is not None:
            tally = counts.total(what)
            _show(f"{what} in {arguments.counts}", tally)
        bad += len(tally.failures)
    return 1 if bad else 0


def _show(what: str, tally: Tally) -> None:
    print(f"{what}: {tally.cases} in {tally.seconds:.0f} s")
    for outcome, count in tally.counts.items():
        print(f"  {count:8} {outcome}")
    for alike in tally.kinds()[:_SHOWN]:
        number, outcome, told = alike[0]
        print(f"  {len(alike)} times {outcome}, as case {number}: {told}")


def makers():
    """How the cases of each are made: (seed, only) -> number -> outcome and description."""
    from n3match.pipelines.fuzz import calls, files, kills

    return {"calls": calls.cases, "files": files.cases, "kills": kills.cases}
