"""Pairs that are left out because they are too little likely to be real, and their list."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from n3match.files.whole import write_whole
from n3match.pipelines.common.arguments import parse_probability
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL, GEOMETRIES, shipped_verdict

_SUFFIX = ".left_out.txt"


@dataclass(frozen=True)
class LeftOutPair:
    """Two images, the probability that they show a common part of the scene, and how many matches
    the filter had kept."""

    name0: str
    name1: str
    probability: float
    matches: int


def add_probability_argument(parser: argparse._ActionsContainer, **unset: object) -> None:
    """--min-pair-probability P."""
    threshold = [shipped_verdict().threshold[name] for name in GEOMETRIES]
    parser.add_argument(
        "--min-pair-probability", type=parse_probability, metavar="P",
        **(unset or {"default": None}),
        help="leave out pairs that show a common part of the scene with a smaller probability; "
        f"they are listed in OUT{_SUFFIX} (default: {_told(threshold)}; 0: leave "
        "out none)",
    )


def list_path(out: Path) -> Path:
    """Of the list, beside a file or inside a folder."""
    return out / _SUFFIX[1:] if out.is_dir() else out.with_name(out.name + _SUFFIX)


def write_list(out: Path, pairs: Sequence[LeftOutPair], *, add: bool = False) -> None:
    """Lines of two names, probability, number of matches, with tabs between; no file for none.

    add: to what an earlier run listed, which is forgotten else.
    """
    path, lines = list_path(out), {}
    if add and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            lines[tuple(line.split("\t")[:2])] = line
    for p in pairs:
        line = f"{p.name0}\t{p.name1}\t{p.probability:.4f}\t{p.matches}\n"
        lines[p.name0, p.name1] = line
    if lines:
        write_whole(path, "".join(lines.values()))
    else:
        path.unlink(missing_ok=True)


def left_out_line(
    count: int, pairs: int, guessed: int, least: float | None, out: Path
) -> str:
    """What is told of them.

    Args:
        count: of them; pairs: of all; guessed: of all, those with a guessed focal length.
        least: that was asked for; None: the default.
        out: what their list stands beside.
    """
    if least is None:
        geometries = [FUNDAMENTAL] if guessed else [ESSENTIAL]
        if 0 < guessed < pairs:
            geometries = [*GEOMETRIES]
        limit = _told([shipped_verdict().threshold[name] for name in geometries])
    else:
        limit = f"{least:g}"
    where = f": {list_path(out)}" if count else ""
    return f"left out   {count} of {pairs} pairs, real with a probability below {limit}{where}"


def _told(limits: Sequence[float]) -> str:
    """One, or those of `GEOMETRIES`."""
    told = ", or ".join(f"{value:g}" for value in limits)
    return f"{told} where a focal length is a guess" if len(limits) > 1 else told
