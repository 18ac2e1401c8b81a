"""Claims of pairs being real, as tables and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import binomtest

from n3match.files.whole import whole_file
from n3match.pipelines.common.tables import markdown_table
from n3match.pipelines.verdict.fit import by_model
from n3match.pipelines.verdict.measured import RIGHT_DEG, AnswerRow, EvidenceRow
from n3match.pipelines.verdict.pair_kinds import KINDS, OTHER_PART, OTHER_PLACE, OTHER_SIDE, REAL
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL

_INLIERS = (15, 30)
_BINS = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
_LOOK_ALIKE = (OTHER_SIDE, OTHER_PART)
# Parts that do show a common part of the scene, of which its model has no points; or a façade's
# repetitions along the line that the camera moved on, which agree with the right pose.
_PART_SOLVED = f"{OTHER_PART}, solved within {RIGHT_DEG:g}°"

Claim = Callable[[AnswerRow], bool]


def verdict_report(rows: Sequence[AnswerRow], threshold: Mapping[str, float]) -> str:
    """Markdown: claims by kind of pair, without cameras and from points alone, calibration.

    threshold: as of a `PairVerdict`.
    """
    claims: dict[str, Claim] = {"n3match": lambda row: row.probability >= threshold[ESSENTIAL]}
    claims |= {
        f"≥ {n} inliers": lambda row, n=n: row.usual_inliers >= n for n in _INLIERS
    }
    parts = []
    for count in sorted({row.keypoints for row in rows}):
        here = [row for row in rows if row.keypoints == count]
        table = markdown_table(
            ["pairs", "number", *claims],
            [
                [what, len(group), *(_share(group, claim) for claim in claims.values())]
                for what, group in _groups(here) if group
            ],
        )
        parts.append(f"{count} keypoints, pairs claimed to be real, % [95 % interval]:\n\n{table}")
    others: dict[str, tuple[Claim, Claim]] = {
        "cameras known": (lambda row: True, claims["n3match"]),
        "cameras not known": (
            lambda row: True, lambda row: row.fundamental_probability >= threshold[FUNDAMENTAL]
        ),
        "points alone": (
            lambda row: row.alone_probability is not None,
            lambda row: row.alone_probability >= threshold[ESSENTIAL],
        ),
    }
    cells = []
    for name, (asked, claim) in others.items():
        groups = dict(_groups([row for row in rows if asked(row)]))
        if any(groups.values()):
            cells.append([name, *(_share(group, claim) for group in groups.values())])
    parts.append(
        "The same by what is known:\n\n"
        + markdown_table(["known", *(what for what, _ in _groups(rows))], cells)
    )
    parts.append(
        "Calibration, real pairs solved within 10° weighing as much as all others:\n\n"
        + calibration_table(rows)
    )
    return "\n\n".join(parts) + "\n"


def claims_table(
    rows: Sequence[EvidenceRow], told: Mapping[str, np.ndarray], threshold: Mapping[str, float]
) -> str:
    """Markdown: how many pairs of each kind models claim.

    told: by model, probabilities of its rows as in `by_model`; those that are NaN don't count.
    threshold: as of a `PairVerdict`.
    """
    groups: dict[str, Callable[[EvidenceRow], bool]] = {
        "real, solved": lambda row: row.kind == REAL and row.right == 1,
        "real, not solved": lambda row: row.kind == REAL and row.right != 1,
    }
    groups |= {kind: lambda row, kind=kind: row.kind == kind for kind in KINDS if kind != REAL}
    cells = []
    for name, chosen in by_model(rows).items():
        least = threshold[name.partition(", ")[0]]
        known = [(p >= least, row) for p, row in zip(told[name], chosen) if np.isfinite(p)]
        inside = [[claimed for claimed, row in known if of(row)] for of in groups.values()]
        cells.append([name, *(f"{sum(group)} of {len(group)}" for group in inside)])
    return markdown_table(["model", *groups], cells)


def _groups(rows: Sequence[AnswerRow]) -> list[tuple[str, list[AnswerRow]]]:
    def solved(kind: str, wanted: bool) -> list[AnswerRow]:
        return [r for r in rows if r.kind == kind and (r.undoubted_deg < RIGHT_DEG) == wanted]

    return [
        (f"real, solved within {RIGHT_DEG:g}°", solved(REAL, True)),
        ("real, not solved", solved(REAL, False)),
        (OTHER_SIDE, [row for row in rows if row.kind == OTHER_SIDE]),
        (OTHER_PART, solved(OTHER_PART, False)),
        (_PART_SOLVED, solved(OTHER_PART, True)),
        (OTHER_PLACE, [row for row in rows if row.kind == OTHER_PLACE]),
    ]


def _share(rows: Sequence[AnswerRow], claim: Claim) -> str:
    if not rows:
        return "—"
    count = sum(map(claim, rows))
    interval = binomtest(count, len(rows)).proportion_ci()
    low, high = (f"{100 * value:.1f}" for value in interval)
    return f"{count}: {100 * count / len(rows):.1f} [{low}, {high}]"


def calibration_table(rows: Sequence[AnswerRow]) -> str:
    """Of the pairs in each range of probability, the share that is real and right.

    Real pairs that aren't solved are left out, whose inliers are those of chance, and parts that
    are.
    """
    groups = dict(_groups(rows))
    real, _, *others = (group for what, group in groups.items() if what != _PART_SOLVED)
    wrong = [row for group in others for row in group]
    cells = []
    for low, high in pairwise(_BINS):
        inside = [
            [row.probability for row in group if _inside(row.probability, low, high)]
            for group in (real, wrong)
        ]
        weights = [len(found) / max(len(g), 1) for found, g in zip(inside, (real, wrong))]
        told = sum(w * np.mean(found) for w, found in zip(weights, inside) if found)
        total = sum(weights)
        cells.append([
            f"{low:g} … {high:g}", *map(len, inside),
            f"{told / total:.3f}" if total else "—", f"{weights[0] / total:.3f}" if total else "—",
        ])
    return markdown_table(["probability", "real", "others", "mean told", "share real"], cells)


def _inside(value: float, low: float, high: float) -> bool:
    return low <= value < high or value == high == 1.0


def plot_claims(
    path: Path, rows: Sequence[AnswerRow], threshold: Mapping[str, float]
) -> None:
    """Writes a PNG: real pairs kept against look-alikes claimed with cameras known, a panel for
    each number of keypoints. threshold: as of a `PairVerdict`."""
    counts = sorted({row.keypoints for row in rows})
    figure = Figure(figsize=(5.4 * len(counts), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for panel, count in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts):
        here = [row for row in rows if row.keypoints == count]
        groups = dict(_groups(here))
        real = groups[f"real, solved within {RIGHT_DEG:g}°"]
        alike = [row for kind in _LOOK_ALIKE for row in groups[kind]]
        if not real or not alike:
            continue
        curves: dict[str, tuple[Callable[[AnswerRow], float], Mapping[float, str]]] = {
            "n3match: probability": (lambda row: row.probability, {threshold[ESSENTIAL]: "o"}),
            "inliers of mutual + ratio": (
                lambda row: row.usual_inliers, dict(zip(_INLIERS, "s^", strict=True)),
            ),
        }
        for label, (value, marked) in curves.items():
            kept, claimed = (np.array([value(row) for row in g]) for g in (real, alike))
            limits = np.unique(np.concatenate([kept, claimed, [*marked]]))[::-1]
            x, y = ([100 * np.mean(v >= limit) for limit in limits] for v in (claimed, kept))
            (line,) = panel.step(x, y, where="post", label=label)
            for limit, marker in marked.items():
                at = 100 * np.mean(claimed >= limit), 100 * np.mean(kept >= limit)
                panel.plot(
                    *at, marker, color=line.get_color(), linestyle="none", label=f"≥ {limit:g}"
                )
        panel.set(
            title=f"{count} keypoints", xlabel="look-alikes claimed to be real, %",
            ylabel=f"real pairs (solved within {RIGHT_DEG:g}°) kept, %", xlim=(-1, 101),
            ylim=(50, 101),
        )
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
