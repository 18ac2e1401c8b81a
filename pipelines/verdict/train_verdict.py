"""Learn which pairs of photographs are real, from scenes with COLMAP models.

Of each scene in TRAIN pairs are drawn: real ones, and ones that only look alike (cameras at
different sides of it, parts of photographs that share nothing); and pairs of two scenes. What a
robust estimator finds on the matches that the filter keeps, without any doubt, is evidence;
logistic models of it make `pair_probability`. The thresholds, from which a pair counts as real, one
for essential matrices and one for fundamental ones, are chosen on the scenes of --val: the least,
in hundredths, that claims no pair of two scenes and at most 0.5 % of those that look alike. Told is
what is claimed at them, on the scenes of --val, and on each scene of TRAIN by models fitted without
it.

Has to be run again whenever the filter's weights change. Keypoints and matches are kept in --work,
so that a second run takes minutes: delete nothing there.

    n3match train-verdict TRAIN --val VAL --work DIR --out n3match/weights/verdict.json
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import given_path, output_file
from n3match.pipelines.verdict.arguments import add_plan_arguments, check_plan

# Scenes of --val are few: all their photographs, and so many times more pairs of each.
_VAL_PAIRS = 3
_OF_EACH_SCENE = ("real", "other_side", "other_part")
# Of the pairs, one in so many also with a filter that knows nothing but the points.
_POINTS_ALONE_EVERY = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenes", nargs="+", type=given_path, metavar="TRAIN",
        help="scenes with COLMAP models and photographs, or folders of them, to learn from",
    )
    parser.add_argument(
        "--val", nargs="+", type=given_path, required=True, metavar="VAL",
        help="likewise, to choose the thresholds on",
    )
    parser.add_argument(
        "--out", type=output_file(".json"), required=True, metavar="FILE.json",
        help="the verdict; that of the package is n3match/weights/verdict.json",
    )
    add_plan_arguments(
        parser, real=14, other_side=25, other_part=15, other_place=250, images=12
    )


def main(arguments: argparse.Namespace) -> int:
    from collections import Counter

    from n3match.files.whole import write_whole
    from n3match.pipelines.common.fingerprints import hash_of_weights, versions
    from n3match.pipelines.common.result_rows import ResultRows
    from n3match.pipelines.verdict.fit import (
        by_model,
        choose_threshold,
        fit_models,
        left_out_probabilities,
        probabilities,
    )
    from n3match.pipelines.verdict.measured import (
        EvidenceRow,
        evidence_rows,
        measured,
        settings_of,
    )
    from n3match.pipelines.verdict.pair_kinds import KINDS
    from n3match.pipelines.verdict.plan import match_stores, planned_pairs, read_scenes
    from n3match.pipelines.verdict.report import claims_table
    from n3match.weights.verdict import ESSENTIAL, GEOMETRIES, PairVerdict

    check_plan(arguments)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = ResultRows(arguments.work / "evidence.csv", EvidenceRow)
    settings, stores = settings_of(arguments.filter, verdict=False), match_stores(arguments)
    main_models = {geometry: f"{geometry}, logits and change" for geometry in GEOMETRIES}
    main_model = main_models[ESSENTIAL]
    found = {}
    for split, folders in (("train", arguments.scenes), ("val", arguments.val)):
        options = arguments if split == "train" else _of_val(arguments)
        pairs = planned_pairs(read_scenes(folders, options), options)
        found[split] = measured(
            pairs, stores, rows, settings, evidence_rows,
            lambda pair, count: (pair.name, count, main_model), _POINTS_ALONE_EVERY,
        )
        counts = Counter(row.kind for row in found[split] if row.model == main_model)
        print(f"{split:10} " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS))
    models = fit_models(found["train"])
    threshold = {
        geometry: choose_threshold(models[name], [r for r in found["val"] if r.model == name])
        for geometry, name in main_models.items()
    }
    chosen = ", ".join(f"{value:g} {geometry}" for geometry, value in threshold.items())
    print(f"thresholds {chosen}\n")
    told = {
        name: probabilities(models[name], rows_of)
        for name, rows_of in by_model(found["val"]).items()
    }
    print(f"val, claimed by model:\n\n{claims_table(found['val'], told, threshold)}\n")
    told = left_out_probabilities(found["train"])
    print(
        "train, claimed by models of the other scenes:\n\n"
        f"{claims_table(found['train'], told, threshold)}\n"
    )
    notes = {
        "filter": arguments.filter,
        "filter_sha256": hash_of_weights(arguments.filter),
        "keypoints": arguments.keypoints,
        "pairs": {
            split: dict(Counter(row.kind for row in rows if row.model == main_model))
            for split, rows in found.items()
        },
        "versions": versions("n3match", "opencv", "poselib", "torch"),
    }
    write_whole(arguments.out, PairVerdict(threshold, models, notes).to_text())
    print(f"written    {arguments.out}")
    return 0


def _of_val(arguments: argparse.Namespace) -> argparse.Namespace:
    more = {name: _VAL_PAIRS * getattr(arguments, name) for name in _OF_EACH_SCENE}
    return argparse.Namespace(**{**vars(arguments), **more, "images": None})
