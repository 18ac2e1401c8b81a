"""How many pairs are claimed to be real: of those that are, and of those that look alike.

Pairs are drawn of scenes with COLMAP models as by `n3match train-verdict`, which see for the kinds
of them; with --strangers, photographs of SCENES also stand against those of other places. Parts of
photographs whose pose is found right stand apart: nobody knows whether they show the same. Every
pair goes through the library as by default: the filter, the estimator, its doubt; beside that
stands what people do, "at least 15 inliers" and "at least 30" of mutual nearest neighbours with a
ratio below 0.9.

With --out, `verdict.md` and `verdict.png` are written there: claims by kind of pair, how well
probabilities are calibrated, the curve of real pairs kept against look-alikes claimed.
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import given_path, output_folder
from n3match.pipelines.verdict.arguments import add_plan_arguments, check_plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenes", nargs="+", type=given_path, metavar="SCENES",
        help="scenes with COLMAP models and photographs, or folders of them",
    )
    parser.add_argument(
        "--strangers", nargs="+", type=given_path, default=[], metavar="SCENES",
        help="more scenes, of other places than those, for pairs of two scenes",
    )
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="folder for the report and the picture"
    )
    parser.add_argument(
        "--points-alone", type=int, default=0, metavar="N",
        help="every Nth pair, at the first number of keypoints, also with a filter that is told "
        "nothing but the points (default: none)",
    )
    add_plan_arguments(
        parser, real=1000, other_side=100, other_part=100, other_place=1000, images=None
    )


def main(arguments: argparse.Namespace) -> int:
    from n3match.files.whole import write_whole
    from n3match.pipelines.common.arguments import check_at_least
    from n3match.pipelines.common.fingerprints import versions
    from n3match.pipelines.common.result_rows import ResultRows
    from n3match.pipelines.verdict.measured import AnswerRow, answer_row, measured, settings_of
    from n3match.pipelines.verdict.plan import match_stores, planned_pairs, read_scenes
    from n3match.pipelines.verdict.report import plot_claims, verdict_report
    from n3match.weights.verdict import shipped_verdict

    check_plan(arguments)
    check_at_least(0, arguments, "points_alone")
    arguments.work.mkdir(parents=True, exist_ok=True)
    pairs = planned_pairs(
        read_scenes(arguments.scenes, arguments), arguments,
        read_scenes(arguments.strangers, arguments),
    )
    rows = measured(
        pairs, match_stores(arguments),
        ResultRows(arguments.work / "answers.csv", AnswerRow),
        settings_of(arguments.filter, verdict=True),
        lambda *known: [answer_row(*known)],
        lambda pair, count: (pair.name, count), arguments.points_alone,
    )
    threshold = shipped_verdict().threshold
    report = verdict_report(rows, threshold)
    chosen = ", ".join(f"{value:g} {geometry}" for geometry, value in threshold.items())
    used = ", ".join(versions("n3match", "opencv", "poselib", "torch"))
    report += f"\nThresholds {chosen}; {used}.\n"
    print(report, end="")
    if arguments.out is not None:
        write_whole(arguments.out / "verdict.md", report)
        plot_claims(arguments.out / "verdict.png", rows, threshold)
        print(f"written    {arguments.out}")
    return 0
