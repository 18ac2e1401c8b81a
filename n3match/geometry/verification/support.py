"""Is this many inliers more than chance would give? (a-contrario test, numpy)

Idea: Moisan & Stival, "A probabilistic criterion to detect rigid point matches between two
images" (IJCV 2004). The probability that a *wrong* match agrees with a model is measured on the
pair itself, by matching its points at random, instead of assuming points spread evenly over a
rectangle: clustered points, narrow overlaps and epipoles inside the image are then accounted for.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf, gammaln, rel_entr
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

# Lines through two points of image 1 stand for epipolar lines that nobody has found yet; the
# chance of a wrong match to be near one is taken from those that fewest are near.
_LINES, _FEW_NEAR = 64, 0.1
# Noise is sought between these multiples of the threshold, by the share of right matches within the
# threshold among those within a wider limit.
_WIDE = 4.0
_NOISE_LEVELS = np.geomspace(0.1, 4.0, 40)
_NEAR_SHARES = erf(1 / (np.sqrt(2) * _NOISE_LEVELS)) / erf(_WIDE / (np.sqrt(2) * _NOISE_LEVELS))
# A rotation, or a translation beside one, is significant with fewer matches than an essential
# matrix: so many samples find those that are a quarter of all.
_FEWEST_SAMPLES = 5000


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
    size, _ = model
    x0, x1, n = matches.x0, matches.x1, matches.num_putative
    if n <= size:
        return 0.0
    distances = distance(x0, x1)
    if candidates is not None:
        distances = np.where(candidates, distances, np.inf)
    wrong = distance(*_mismatched(x0, x1))
    best = 0.0
    for multiple in _MULTIPLES:
        limit = multiple * matches.threshold
        support = count_distinct(x0, x1, distances < limit, matches.threshold)
        if support > size:
            best = min(best, _log10_expected(support, n, _chance(wrong, limit), model))
    return best


def samples_worth_drawing(matches: Matches, confidence: float, most: int) -> int:
    """How many samples find every essential matrix that could be more than chance.

    The fewest matches that are more than chance are a share w of all, so log(1 − confidence) /
    log(1 − w⁵) samples are enough; what needs more has no more support than chance gives.

    Args:
        matches: those that samples are drawn of.
        confidence: with which such a matrix is found.
        most: samples, never more than these.
    """
    size, _ = ESSENTIAL_MODEL
    count, n = len(matches), matches.num_putative
    chance = _least_chance(matches)
    low, high = size, count  # `low` are no more than chance
    if _log10_expected(high, n, chance, ESSENTIAL_MODEL) > SIGNIFICANT:
        return min(most, _FEWEST_SAMPLES)
    while high - low > 1:
        middle = (low + high) // 2
        if _log10_expected(middle, n, chance, ESSENTIAL_MODEL) > SIGNIFICANT:
            low = middle
        else:
            high = middle
    all_right = min((high / count) ** size, 1 - 1e-9)
    needed = np.log(1 - confidence) / np.log1p(-all_right)
    return int(min(most, max(needed, _FEWEST_SAMPLES)))


def _log10_expected(support: int, n: int, chance: float, model: tuple[int, int]) -> float:
    """log10 of the expected number of models with so much support among n wrong matches."""
    size, solutions = model
    log_tests = (
        np.log(solutions * len(_MULTIPLES))
        + gammaln(n + 1)
        - gammaln(size + 1)
        - gammaln(n - size + 1)
    )
    return float((log_tests + _log_binomial_tail(support - size, n - size, chance)) / np.log(10))


def _least_chance(matches: Matches) -> float:
    """A wrong match's probability of being near an epipolar line where few are."""
    x = matches.x1
    i, j = random_pairs(_LINES, len(x))
    along = x[j] - x[i]
    length = np.linalg.norm(along, axis=1)
    # Sampson's distance divides by the gradient in both images: about √2 times that in one.
    limit = np.sqrt(2) * matches.threshold
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(length, limit)[:, None]
    off = np.abs(x @ across.T - np.einsum("lk,lk->l", x[i], across))
    near = np.array([_chance(column, limit) for column in off.T])
    return float(np.quantile(near, _FEW_NEAR))


def noise_in_thresholds(matches: Matches, distance: Distance) -> float:
    """Standard deviation of right matches' distances from a model, as a multiple of the threshold.

    Inliers alone can't tell it where it is as large as the threshold that chose them: their number
    is compared with that of matches within a wider limit, less what chance puts there.
    """
    d, wrong = distance(matches.x0, matches.x1), distance(*_mismatched(matches.x0, matches.x1))
    limits = matches.threshold, _WIDE * matches.threshold
    num_wrong = np.count_nonzero(d >= limits[1])
    near, wide = (
        np.count_nonzero(d < limit) - num_wrong * _chance(wrong, limit) for limit in limits
    )
    if wide <= 0:
        return _NOISE_LEVELS[0]
    # Of normal distances the share grows as the noise falls.
    return float(np.interp(near / wide, _NEAR_SHARES[::-1], _NOISE_LEVELS[::-1]))


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
