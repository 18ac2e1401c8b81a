"""`n3match evaluate-pose`: match filters and pose estimators compared on pairs with known pose.

Every filter sees the same putative matches (those that look at second nearest neighbours see these,
too), every estimator the matches that the filter kept; its pose is taken as it is, without doubt.
Error of a pair: the larger of the rotation's and the translation direction's angle (sign ignored),
180° where there is no pose. A filter may also be a file of matches made elsewhere (hloc's, or those
of `n3match match`), see precomputed.py: these are matches of its own, so their recall, as that of
filters with second nearest neighbours, relative to the right putative ones, may be above 100 %.

With --out, `table.md` and pictures are written there, and `results.csv` with a row per pair, filter
and estimator. That is written every few seconds, so a run that was stopped goes on where it was,
and another filter or estimator costs only itself; rows are used again only where the pairs, the
filter (its label and weights), the seed and the versions of the libraries are the same. Changes to
n3match's own code don't show in its version: give those another folder.

For large sets: `torchrun --nproc-per-node 4 -m n3match.pipelines.cli evaluate-pose … --out DIR`,
on one machine or several that see DIR.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from n3match import weights
from n3match.pipelines.common.arguments import (
    add_device_arguments,
    check_at_least,
    check_folder,
    given_path,
    output_folder,
)
from n3match.pipelines.evaluation.choices import DESCRIPTIONS, PROTOCOLS, SAMPLINGS
from n3match.pipelines.pairs.sources import add_source_arguments, is_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=given_path, metavar="STORE_OR_SOURCE",
        help="pair stores (.h5), or what build-pairs takes: scenes, folders of scenes, pair lists, "
        "dumps; their photographs are read first",
    )
    parser.add_argument(
        "--filters", nargs="+", default=None, metavar="FILTER",
        help=f"{', '.join(DESCRIPTIONS)}, sift-cnnet, sift, a file of weights, a file of matches "
        "(MATCHES.h5, or MATCHES.h5,FEATURES.h5 of hloc; or a folder of files of `n3match match`), "
        "or LABEL=FILE; LABEL=FILE1 LABEL=FILE2 …: one network trained several times, of which "
        "tables have the means (default: all that have names here)",
    )
    parser.add_argument(
        "--estimators", nargs="+", default=None, metavar="ESTIMATOR",
        help=f"{', '.join(PROTOCOLS)} (default: all that are installed, and can do --sampling)",
    )
    parser.add_argument(
        "--out", type=output_folder,
        help="folder for results.csv, table.md and figures/; an existing run goes on",
    )
    parser.add_argument(
        "--keypoints", type=int, nargs="+", default=[2000], metavar="N",
        help="per image, of sources that aren't stores; several: tables for each",
    )
    parser.add_argument(
        "--images", type=given_path, nargs="*", default=[], metavar="SCENES",
        help="folders of scenes with the photographs of pair stores, for pictures and times",
    )
    parser.add_argument(
        "--worst", type=int, default=4, metavar="N",
        help="with --out: pictures of that many pairs on which the last filter does worst",
    )
    parser.add_argument("--limit", type=int, help="that many pairs, evenly spread over all")
    parser.add_argument(
        "--hardest", action="store_true",
        help="also the tables of the third of pairs with the smallest share of right matches",
    )
    parser.add_argument(
        "--against", metavar="FILTER",
        help="one of the filters, all its trainings together: also how much more pairs the others "
        "solve, pair by pair",
    )
    parser.add_argument(
        "--focal-guess", action="store_true",
        help="filters see coordinates of a guessed camera (focal length 1.2 × the longer side, "
        "principal point at the centre, no distortion); estimators still get the true one",
    )
    parser.add_argument(
        "--sampling", choices=SAMPLINGS, default="uniform",
        help="by_weight: estimators draw the matches with the largest weights first (PROSAC); for "
        "opencv_usac and poselib",
    )
    add_device_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N",
        help="run everything with N seeds, the first --seed, and give means: sampling estimators "
        "differ by a pair or two from seed to seed (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=None,
        help="processes (default: one per core, and one where --device is no CPU)"
    )
    add_source_arguments(parser)


def default_filters() -> list[str]:
    """The usual filters, then n3match's own."""
    return [*DESCRIPTIONS, *(n for n in ("sift-cnnet", "sift") if n in weights.shipped())]


def default_estimators(sampling: str = "uniform") -> list[str]:
    """All that are installed and can sample so."""
    from n3match.geometry.estimators import ESTIMATORS

    specs = [ESTIMATORS[name] for name in PROTOCOLS]
    return [s.name for s in specs if s.installed and (sampling == "uniform" or s.progressive)]


def main(arguments: argparse.Namespace) -> int:
    from n3match.files.whole import write_whole
    from n3match.pipelines.common.devices import checked_device
    from n3match.pipelines.common.processes import joined_processes
    from n3match.pipelines.evaluation.match_filters import names_in_tables, parse_filters
    from n3match.pipelines.evaluation.pose_outputs import evaluate_budget
    from n3match.pipelines.evaluation.protocol import check_estimators

    checked_device(arguments.device)
    filters = arguments.filters or default_filters()
    estimators = list(dict.fromkeys(arguments.estimators or default_estimators(arguments.sampling)))
    labels = names_in_tables(parse_filters(filters))  # before minutes are spent
    if arguments.against not in (None, *labels):
        raise ValueError(f"--against: found {arguments.against}, wanted one of {labels}")
    check_estimators(estimators, arguments.sampling)
    check_folder(arguments.out)
    budgets = list(dict.fromkeys(arguments.keypoints))
    _check_budgets(budgets, arguments.inputs)
    check_at_least(1, arguments, "seeds")
    check_at_least(0, arguments, "worst")
    with joined_processes(arguments.device) as processes:
        if processes.size > 1 and arguments.out is None:
            raise ValueError("--out: several processes need a folder that all of them see")
        parts = []
        temporary = tempfile.TemporaryDirectory() if arguments.out is None else nullcontext()
        with temporary as made:
            for budget in budgets:
                part = evaluate_budget(
                    arguments, budget, filters, estimators, Path(arguments.out or made), processes
                )
                parts.append((budget, part))
        if not processes.is_first:
            return 0
        report = parts[0][1]
        if len(parts) > 1:
            report = "\n".join(f"## {n} keypoints per image\n\n{text}" for n, text in parts)
        if arguments.out is not None:
            write_whole(arguments.out / "table.md", report)
        print(report, end="")
    return 0


def _check_budgets(budgets: Sequence[int], inputs: Sequence[Path]) -> None:
    for budget in budgets:
        if budget < 1:
            raise ValueError(f"--keypoints must be at least 1, got {budget}")
    stores = [path for path in inputs if is_store(path)]
    if len(budgets) > 1 and stores:
        raise ValueError(
            f"--keypoints: several numbers need sources of photographs, {stores[0]} is none: its "
            "keypoints were chosen when it was made"
        )
