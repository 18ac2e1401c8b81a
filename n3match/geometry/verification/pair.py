"""Is this pair real: do its inliers lie on something that both photographs show? (numpy)

Chance alone is one reason for inliers, and `support` measures it. Façades, floors and walls that
look alike are another: their matches agree with a geometry because the scene repeats itself. What
tells them from a common part of a scene is learned from pairs of both kinds, by `n3match
train-verdict`: a logistic model of a few pieces of evidence, kept in
`n3match/weights/verdict.json`.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from n3match.geometry.verification.agreement import Matches
from n3match.geometry.verification.support import count_distinct
from n3match.weights.verdict import ESSENTIAL, probability_of, shipped_verdict

# How much is known of the matches.
_KNOWN_LOGITS, _KNOWN_CHANGE, _POINTS_ALONE = "logits", "logits and change", "points"
# Logits above tell no more.
_SURE = 6.0
# Fewer inliers have no distribution to speak of: then turn and motion are as of wrong matches.
_FEWEST = 4
_UNKNOWN_TURN, _UNKNOWN_MOTION = 0.5, 0.7


def evidence_name(matches: Matches, geometry: str) -> str:
    """Name of the model for these matches.

    Args:
        geometry: one of `weights.verdict.GEOMETRIES`.
    """
    if matches.logits is None:
        known = _POINTS_ALONE
    else:
        known = _KNOWN_CHANGE if _knows_change(matches) else _KNOWN_LOGITS
    return f"{geometry}, {known}"


def pair_evidence(matches: Matches, inliers: np.ndarray) -> dict[str, float]:
    """Pieces of evidence by name, of which a model uses some; which there are depends on what is
    known of the matches.

    Args:
        matches: of the pair, N.
        inliers: (N,) bool, that agree with the geometry found; none where there is none.

    Returns:
        "inliers": log(1 + their number), points counted once. With logits "agreement": how much the
        filter trusts them, likewise, times their share of what it trusts; "logit": their mean. With
        keypoint changes also "turn": how alike they turn, 0 … 1; "motion": how far off their own
        turn and scale put their neighbours, 0 … 1.
    """
    count = int(np.count_nonzero(inliers))
    distinct = count_distinct(matches.x0, matches.x1, inliers, matches.threshold) if count else 0
    evidence = {"inliers": float(np.log1p(distinct))}
    if matches.logits is None:
        return evidence
    # What looks alike has many inliers too, but the filter trusts as many matches that contradict
    # them: 2 · probability − 1 of each that is kept.
    trust = np.maximum(np.tanh(matches.logits / 2), 0.0)
    trusted = float(trust[inliers].sum())
    share = (trusted + 0.25) / (float(trust.sum()) + 0.5)
    evidence["agreement"] = float(np.log1p(trusted)) * share
    sure = np.clip(matches.logits[inliers], 0.0, _SURE)
    evidence["logit"] = float(sure.mean()) if count else 0.0
    if not _knows_change(matches):
        return evidence
    evidence["turn"], evidence["motion"] = _UNKNOWN_TURN, _UNKNOWN_MOTION
    if count >= _FEWEST:
        change = matches.keypoint_change[inliers]
        evidence["turn"] = float(np.hypot(*change[:, :2].mean(axis=0)))
        evidence["motion"] = _disagreement(
            matches.x0[inliers], matches.x1[inliers], change, matches.threshold
        )
    return evidence


def pair_probability(
    matches: Matches,
    inliers: np.ndarray,
    geometry: str = ESSENTIAL,
) -> float:
    """Probability that the inliers lie on something that both images show.

    Args:
        matches, inliers: see `pair_evidence`.
        geometry: one of `weights.verdict.GEOMETRIES`.

    Returns:
        In [0, 1], calibrated where as many pairs are real as not.
    """
    model = shipped_verdict().models[evidence_name(matches, geometry)]
    return probability_of(model, pair_evidence(matches, inliers))


def _knows_change(matches: Matches) -> bool:
    """Whether most keypoints have an orientation."""
    change = matches.keypoint_change
    if change is None:
        return False
    return 2 * np.count_nonzero(change[:, :2].any(axis=1)) >= len(change)


def _disagreement(
    x0: np.ndarray, x1: np.ndarray, change: np.ndarray, threshold: float
) -> float:
    """How far off keypoints' own turn and scale put their nearest neighbour in image 1: the median,
    0 for exactly, 1 for anywhere."""
    nearest = cKDTree(x0).query(x0, 2)[1][:, 1]
    step0, step1 = x0[nearest] - x0, x1[nearest] - x1
    cosine, sine, log_scale = change.T
    turned = np.stack(
        [cosine * step0[:, 0] - sine * step0[:, 1], sine * step0[:, 0] + cosine * step0[:, 1]],
        axis=1,
    )
    expected = turned * np.exp(log_scale)[:, None]
    lengths = np.linalg.norm(expected, axis=1) + np.linalg.norm(step1, axis=1)
    return float(np.median(np.linalg.norm(expected - step1, axis=1) / (lengths + threshold)))
