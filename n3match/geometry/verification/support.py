"""Is this many inliers more than chance would give? (a-contrario test, numpy)

Idea: Moisan & Stival, "A probabilistic criterion to detect rigid point matches between two
images" (IJCV 2004). The probability that a *wrong* match agrees with a model is measured on the
pair itself, by matching its points at random, instead of assuming points spread evenly over a
rectangle: clustered points, narrow overlaps and epipoles inside the image are then accounted for.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, rel_entr
from scipy.stats import binom

from n3match.geometry.verification.agreement import Distance, Matches, random_pairs

_RANDOM_PAIRS = 5000
# A threshold this many times wider, divided by the same number, steadies the estimate of
# small probabilities.
_WIDER = 8
# Distances are tested at these multiples of the inlier threshold; each is one more test.
_MULTIPLES = (1.0, 2.0, 4.0)

# log10 of expected false alarms below which support is more than chance: one in a thousand.
SIGNIFICANT = -3.0

# (matches that fix the model, solutions they leave)
ESSENTIAL_MODEL = (5, 10)
FUNDAMENTAL_MODEL = (7, 3)
HOMOGRAPHY_MODEL = (4, 1)
ROTATION_MODEL = (2, 1)
TRANSLATION_MODEL = (2, 1)  # beside a rotation or a plane that is known already


def log10_false_alarms(
    matches: Matches,
    distance: Distance,
    candidates: np.ndarray | None = None,
    model: tuple[int, int] = ESSENTIAL_MODEL,
) -> float:
    """log10 of the number of models with this much support that wrong matches alone would give.

    With n putative matches, k of them within the threshold and a probability p for a wrong match
    to be, the expected number is  solutions · C(n, s) · P(Binomial(n − s, p) ≥ k − s),  for s
    the size of a minimal sample; the smallest over a few thresholds is taken, times their number.
    Matches that share a point (in either image) count once: one epipole on a much-matched point
    would make all of them agree.

    Args:
        matches: all N; n is their `num_putative`.
        distance: (M, 2), (M, 2) -> (M,) distances of matches from the model, such as
            `epipolar_distance` of its E.
        candidates: (N,) bool, the matches that may count as support; None: all.
        model: (minimal sample s, solutions).

    Returns:
        log10 of the expected number; 0 (never more) is what chance gives, −3 once in 1000.
    """
    size, solutions = model
    x0, x1, n = matches.x0, matches.x1, matches.num_putative
    if n <= size:
        return 0.0
    distances = distance(x0, x1)
    if candidates is not None:
        distances = np.where(candidates, distances, np.inf)
    wrong = distance(*_mismatched(x0, x1))
    log_tests = (
        np.log(solutions * len(_MULTIPLES))
        + gammaln(n + 1)
        - gammaln(size + 1)
        - gammaln(n - size + 1)
    )
    best = 0.0
    for multiple in _MULTIPLES:
        limit = multiple * matches.threshold
        support = count_distinct(x0, x1, distances < limit, matches.threshold)
        if support <= size:
            continue
        log_tail = _log_binomial_tail(support - size, n - size, _chance(wrong, limit))
        best = min(best, (log_tests + log_tail) / np.log(10))
    return float(best)


def count_distinct(x0: np.ndarray, x1: np.ndarray, mask: np.ndarray, cell: float) -> int:
    """How many different points the selected matches have, in the image that has fewer."""
    return min(len(np.unique(_cells(x[mask], cell))) for x in (x0, x1))


def _cells(x: np.ndarray, cell: float) -> np.ndarray:
    """One complex number per grid cell: sorting those is much faster than sorting rows."""
    grid = np.round(x / cell)
    return grid[:, 0] + 1j * grid[:, 1]


def _log_binomial_tail(k: int, n: int, p: float) -> float:
    """log P(Binomial(n, p) ≥ k), finite for every 0 < p."""
    k = min(k, n)
    log_tail = float(binom.logsf(k - 1, n, p))
    if np.isfinite(log_tail) or p >= 1:
        return log_tail
    # Underflow: Chernoff's bound, −n KL(k/n ‖ p), is close there and never too small.
    share = k / n
    return -n * float(rel_entr(share, p) + rel_entr(1 - share, 1 - p))


def _chance(wrong: np.ndarray, limit: float) -> float:
    """The share of wrong matches within the limit; never zero, as the sample is finite."""
    if not len(wrong):
        return 1.0
    direct = np.count_nonzero(wrong < limit)
    smoothed = np.count_nonzero(wrong < _WIDER * limit) / _WIDER
    return min(1.0, (max(direct, smoothed) + 1) / len(wrong))


def _mismatched(x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of image 0 with points of image 1 that are not their matches, each pair once.

    All such pairs if there are few: repeating them would feign a larger sample.
    """
    n = len(x0)
    if n * (n - 1) <= _RANDOM_PAIRS:
        i, j = np.nonzero(~np.eye(n, dtype=bool))
    else:
        i, j = random_pairs(_RANDOM_PAIRS, n)
    return x0[i], x1[j]
