"""`n3match evaluate-pose`: match filters and pose estimators compared on pairs with known pose.

Every filter sees the same putative matches, every estimator the matches that the filter kept; its
pose is taken as it is, without doubt. Error of a pair: the larger of the rotation's and the
translation direction's angle (sign ignored), 180° where there is no pose. A filter may also be a
file of matches made elsewhere (hloc's, or those of `n3match match`), see precomputed.py: these are
matches of its own, so their recall, relative to the right putative ones, may be above 100 %.

With --out, `table.md` and pictures are written there, and `results.csv` with a row per pair, filter
and estimator. That is written every few seconds, so a run that was stopped goes on where it was,
and another filter or estimator costs only itself; rows are used again only where the pairs, the
filter (its weights), the seed and the versions of the libraries are the same. Changes to n3match's
own code don't show in its version: give those another folder.

For large sets: `torchrun --nproc-per-node 4 -m n3match.pipelines.cli evaluate-pose … --out DIR`,
on one machine or several that see DIR.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from n3match import weights
from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.geometry.estimators.registry import PROGRESSIVE
from n3match.pipelines.common.processes import Processes, joined_processes
from n3match.whole_file import write_whole
from n3match.pipelines.evaluation.figures import plot_precision, plot_recall
from n3match.pipelines.evaluation.match_filters import CLASSICAL, DESCRIPTIONS
from n3match.pipelines.evaluation.protocol import PROTOCOLS, SAMPLINGS, check_estimators
from n3match.pipelines.evaluation.report import describe_pairs, hardest_third, pose_report
from n3match.pipelines.evaluation.results import PoseResult
from n3match.pipelines.evaluation.runs import check_folder, evaluate_pose, parse_filters, versions
from n3match.pipelines.evaluation.stage_times import measure_features, stage_table
from n3match.pipelines.evaluation.worst_pairs import plot_worst_pairs
from n3match.pipelines.pairs.build_pairs import build_pairs


def make_stores(
    inputs: Sequence[str | Path], folder: Path, *, max_keypoints: int, workers: int
) -> list[Path]:
    """Stores as they are; for a folder of scenes, the store of its pairs, made in `folder`.

    All pairs with at least 20 common 3-D points, image 0 first by name. A store that is in `folder`
    already is used again.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: see `build_pairs`.
    """
    stores = []
    for path in map(Path, inputs):
        if path.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            store = folder / f"{path.resolve().name}-{max_keypoints}.h5"
            path = build_pairs(
                path, store, max_keypoints=max_keypoints, fixed_direction=True, processes=workers
            )
        elif not path.exists():
            raise FileNotFoundError(f"{path}: no such pair store, nor a folder of scenes")
        stores.append(path)
    return stores


def make_report(
    results: Sequence[PoseResult], filters: Sequence[str], estimators: Sequence[str],
    *, hardest: bool = False, seed: int = 0, seeds: int = 1,
    features: dict[str, float] | None = None, focal_guess: bool = False,
    sampling: str = "uniform",
) -> str:
    """Markdown: what was evaluated and how, the tables, those of the hardest third, the seconds.

    `features`: seconds of "sift" and "matching" for a pair, where they are known.
    """
    labels = [source.label for source in parse_filters(filters)]
    titles = {name: PROTOCOLS[name].title for name in estimators}
    tables = pose_report(results, labels, titles, seed)
    parts = [describe_pairs(results) + ".", tables]
    if hardest:
        third = hardest_third(results)
        parts += [
            f"The third with the smallest share of right matches: {describe_pairs(third)}.",
            pose_report(third, labels, titles, seed),
        ]
    parts += [
        "Median seconds of a pair by stage (one thread):",
        stage_table(results, labels, list(estimators), features),
    ]
    described = "; ".join(f"{x}: {DESCRIPTIONS[x]}" for x in labels if x in CLASSICAL)
    packages = dict.fromkeys(PROTOCOLS[name].package for name in estimators)
    parts.append(
        "Shares in %, times in ms (median, one thread). A match is right where the squared "
        f"symmetric epipolar distance is below {TRUE_MATCH_DISTANCE:g} in calibrated units. "
        "Pose error: max(rotation, translation direction), 180° without a pose. mAP is binned in "
        "steps of 5°, AUC is the exact area; the interval is a bootstrap over pairs. "
        + (f"Filters: {described}. " if described else "")
        + ("Filters saw a guessed focal length, estimators the true one. " if focal_guess else "")
        + (_BY_SCORE if sampling == "by_score" else "")
        + (f"Seed {seed}" if seeds == 1 else f"Means over seeds {seed} to {seed + seeds - 1}")
        + f"; {', '.join(versions(*packages))}."
    )
    return "\n\n".join(parts) + "\n"


_BY_SCORE = (
    "Samples are drawn best matches first (PROSAC), by the filter's weights, or by the ratio of "
    "descriptor distances where it has none. "
)


def default_filters() -> list[str]:
    """The usual filters, then n3match's own."""
    return [*CLASSICAL, *(n for n in ("sift-cnnet", "sift") if n in weights.shipped())]


def default_estimators(sampling: str = "uniform") -> list[str]:
    """All that are installed and can sample so."""
    names = PROTOCOLS if sampling == "uniform" else PROGRESSIVE
    return [n for n in names if n != "poselib" or importlib.util.find_spec("poselib")]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="STORE_OR_SCENES",
        help="pair stores (.h5), or folders of scenes (images/, sparse/)",
    )
    parser.add_argument(
        "--filters", nargs="+", default=None, metavar="FILTER",
        help=f"{', '.join(CLASSICAL)}, sift-cnnet, sift, a file of weights, a file of matches "
        "(MATCHES.h5, or MATCHES.h5,FEATURES.h5 of hloc; or a folder of files of `n3match match`), "
        "or LABEL=FILE (default: all that have names here)",
    )
    parser.add_argument(
        "--estimators", nargs="+", default=None, metavar="ESTIMATOR",
        help=f"{', '.join(PROTOCOLS)} (default: all that are installed, and can do --sampling)",
    )
    parser.add_argument(
        "--out", type=Path,
        help="folder for results.csv, table.md and figures/; an existing run goes on",
    )
    parser.add_argument(
        "--keypoints", type=int, nargs="+", default=[2000], metavar="N",
        help="per image, for folders of scenes; several: tables for each",
    )
    parser.add_argument(
        "--images", type=Path, nargs="*", default=[], metavar="SCENES",
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
        "--focal-guess", action="store_true",
        help="filters see coordinates of a guessed camera (focal length 1.2 × the longer side, "
        "principal point at the centre, no distortion); estimators still get the true one",
    )
    parser.add_argument(
        "--sampling", choices=SAMPLINGS, default="uniform",
        help="by_score: estimators draw the matches that the filter likes best first (PROSAC); for "
        "opencv_usac and poselib",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N",
        help="run everything with N seeds, the first --seed, and give means: sampling estimators "
        "differ by a pair or two from seed to seed (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=None, help="processes (default: one per core)"
    )


def main(arguments: argparse.Namespace) -> int:
    filters = arguments.filters or default_filters()
    estimators = list(dict.fromkeys(arguments.estimators or default_estimators(arguments.sampling)))
    parse_filters(filters)  # before minutes are spent on a store
    check_estimators(estimators, arguments.sampling)
    check_folder(arguments.out)
    budgets = list(dict.fromkeys(arguments.keypoints))
    _check_budgets(budgets, arguments.inputs)
    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {arguments.seeds}")
    if arguments.worst < 0:
        raise ValueError(f"--worst must be 0 or more, got {arguments.worst}")
    with joined_processes("cpu") as processes:
        if processes.size > 1 and arguments.out is None:
            raise ValueError("--out: several processes need a folder that all of them see")
        parts = []
        temporary = tempfile.TemporaryDirectory() if arguments.out is None else nullcontext()
        with temporary as made:
            for budget in budgets:
                part = _evaluate_budget(
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
        print(report, end="", file=sys.stdout)
    return 0


def _check_budgets(budgets: Sequence[int], inputs: Sequence[Path]) -> None:
    for budget in budgets:
        if budget < 1:
            raise ValueError(f"--keypoints must be at least 1, got {budget}")
    files = [path for path in inputs if not path.is_dir()]
    if len(budgets) > 1 and files:
        raise ValueError(
            f"--keypoints: several numbers need folders of scenes, {files[0]} is none: its "
            "keypoints were chosen when it was made"
        )


def _evaluate_budget(
    arguments: argparse.Namespace,
    budget: int,
    filters: Sequence[str],
    estimators: Sequence[str],
    folder: Path,
    processes: Processes,
) -> str:
    """The report at one number of keypoints; its figures go to figures/, below --out.

    Args:
        folder: for stores that are made here.
    """
    workers = arguments.workers
    if workers is None:
        workers = max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    stores = None
    if processes.is_first:
        stores = make_stores(arguments.inputs, folder, max_keypoints=budget, workers=workers)
    stores = processes.from_first(stores)
    runs = [
        evaluate_pose(
            stores,
            filters=filters,
            estimators=estimators,
            out=_folder_of_seed(arguments, seed),
            limit=arguments.limit,
            seed=seed,
            workers=workers,
            processes=processes,
            focal_guess=arguments.focal_guess,
            sampling=arguments.sampling,
        )
        for seed in range(arguments.seed, arguments.seed + arguments.seeds)
    ]
    results = [row for rows in runs for row in rows]
    if not processes.is_first:
        return ""
    images = [*(path for path in arguments.inputs if path.is_dir()), *arguments.images]
    features = None
    figures = None
    if arguments.out is not None:
        figures = arguments.out / "figures"
        if len(arguments.keypoints) > 1:
            figures /= str(budget)
    if images:
        cache = None if figures is None else figures / "stage-times.json"
        features = measure_features(stores, images, cache)
    if figures is not None:
        sources = parse_filters(filters)
        labels = [source.label for source in sources]
        titles = {name: PROTOCOLS[name].title for name in estimators}
        plot_recall(figures / "recall.png", results, labels, titles)
        plot_precision(figures / "precision.png", results, labels)
        if arguments.worst:
            plot_worst_pairs(
                figures / "worst", runs[0], sources[-1], stores, images, arguments.worst,
                focal_guess=arguments.focal_guess,
            )
    return make_report(
        results, filters, estimators, hardest=arguments.hardest, seed=arguments.seed,
        seeds=arguments.seeds, features=features, focal_guess=arguments.focal_guess,
        sampling=arguments.sampling,
    )


def _folder_of_seed(arguments: argparse.Namespace, seed: int) -> Path | None:
    """Where the rows of a run are kept."""
    if arguments.out is None or arguments.seeds == 1:
        return arguments.out
    return arguments.out / f"seed-{seed}"
