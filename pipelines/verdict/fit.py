"""Logistic models of a verdict from rows of evidence, and the threshold that they want."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from n3match.pipelines.verdict.measured import EvidenceRow
from n3match.pipelines.verdict.pair_kinds import KINDS, OTHER_PLACE, REAL
from n3match.weights.verdict import probability_of

# What models use by what is known, chosen on the validation scenes: where the filter's trust is
# known the mere number of inliers adds nothing to it.
_TERMS = {
    "points": ("inliers",),
    "logits": ("agreement", "logit"),
    "logits and change": ("agreement", "logit", "turn", "motion"),
}
# What speaks against a pair the more there is of it; all else speaks for it. A coefficient of the
# other sign would be an accident of the pairs at hand.
_AGAINST = ("motion",)
# Of squared coefficients of evidence of unit variance, beside the mean loss of a pair.
_PENALTY = 1e-3
_STEPS = 100


def fit_models(rows: Sequence[EvidenceRow]) -> dict[str, dict[str, float]]:
    """A logistic model for each name: coefficients of the evidence, and "constant".

    Real pairs weigh as much as all others together, and of these each kind as much as another.
    """
    models = {}
    for name, chosen in by_model(rows).items():
        right = np.array([row.right for row in chosen])
        if not 0 < right.sum() < len(right):
            raise ValueError(f"{name}: {right.sum()} of {len(right)} pairs are real: no model")
        models[name] = _fitted(chosen, right, list(_TERMS[name.partition(", ")[2]]))
    return models


def by_model(rows: Sequence[EvidenceRow]) -> dict[str, list[EvidenceRow]]:
    """Those of which it is known whether they are right, by the name of their model, sorted."""
    return {
        name: [row for row in rows if row.model == name and row.right >= 0]
        for name in sorted({row.model for row in rows})
    }


def left_out_probabilities(rows: Sequence[EvidenceRow]) -> dict[str, np.ndarray]:
    """By name of a model (R,) of its rows as in `by_model`, each by a model without the pairs of
    its scene, of two scenes the first; NaN where the others are too few for one."""
    found = {}
    for name, chosen in by_model(rows).items():
        told = found[name] = np.full(len(chosen), np.nan)
        for scene in sorted({row.scene0 for row in chosen}):
            others = [row for row in chosen if scene not in (row.scene0, row.scene1)]
            if len({row.right for row in others}) == 2:
                mine = np.flatnonzero([row.scene0 == scene for row in chosen])
                model = fit_models(others)[name]
                told[mine] = probabilities(model, [chosen[i] for i in mine])
    return found


def _fitted(
    rows: Sequence[EvidenceRow], right: np.ndarray, terms: list[str]
) -> dict[str, float]:
    x = np.array([[row.numbers[term] for term in terms] for row in rows])
    mean, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    found = _logistic((x - mean) / spread, right, _balanced(rows, right))
    coefficients = found[:-1] / spread
    signs = np.array([-1.0 if term in _AGAINST else 1.0 for term in terms])
    if len(terms) > 1 and (signs * coefficients).min() < 0:
        worst = int((signs * found[:-1]).argmin())
        return _fitted(rows, right, [term for term in terms if term != terms[worst]])
    return {
        **{term: float(f"{c:.6g}") for term, c in zip(terms, coefficients)},
        "constant": float(f"{found[-1] - coefficients @ mean:.6g}"),
    }


def probabilities(model: dict[str, float], rows: Sequence[EvidenceRow]) -> np.ndarray:
    """(R,) of the rows' pairs being real."""
    return np.array([probability_of(model, row.numbers) for row in rows])


def choose_threshold(
    model: dict[str, float], rows: Sequence[EvidenceRow], most: float = 0.005
) -> float:
    """The least probability, in hundredths, that claims no pair of two scenes, and of those that
    look alike no more than the share `most`."""
    p = probabilities(model, rows)
    kinds = np.array([row.kind for row in rows])
    known = np.array([row.right >= 0 for row in rows])
    alike = known & ~np.isin(kinds, (REAL, OTHER_PLACE))
    for hundredths in range(1, 100):
        claimed = p >= hundredths / 100
        if claimed[kinds == OTHER_PLACE].any() or claimed[alike].mean() > most:
            continue
        return hundredths / 100
    raise ValueError("no threshold below 1 tells real pairs from others")


def _balanced(rows: Sequence[EvidenceRow], right: np.ndarray) -> np.ndarray:
    """(R,) weights, their sum 1."""
    groups = np.array([-1 if r else KINDS.index(row.kind) for row, r in zip(rows, right)])
    weights = np.zeros(len(rows))
    others = [group for group in np.unique(groups) if group >= 0]
    for group in np.unique(groups):
        share = 0.5 if group < 0 else 0.5 / len(others)
        weights[groups == group] = share / np.count_nonzero(groups == group)
    return weights


def _logistic(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(F + 1,) coefficients of x (R, F) and the constant, by Newton's method."""
    x = np.c_[x, np.ones(len(x))]
    penalty = _PENALTY * np.append(np.ones(x.shape[1] - 1), 0.0)
    found = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 0.5 * (1.0 + np.tanh(0.5 * (x @ found)))
        slope = x.T @ (weights * (p - y)) + penalty * found
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(found)), slope)
        # Far from the answer a whole step may go too far.
        found = found - step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return found
