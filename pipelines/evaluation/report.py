"""From pose errors of single pairs to Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.geometry import mean_average_precision, pose_auc
from n3match.pipelines.common.fingerprints import versions
from n3match.pipelines.common.tables import markdown_table
from n3match.pipelines.evaluation.choices import DESCRIPTIONS, PROTOCOLS
from n3match.pipelines.evaluation.records import NoiseResult, PoseResult

THRESHOLDS_DEG = (5, 10, 20)
_RESAMPLES = 10_000


def make_report(
    results: Sequence[PoseResult], labels: Sequence[str], estimators: Sequence[str],
    *, hardest: bool = False, seed: int = 0, seeds: int = 1,
    features: dict[str, float] | None = None, focal_guess: bool = False,
    sampling: str = "uniform", against: str | None = None, trainings: str = "",
) -> str:
    """Markdown: what was evaluated and how, the tables, those of the hardest third, the seconds.

    `features`: seconds of "features" and "matching" for a pair, where they are known. `against`:
    the filter that the others are compared with, pair by pair. `trainings`: where filters were
    trained several times, what `training_report` says of them.
    """
    titles = {name: PROTOCOLS[name].title for name in estimators}

    def tables_of(rows: Sequence[PoseResult]) -> str:
        text = pose_report(rows, labels, titles, seed)
        if against is None:
            return text
        return f"{text}\n\n{difference_report(rows, labels, list(estimators), against, seed)}"

    parts = [describe_pairs(results) + ".", tables_of(results)]
    if trainings:
        parts.append(trainings)
    if hardest:
        third = hardest_third(results)
        parts += [
            f"The third with the smallest share of right matches: {describe_pairs(third)}.",
            tables_of(third),
        ]
    parts += [
        "Median seconds of a pair by stage (one thread):",
        stage_table(results, labels, list(estimators), features),
    ]
    described = "; ".join(f"{x}: {DESCRIPTIONS[x]}" for x in labels if x in DESCRIPTIONS)
    packages = dict.fromkeys(PROTOCOLS[name].package for name in estimators)
    parts.append(
        "Shares in %, times in ms (median, one thread). A match is right where the squared "
        f"symmetric epipolar distance is below {TRUE_MATCH_DISTANCE:g} in calibrated units. "
        "Pose error: max(rotation, translation direction), 180° without a pose. mAP is binned in "
        "steps of 5°, AUC is the exact area; the interval is a bootstrap over pairs. "
        + (f"Filters: {described}. " if described else "")
        + ("Filters saw a guessed focal length, estimators the true one. " if focal_guess else "")
        + (_BY_WEIGHT if sampling == "by_weight" else "")
        + (_TRAININGS if trainings else "")
        + (f"Seed {seed}" if seeds == 1 else f"Means over seeds {seed} to {seed + seeds - 1}")
        + f"; {', '.join(versions(*packages))}."
    )
    return "\n\n".join(parts) + "\n"


_BY_WEIGHT = (
    "Samples are drawn best matches first (PROSAC), by the filter's weights, or by the ratio of "
    "descriptor distances where it has none. "
)


_TRAININGS = (
    "Of a network trained several times, all trainings are taken together; intervals are about "
    "pairs, not about trainings. "
)


def pooled(results: Sequence[PoseResult], groups: dict[str, str]) -> list[PoseResult]:
    """The rows with those of several trainings, {label: group}, as several runs of one filter."""
    return [replace(r, filter=groups.get(r.filter, r.filter)) for r in results]


def training_report(
    results: Sequence[PoseResult], groups: dict[str, str], estimators: Sequence[str]
) -> str:
    """mAP at the smallest and largest threshold of each training by itself, and mean ± standard
    deviation of the trainings, as Markdown.

    Args:
        results: rows of the trainings, and any others.
        groups: {label of a training: name of the filter}, two or more of a filter.
        estimators: names, in the order wanted.
    """
    ends = (THRESHOLDS_DEG[0], THRESHOLDS_DEG[-1])

    def marks(label: str) -> np.ndarray:
        found = []
        for end in ends:
            for name in estimators:
                own = [r.error_deg for r in results if (r.filter, r.estimator) == (label, name)]
                found.append(100 * mean_average_precision(own, THRESHOLDS_DEG)[end])
        return np.array(found)

    rows = []
    for group in dict.fromkeys(groups.values()):
        own = {label: marks(label) for label in groups if groups[label] == group}
        rows += [[label, *(f"{x:.1f}" for x in found)] for label, found in own.items()]
        every = np.array([*own.values()])
        means, deviations = every.mean(0), every.std(0, ddof=1)
        rows.append([group, *(f"{m:.1f} ± {d:.1f}" for m, d in zip(means, deviations))])
    columns = [f"mAP@{end} {name}" for end in ends for name in estimators]
    title = "Each training by itself, and mean ± deviation of them:"
    return f"{title}\n\n{markdown_table(['filter', *columns], rows)}"


def hardest_third(results: Sequence[PoseResult]) -> list[PoseResult]:
    """The rows of the third of pairs (rounded up) with the smallest share of right matches."""
    share = {(r.store, r.pair): r.right / max(r.matches, 1) for r in results}
    order = sorted(share, key=lambda pair: (share[pair], pair))
    hardest = set(order[: math.ceil(len(order) / 3)])
    return [r for r in results if (r.store, r.pair) in hardest]


def bootstrap_interval(successes: float, trials: int, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of a share, pairs drawn with replacement.

    Drawing `trials` pairs with replacement and counting the successes is a binomial draw.
    """
    draws = np.random.default_rng(seed).binomial(trials, successes / trials, _RESAMPLES) / trials
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def pose_report(
    results: Sequence[PoseResult],
    filters: Sequence[str],
    estimators: dict[str, str],
    seed: int = 0,
) -> str:
    """A table about the filters, one of mAP@5 by filter and estimator (where there are several
    estimators), then one for each estimator, as Markdown.

    Args:
        results: rows of the same pairs for every filter and estimator named; several rows of a
            pair are runs with other seeds, and marks are means over them.
        filters: labels, in the order wanted.
        estimators: {name: title of its table}, in the order wanted.
        seed: of the bootstrap.

    Returns:
        Text with shares in percent and times in milliseconds. Precision is the mean over pairs
        (0 where nothing is kept), recall the mean over pairs that have right matches at all.
    """
    of = {
        (label, name): [r for r in results if r.filter == label and r.estimator == name]
        for label in filters
        for name in estimators
    }
    any_estimator = next(iter(estimators))
    sections = [
        markdown_table(
            ["filter", "kept", "precision", "recall", "ms"],
            [[label, *_filter_cells(of[label, any_estimator])] for label in filters],
        )
    ]
    if len(estimators) > 1:
        table = markdown_table(
            ["filter", *estimators],
            [[label, *(_smallest_cell(of[label, name], seed) for name in estimators)]
             for label in filters],
        )
        sections.append(f"mAP@{THRESHOLDS_DEG[0]} [95 % CI] by estimator:\n\n{table}")
    columns = [f"mAP@{THRESHOLDS_DEG[0]} [95 % CI]"]
    columns += [f"mAP@{t}" for t in THRESHOLDS_DEG[1:]]
    columns += [f"AUC@{t}" for t in THRESHOLDS_DEG]
    for name, title in estimators.items():
        table = markdown_table(
            ["filter", *columns, "no pose", "ms"],
            [[label, *_pose_cells(of[label, name], seed)] for label in filters],
        )
        sections.append(f"{title}:\n\n{table}")
    return "\n\n".join(sections)


def difference_report(
    results: Sequence[PoseResult], filters: Sequence[str], estimators: Sequence[str], against: str,
    seed: int = 0,
) -> str:
    """mAP@5 of each filter less that of the filter `against`, in points, as Markdown.

    The interval is a bootstrap over pairs of the difference on the *same* pair: much of what makes
    one table's intervals wide, how hard the pairs are, is the same for both filters.

    Args:
        results: rows of the same pairs for every filter and estimator; several rows of a pair are
            runs with other seeds.
        filters, estimators: labels and names, in the order wanted.
        against: one of the filters.
        seed: of the bootstrap.
    """
    solved: dict[tuple[str, str], dict[tuple[str, int], list[bool]]] = {}
    for r in results:
        of = solved.setdefault((r.filter, r.estimator), {})
        of.setdefault((r.store, r.pair), []).append(r.error_deg < THRESHOLDS_DEG[0])
    pairs = sorted({(r.store, r.pair) for r in results})

    def shares(label: str, name: str) -> np.ndarray:
        return 100 * np.array([np.mean(solved[label, name][pair]) for pair in pairs])

    cell = _difference_cells(len(pairs), seed)
    rows = []
    for label in filters:
        if label == against:
            continue
        found = [shares(label, name) - shares(against, name) for name in estimators]
        if len(found) > 1:
            found.append(np.mean(found, axis=0))
        rows.append([label, *map(cell, found)])
    columns = ["filter", *estimators, *(["mean of these"] * (len(estimators) > 1))]
    title = f"mAP@{THRESHOLDS_DEG[0]} less that of {against} on the same pairs [95 % CI], points:"
    return f"{title}\n\n{markdown_table(columns, rows)}"


def _difference_cells(pairs: int, seed: int) -> Callable[[np.ndarray], str]:
    """Text of the mean of a difference on each pair, with its interval: a bootstrap over pairs."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(pairs, [1 / pairs] * pairs, _RESAMPLES) / pairs

    def cell(difference: np.ndarray) -> str:
        low, high = np.percentile(drawn @ difference, (2.5, 97.5))
        return f"{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]"

    return cell


def describe_pairs(results: Sequence[PoseResult]) -> str:
    """How many pairs, of how many scenes, and how hard they are: one line."""
    pairs = {(r.store, r.pair): r for r in results}.values()
    scenes = {(r.store, r.scene) for r in pairs}
    share = np.array([r.right / max(r.matches, 1) for r in pairs])
    low, middle, high = np.percentile(100 * share, (10, 50, 90))
    return (
        f"{len(pairs)} pairs of {len(scenes)} scene{'s' * (len(scenes) != 1)}, "
        f"{np.mean([r.matches for r in pairs]):.0f} putative matches a pair, "
        f"of which {middle:.0f} % are right (median; 80 % of the pairs: {low:.0f} … {high:.0f} %)"
    )


def _filter_cells(rows: list[PoseResult]) -> list[str]:
    precision = [r.kept_right / max(r.kept, 1) for r in rows]
    recall = [r.kept_right / r.right for r in rows if r.right]
    return [
        f"{np.mean([r.kept for r in rows]):.0f}",
        f"{100 * np.mean(precision):.1f}",
        f"{100 * np.mean(recall):.1f}" if recall else "–",
        _milliseconds([r.filter_ms for r in rows]),
    ]


def _smallest_cell(rows: list[PoseResult], seed: int) -> str:
    """Share of errors below the smallest threshold, with its interval."""
    # Runs of one pair are no new pairs: they make the interval no narrower.
    pairs = len({(r.store, r.pair) for r in rows})
    found = sum(r.error_deg < THRESHOLDS_DEG[0] for r in rows) * pairs / len(rows)
    low, high = bootstrap_interval(found, pairs, seed)
    return f"{100 * found / pairs:.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def _pose_cells(rows: list[PoseResult], seed: int) -> list[str]:
    errors = [r.error_deg for r in rows]
    mean_precision = mean_average_precision(errors, THRESHOLDS_DEG)
    area = pose_auc(errors, THRESHOLDS_DEG)
    runs = len(rows) / len({(r.store, r.pair) for r in rows})
    return [
        _smallest_cell(rows, seed),
        *(f"{100 * mean_precision[t]:.1f}" for t in THRESHOLDS_DEG[1:]),
        *(f"{100 * area[t]:.1f}" for t in THRESHOLDS_DEG),
        f"{sum(r.rotation_error_deg is None for r in rows) / runs:.3g}",
        _milliseconds([r.estimator_ms for r in rows]),
    ]


def _milliseconds(values: list[float]) -> str:
    middle = float(np.median(values))
    return f"{middle:.1f}" if middle < 9.95 else f"{middle:.0f}"


def stage_table(
    results: Sequence[PoseResult],
    filters: Sequence[str],
    estimators: Sequence[str],
    features: dict[str, float] | None,
) -> str:
    """Markdown: median seconds of a pair by stage, a row per filter.

    "read pair" is from the store, with distortion taken out.

    Args:
        results: rows of all filters and estimators.
        filters, estimators: in the order wanted.
        features: of `measure_features`; None leaves these stages out.
    """
    features = features or {}
    rows = []
    for label in filters:
        of = [r for r in results if r.filter == label]
        stages = [
            *features.values(),
            _median_seconds(r.read_ms for r in of),
            _median_seconds(r.filter_ms for r in of),
            *(_median_seconds(r.estimator_ms for r in of if r.estimator == n) for n in estimators),
        ]
        rows.append([label, *(f"{s:.3f}" for s in stages)])
    return markdown_table(["filter", *features, "read pair", "run filter", *estimators], rows)


def _median_seconds(milliseconds) -> float:
    return float(np.median(list(milliseconds))) / 1000


def noise_table(rows: Sequence[NoiseResult]) -> str:
    """Means over pairs for each noise level and method, as Markdown; shares in percent."""
    columns = ["noise σ", "method", "matches", "right", "kept", "kept right", "inliers"]
    columns += ["mAP@5 [95 % CI]", *(f"mAP@{t}" for t in THRESHOLDS_DEG[1:]), "no pose"]
    cells = []
    for sigma, method in dict.fromkeys((r.sigma, r.method) for r in rows):
        own = [r for r in rows if (r.sigma, r.method) == (sigma, method)]
        errors = [r.error_deg for r in own]
        smallest = THRESHOLDS_DEG[0]
        marks = mean_average_precision(errors, THRESHOLDS_DEG)
        low, high = bootstrap_interval(sum(e < smallest for e in errors), len(own))
        cells.append([
            f"{sigma:g}",
            "no noise" if sigma == 0 else method,
            *(
                f"{np.mean([getattr(r, name) for r in own]):.0f}"
                for name in ("matches", "right", "kept", "kept_right", "inliers")
            ),
            f"{100 * marks[smallest]:.1f} [{100 * low:.0f}, {100 * high:.0f}]",
            *(f"{100 * marks[t]:.1f}" for t in THRESHOLDS_DEG[1:]),
            sum(r.status != "ok" for r in own),
        ])
    return markdown_table(columns, cells)


def noise_difference_report(
    rows: Sequence[NoiseResult], against: Sequence[str], seed: int = 0
) -> str:
    """mAP@5 and inliers of each method less those of each of `against` on the same pairs and noise,
    as Markdown; intervals as in `difference_report`."""
    of = {(r.sigma, r.method, (r.scene, r.name0, r.name1)): r for r in rows}
    pairs = sorted({pair for *_, pair in of})
    levels = dict.fromkeys((r.sigma, r.method) for r in rows if r.sigma)
    cell = _difference_cells(len(pairs), seed)
    smallest = THRESHOLDS_DEG[0]
    sections = []
    for other in against:
        cells = []
        for sigma, method in levels:
            if method == other or (sigma, other) not in levels:
                continue
            own, theirs = ([of[sigma, name, pair] for pair in pairs] for name in (method, other))
            solved, inliers = (
                np.array([value(a) - value(b) for a, b in zip(own, theirs)])
                for value in (lambda r: 100.0 * (r.error_deg < smallest), lambda r: r.inliers)
            )
            cells.append([f"{sigma:g}", method, cell(solved), cell(inliers)])
        table = markdown_table(["noise σ", "method", f"mAP@{smallest}", "inliers"], cells)
        title = f"Less those of {other} on the same pairs [95 % CI], mAP in points:"
        sections.append(f"{title}\n\n{table}")
    return "\n\n".join(sections)
