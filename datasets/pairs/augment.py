"""Ways to make another pair of a pair (numpy): see sample.py for the sample's keys.

Every function takes a sample and answers a new one that may share unchanged arrays with it; none
writes into its input. Randomness comes from the generator given. Rotations about the optical axes,
mirroring and swapping leave the epipolar distances as they are; the others say what they do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from n3match.datasets.pairs.sample import (
    TRUE_MATCH_DISTANCE,
    make_sample,
    squared_epipolar_distances,
)
from n3match.matching.side_info import NEUTRAL, SIDE_INFO

_RATIO, _MUTUAL, _BACK_RATIO = (SIDE_INFO.index(n) for n in ("ratio", "mutual", "back_ratio"))
# What only a matcher that has the descriptors knows; users often have ratio and mutual flag alone.
_CANDIDATES = [SIDE_INFO.index(name) for name in ("back_ratio", "distance", "apart")]


@dataclass(frozen=True)
class Augmentation:
    """How often and how much :func:`augment` changes a sample. Chances are in [0, 1]."""

    swap: float = 0.25  # chance of exchanging the images
    mirror: float = 0.5  # chance of the mirror image
    small_roll: float = 6.0  # degrees, spread of an in-plane rotation of each camera by itself
    common_roll: float = 0.3  # chance that both cameras are rolled by the same angle, any angle
    free_roll: float = 0.1  # chance that each camera is rolled by an angle of its own, any angle
    tilt: float = 3.0  # degrees, spread of the rotation of each camera about an oblique axis
    focal: float = 0.01  # spread of the relative error of each focal length, cut at 3 spreads
    reshare: float = 0.3  # chance that the share of true matches is changed on purpose
    crop: float = 0.15  # chance that only a window of one image is kept
    outliers: float = 0.2  # chance that wrong matches among the pair's own keypoints are added
    ratio: float = 0.1  # spread of the log of the power that the ratios of a pair are raised to
    drop_side_info: float = 0.05  # chance that all side information is made unknown
    drop_candidates: float = 0.05  # chance that all of it but ratio and mutual flag is
    drop_keypoint_change: float = 0.05  # chance that turn and change of size are made unknown

    def __post_init__(self):
        for name, value in vars(self).items():
            chance = name not in ("small_roll", "tilt", "focal", "ratio")
            if not value >= 0 or (chance and value > 1):
                wanted = "a chance in [0, 1]" if chance else "0 or more"
                raise ValueError(f"{name}: got {value}, wanted {wanted}")


#: Changes nothing but the number of matches.
NO_AUGMENTATION = Augmentation(*([0.0] * 14))

#: Generated pairs come in all orientations and shares already; they lack wrong focal lengths.
GENERATED_AUGMENTATION = Augmentation(
    swap=0.0, mirror=0.0, small_roll=0.0, common_roll=0.2, free_roll=0.0, tilt=2.0, focal=0.01,
    reshare=0.0, crop=0.1, outliers=0.0, ratio=0.0, drop_side_info=0.05,
    drop_candidates=0.05, drop_keypoint_change=0.05,
)


def augment(
    sample: dict,
    rng: np.random.Generator,
    num_matches: int,
    config: Augmentation | None = None,
) -> dict:
    """At most ``num_matches`` matches of the sample, changed in the ways of ``config``.

    The order is: crop, outliers, choice of matches, swap, mirror, camera rotations, focal error,
    side information, keypoint changes. The matches of the answer are in random order when any
    were left out.
    """
    config = Augmentation() if config is None else config
    if num_matches < 1:
        raise ValueError(f"num_matches: got {num_matches}, wanted 1 or more")
    # All lots are drawn first: the same pair under another config then differs only where it must.
    lots = rng.random(9)
    if lots[0] < config.crop:
        sample = crop(sample, rng, least=max(1, min(num_matches, len(sample["x"])) // 2))
    if lots[1] < config.outliers:
        sample = add_outliers(sample, rng, int(len(sample["x"]) * rng.uniform(0.05, 1.0)))
    share = None
    if lots[2] < config.reshare:
        true = sample["distances"] < TRUE_MATCH_DISTANCE
        share = float(np.clip(true.mean() * np.exp(rng.normal(-0.2, 0.8)), 0.01, 0.95))
    sample = subsample(sample, rng, num_matches, true_share=share)
    if lots[3] < config.swap:
        sample = swap_images(sample)
    if lots[4] < config.mirror:
        sample = mirror(sample)
    sample = rotate_cameras(sample, *_rotations(rng, config, lots[5]))
    if config.focal:
        error = np.clip(rng.normal(0, 1, 2), -3, 3) * config.focal
        sample = focal_error(sample, *(1 + error))
    if config.ratio:
        power = np.float32(np.exp(rng.normal(0, config.ratio)))
        side_info = sample["side_info"].copy()
        side_info[:, [_RATIO, _BACK_RATIO]] **= power
        sample = {**sample, "side_info": side_info}
    if lots[6] < config.drop_side_info:
        sample = drop_side_info(sample)
    if lots[8] < config.drop_candidates:
        sample = drop_candidates(sample)
    return drop_keypoint_change(sample) if lots[7] < config.drop_keypoint_change else sample


def _rotations(
    rng: np.random.Generator, config: Augmentation, lot: float
) -> tuple[np.ndarray, np.ndarray]:
    rolls = rng.normal(0, np.radians(config.small_roll), 2)
    if lot < config.free_roll:
        rolls = rng.uniform(-np.pi, np.pi, 2)
    elif lot < config.free_roll + config.common_roll:
        rolls = rolls + rng.uniform(-np.pi, np.pi)
    tilts = np.clip(rng.normal(0, 1, (2, 2)), -2, 2) * np.radians(config.tilt)
    return tuple(roll_rotation(a) @ _tilt_rotation(b) for a, b in zip(rolls, tilts))


def roll_rotation(angle: float) -> np.ndarray:
    """(3, 3) rotation by ``angle`` radians about the optical axis (x towards y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def _tilt_rotation(tilt: np.ndarray) -> np.ndarray:
    """Rotation by the vector (tilt_x, tilt_y, 0), radians (Rodrigues' formula)."""
    angle = float(np.hypot(*tilt))
    if angle < 1e-12:
        return np.eye(3)
    x, y = tilt / angle
    cross = np.array([[0, 0, y], [0, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def take(sample: dict, index: np.ndarray) -> dict:
    """The matches of the given indices (or bool mask), in that order."""
    keys = ("x", "side_info", "keypoint_change", "distances")
    return {**sample, **{key: sample[key][index] for key in keys}}


def subsample(
    sample: dict, rng: np.random.Generator, num_matches: int, *, true_share: float | None = None
) -> dict:
    """At most ``num_matches`` random matches.

    Args:
        num_matches: 1 or more; when the pair has no more and no share is asked, it is left as is.
        true_share: wanted share of true matches in (0, 1), reached by leaving out matches of the
            kind that is too frequent, down to a quarter of what there could be otherwise; with
            less the share is approached as far as that allows. None leaves it to chance.
    """
    total = len(sample["x"])
    if true_share is None:
        if total <= num_matches:
            return sample
        return take(sample, rng.permutation(total)[:num_matches])
    if not 0 < true_share < 1:
        raise ValueError(f"true_share: got {true_share}, wanted a number between 0 and 1")
    true = sample["distances"] < TRUE_MATCH_DISTANCE
    order = rng.permutation(total)
    mine, others = order[true[order]], order[~true[order]]
    count = min(num_matches, len(mine) / true_share, len(others) / (1 - true_share))
    count = max(count, 0.25 * min(num_matches, total))
    num_mine = min(len(mine), max(round(count * true_share), 1))
    num_others = min(len(others), max(round(count * (1 - true_share)), 1))
    return take(sample, rng.permutation(np.concatenate([mine[:num_mine], others[:num_others]])))


def crop(sample: dict, rng: np.random.Generator, *, least: int = 1) -> dict:
    """Only the matches in a random window of one of the images, as when views overlap less.

    The window runs between two quantiles of each coordinate, the median always inside, and is
    widened until it holds ``least`` matches or everything.
    """
    columns = slice(0, 2) if rng.random() < 0.5 else slice(2, 4)
    points = sample["x"][:, columns]
    low, high = rng.uniform(0, 0.5, 2), rng.uniform(0.5, 1, 2)
    if not len(points):
        return sample
    ranked, last = np.sort(points, axis=0), len(points) - 1
    while True:
        start = ranked[(low * last).astype(int), [0, 1]]
        stop = ranked[np.ceil(high * last).astype(int), [0, 1]]
        inside = ((points >= start) & (points <= stop)).all(1)
        if inside.sum() >= least or inside.all():
            return take(sample, inside)
        low, high = np.maximum(0.5 * low - 0.01, 0), np.minimum(0.5 * high + 0.51, 1)


def swap_images(sample: dict) -> dict:
    """Image 1 becomes image 0 and the other way round; distances stay.

    Nearest neighbours are one-way: in the answer several matches may start, not end, at one
    keypoint, and where they aren't mutual the ratios are those of the other direction. As geometry
    it is as good.
    """
    R = sample["R"].astype(np.float64)
    t = sample["t"].astype(np.float64)
    change = sample["keypoint_change"] * np.array([1, -1, -1], np.float32)
    side_info = sample["side_info"].copy()
    mutual = side_info[:, _MUTUAL] > 0
    side_info[mutual, _RATIO] = sample["side_info"][mutual, _BACK_RATIO]
    side_info[mutual, _BACK_RATIO] = sample["side_info"][mutual, _RATIO]
    swapped = make_sample(sample["x"][:, [2, 3, 0, 1]], side_info, change, R.T, -R.T @ t)
    return {**sample, **swapped, "distances": sample["distances"]}


def mirror(sample: dict) -> dict:
    """Both images reflected in their y axes; distances stay."""
    flip = np.array([-1.0, 1.0, 1.0])
    x = sample["x"] * np.array([-1, 1, -1, 1], np.float32)
    R = flip[:, None] * sample["R"] * flip
    change = sample["keypoint_change"] * np.array([1, -1, 1], np.float32)
    mirrored = make_sample(x, sample["side_info"], change, R, flip * sample["t"])
    return {**sample, **mirrored, "distances": sample["distances"]}


def rotate_cameras(sample: dict, rotation0: np.ndarray, rotation1: np.ndarray) -> dict:
    """Cameras turned about their centres: x' ~ rotation x, for small angles off the axis.

    The geometry stays exact (R' = rotation1 R rotation0ᵀ, t' = rotation1 t) but distances off the
    optical axis are stretched a little, so they are worked out again. A match of which a point
    would come to lie at the side of or behind its camera is left out.
    """
    x = sample["x"].astype(np.float64)
    kept = np.ones(len(x), bool)
    turned = []
    for points, Q in ((x[:, :2], rotation0), (x[:, 2:], rotation1)):
        rays = points @ Q[:, :2].T + Q[:, 2]
        kept &= rays[:, 2] > 0.1
        turned.append(rays)
    if not kept.all():
        sample = take(sample, kept)
        turned = [rays[kept] for rays in turned]
    x = np.concatenate([rays[:, :2] / rays[:, 2:] for rays in turned], 1)
    R = rotation1 @ sample["R"].astype(np.float64) @ rotation0.T
    change = turn(sample["keypoint_change"], _roll_of(rotation1) - _roll_of(rotation0))
    return {**sample, **make_sample(x, sample["side_info"], change, R, rotation1 @ sample["t"])}


def _roll_of(Q: np.ndarray) -> float:
    """Angle (radians) of the in-plane rotation nearest to a rotation."""
    return float(np.arctan2(Q[1, 0] - Q[0, 1], Q[0, 0] + Q[1, 1]))


def turn(change: np.ndarray, angle: float) -> np.ndarray:
    """Keypoint changes (N, 3) with ``angle`` (radians) added to each turn; unknown ones stay so."""
    cosine, sine, log_scale = change.T
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * cosine - s * sine, s * cosine + c * sine, log_scale], 1)


def focal_error(sample: dict, scale0: float, scale1: float) -> dict:
    """Coordinates as they come out with wrong focal lengths: multiplied by the scales.

    Not a symmetry: the pose, and the distances as labels, stay those of the right cameras. Meant
    for a few percent at most.
    """
    scale = np.array([scale0, scale0, scale1, scale1], np.float32)
    change = sample["keypoint_change"] + np.float32([0, 0, np.log(scale1 / scale0)])
    return {**sample, "x": sample["x"] * scale, "keypoint_change": change}


def add_outliers(sample: dict, rng: np.random.Generator, count: int) -> dict:
    """``count`` more matches between the pair's own keypoints, at random; their distances too.

    Their side information and keypoint changes are those of wrong matches of the pair, or typical
    values where it has none. By chance a few are near their epipolar lines, and are labelled so.
    """
    total = len(sample["x"])
    if count < 1 or total == 0:
        return sample
    first, second = rng.integers(0, total, (2, count))
    x = np.concatenate([sample["x"][first, :2], sample["x"][second, 2:]], 1)
    wrong = np.flatnonzero(sample["distances"] >= TRUE_MATCH_DISTANCE)
    if len(wrong):
        like = wrong[rng.integers(0, len(wrong), count)]
        side_info, change = sample["side_info"][like], sample["keypoint_change"][like]
    else:
        mutual = rng.random(count) < 0.15
        side_info = np.tile(np.float32([*NEUTRAL.values()]), (count, 1))
        side_info[:, _RATIO], side_info[:, _MUTUAL] = rng.beta(18, 1.7, count), mutual
        angles = rng.uniform(-np.pi, np.pi, count)
        change = turn(sample["keypoint_change"][first], angles).astype(np.float32)
    distances = squared_epipolar_distances(x, sample["E"])
    added = {"x": x, "side_info": side_info, "keypoint_change": change, "distances": distances}
    return {**sample, **{k: np.concatenate([sample[k], v]) for k, v in added.items()}}


def drop_side_info(sample: dict) -> dict:
    """All side information of the pair made unknown: NEUTRAL in every row."""
    side_info = np.empty_like(sample["side_info"])
    side_info[:] = tuple(NEUTRAL.values())
    return {**sample, "side_info": side_info}


def drop_candidates(sample: dict) -> dict:
    """Side information made unknown but for ratio and mutual flag."""
    side_info = sample["side_info"].copy()
    side_info[:, _CANDIDATES] = [NEUTRAL[SIDE_INFO[column]] for column in _CANDIDATES]
    return {**sample, "side_info": side_info}


def drop_keypoint_change(sample: dict) -> dict:
    """Turn and change of size of the whole pair made unknown: zeros."""
    return {**sample, "keypoint_change": np.zeros_like(sample["keypoint_change"])}
