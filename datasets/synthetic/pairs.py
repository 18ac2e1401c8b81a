"""Generated two-view geometry: putative matches with known truth, without any photograph (numpy).

A match filter sees coordinates only, so it can be trained on generated pairs: random scenes and
cameras (scenes.py), clustered keypoints, detector noise, and wrong matches of the kinds
that descriptors make: nearest neighbours that many keypoints share, repeated structure shifted by
its period, something that moves by itself, coarse localisation, and keypoints found twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from n3match.arguments import one_of, sequence, whole
from n3match.datasets.pairs.sample import make_sample
from n3match.datasets.synthetic.scenes import (
    SCENE_WEIGHTS,
    Camera,
    Scene,
    look_at,
    random_camera,
    random_motion,
    random_scene,
    random_tilt,
    rotation,
)
from n3match.matching.side_info import SIDE_INFO, relative_apart

_MIN_TRUE = 8
_REPETITIVE = 0.15  # share of pairs in which most wrong matches slip by a period
_DTYPE = np.float32


class SyntheticPairs:
    """An endless set of generated image pairs.

    ``sample(index)`` is a function of (seed, index) alone, so training can be resumed anywhere.
    See pairs/sample.py for the sample's keys.

    Args:
        seed: non-negative; sets with different seeds share no pair.
        num_matches: least and most matches of a pair (both can occur).
        scenes: kinds of scene to draw from evenly (keys of SCENE_WEIGHTS); None for all by weight.

    Raises:
        ValueError: num_matches not 8 <= lo <= hi, negative seed, unknown scene.
    """

    def __init__(
        self,
        seed: int = 0,
        num_matches: tuple[int, int] = (500, 2000),
        *,
        scenes: Sequence[str] | None = None,
    ):
        bounds = sequence("num_matches", num_matches, "two numbers")
        if len(bounds) != 2:
            raise ValueError(f"num_matches: got {len(bounds)} numbers, wanted least and most")
        low, high = (whole("num_matches", number) for number in bounds)
        if not _MIN_TRUE <= low <= high:
            raise ValueError(f"num_matches: got {num_matches}, wanted {_MIN_TRUE} <= lo <= hi")
        seed = whole("seed", seed, 0)
        scenes = () if scenes is None else sequence("scenes", scenes, "names")
        for name in scenes:
            one_of("scenes", name, SCENE_WEIGHTS)
        self.seed, self.num_matches = seed, (low, high)
        self.scenes = tuple(scenes) or None

    def sample(self, index: int, num_matches: int | None = None) -> dict:
        """The pair of this index (0 or more): a sample as pairs/sample.py describes it.

        ``num_matches`` (8 or more) fixes the number of matches instead of drawing it.
        """
        if num_matches is not None and num_matches < _MIN_TRUE:
            raise ValueError(f"num_matches: got {num_matches}, wanted {_MIN_TRUE} or more")
        rng = np.random.Generator(np.random.SFC64((self.seed, int(index))))
        kind = None
        if self.scenes is not None:
            kind = self.scenes[int(rng.integers(len(self.scenes)))]
        count = int(rng.integers(self.num_matches[0], self.num_matches[1] + 1))
        if num_matches is not None:
            count = int(num_matches)
        return _generate(rng, count, kind)


def _generate(rng: np.random.Generator, count: int, kind: str | None) -> dict:
    difficulty = float(np.clip(rng.beta(1.3, 1.0), 0, 1))
    share = _inlier_share(rng, difficulty)
    scene = random_scene(rng, kind)
    camera0 = random_camera(rng)
    camera1 = camera0 if rng.random() < 0.5 else random_camera(rng)
    tilt = random_tilt(rng, scene.kind)

    # Image 0: more keypoints than matches, so that enough of them are seen twice.
    num_candidates = int(1.2 * count) + 16
    x0 = random_keypoints(rng, num_candidates, camera0)
    rays = _homogeneous(x0.T)
    world = tilt.T.astype(_DTYPE) @ rays
    depth = scene.cast(np.zeros(3, _DTYPE), world)
    if scene.roughness:
        depth = depth * np.exp(scene.roughness * _normal(rng, num_candidates))
    points = world * depth

    R1, centre, x1, visible = _second_view(
        rng, scene, points, tilt, camera1, difficulty, min(share * count, 0.5 * num_candidates)
    )

    # Which of the points seen twice are matched rightly: neighbours tend to agree.
    candidates = np.flatnonzero(visible)
    num_true = int(np.clip(round(share * count), min(_MIN_TRUE, len(candidates)), len(candidates)))
    field = _smooth_field(rng, x0[candidates], camera0)
    tendency = _normal(rng, len(candidates)) + np.float32(rng.uniform(0, 3)) * field
    true = candidates[np.argsort(tendency)[len(tendency) - num_true :]]
    rest = np.ones(num_candidates, bool)
    rest[true] = False
    false = np.flatnonzero(rest)
    rng.shuffle(false)
    false = false[: count - num_true]
    num_false = len(false)

    start, end_true = _detected(rng, x0[true], x1[true], camera0, camera1)
    x0_all = np.concatenate([x0[false], start])
    target, shared, is_shifted = _false_targets(
        rng, scene, false, x0, points, x1, visible, end_true, camera0, camera1, R1, centre
    )
    x1_all = np.concatenate([target, end_true])
    # Keypoint of image 1 that each match ends at, where matches share one; true ones come last.
    end = np.concatenate([shared, np.arange(num_true)])
    is_true = np.arange(count) >= num_false
    repeated = np.concatenate([is_shifted, np.zeros(num_true, bool)])
    if is_shifted.any():
        # True matches on repeated structure are as ambiguous as the wrong ones.
        ambiguous = min(4 * is_shifted.mean(), 1) * rng.uniform(0.1, 0.9)
        repeated[num_false:] = rng.random(num_true) < ambiguous
    origin = _duplicate_orientations(rng, x0_all, x1_all, end, is_true)
    slip = np.full(count, np.nan, _DTYPE)
    slip[:num_false] = np.where(is_shifted, np.linalg.norm(target - x1[false], axis=1), np.nan)
    side_info = _side_info(rng, is_true, repeated, end, slip)
    drawn = np.concatenate([false, true])
    local = _local_maps(points[:, drawn], depth[drawn], x1[drawn], tilt, R1, centre)
    alike = is_true | np.concatenate([shared < 0, np.zeros(num_true, bool)])
    change = _keypoint_changes(rng, local[:, origin], alike, camera0, camera1)

    shuffle = rng.permutation(count)
    x = np.take(np.concatenate([x0_all, x1_all], 1), shuffle, axis=0)
    side_info, change = (np.take(a, shuffle, axis=0) for a in (side_info, change))
    return make_sample(x, side_info, change, R1 @ tilt.T, -R1 @ centre)


def _inlier_share(rng: np.random.Generator, difficulty: float) -> float:
    """Wanted share of true matches: median about 12 %, mostly 3 to 30 %, up to 90 % when easy."""
    if rng.random() < 0.08:
        return rng.uniform(0.01, 0.9)
    middle = math.log(0.42) + difficulty * (math.log(0.024) - math.log(0.42))
    return min(max(math.exp(rng.normal(middle, 0.65)), 0.01), 0.9)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=_DTYPE)


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((1, points.shape[1]), points.dtype)])


def random_keypoints(rng: np.random.Generator, count: int, camera: Camera) -> np.ndarray:
    """(count, 2) calibrated points inside the image, as unevenly spread as real keypoints.

    A part is uniform, the rest sits in Gaussian patches, along line-like ones, or on the crossings
    of a grid; often a part of the image (sky, wall, floor) is nearly empty.
    """
    extent = np.array([camera.half_width, camera.half_height], _DTYPE)
    unit = rng.random((count, 2), dtype=_DTYPE) * 2 - 1
    num_clustered = int(count * rng.uniform(0.3, 0.9))
    num_patches = int(rng.integers(4, 70))
    centres = rng.random((num_patches, 2), dtype=_DTYPE) * 2 - 1
    spread = np.minimum(0.08 * np.exp(0.7 * _normal(rng, num_patches, 2)), 0.3).astype(_DTYPE)
    weight = rng.gamma(0.8, size=num_patches) + 1e-9
    sizes = rng.multinomial(num_clustered, weight / weight.sum())
    unit[:num_clustered] = _normal(rng, num_clustered, 2)
    unit[:num_clustered] *= np.repeat(spread, sizes, axis=0)
    unit[:num_clustered] += np.repeat(centres, sizes, axis=0)
    # In random order: what follows takes the first so many.
    unit = np.take(unit, rng.permutation(count), axis=0)
    if rng.random() < 0.35:  # windows, tiles, shelves
        num_grid = int(count * rng.uniform(0.1, 0.7))
        pitch = rng.uniform(0.06, 0.4, 2).astype(_DTYPE)
        grid = unit[:num_grid]
        snapped = np.round(grid / pitch) * pitch
        unit[:num_grid] = snapped + np.float32(0.012) * _normal(rng, num_grid, 2)
    if rng.random() < 0.4:  # an empty part: squeeze most of it to the other side
        axis = int(rng.random() < 0.7)
        edge, sign = rng.uniform(-0.9, -0.1), (1 if rng.random() < 0.8 else -1)
        moved = (sign * unit[:, axis] < edge) & (rng.random(count) < 0.9)
        unit[moved, axis] = sign * rng.uniform(edge, 1, int(moved.sum()))
    # Reflect at the borders, so that nothing piles up there.
    unit = np.abs(np.abs(unit + 1) - 2) - 1
    return unit * -extent


def _detector_noise(rng: np.random.Generator, count: int, scale: float) -> np.ndarray:
    """(count, 2) localisation error; each point has a scale of its own, hence the heavy tail."""
    own = np.exp(np.float32(0.75) * _normal(rng, count, 1))
    return np.float32(scale) * own * _normal(rng, count, 2)


def _detected(
    rng: np.random.Generator, x0: np.ndarray, x1: np.ndarray, camera0: Camera, camera1: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Exact projections (N, 2) of the same points as a detector finds them in both images."""
    noise = 2 ** rng.uniform(-3.8, 0.6)  # pixels, typical of the pair; median 0.33
    x0 = x0 + _detector_noise(rng, len(x0), noise / camera0.focal)
    x1 = x1 + _detector_noise(rng, len(x1), noise / camera1.focal)
    if rng.random() < 0.25:  # lens distortion that nobody calibrated
        k0, k1 = rng.normal(0, 0.006, 2).astype(_DTYPE)
        x0 = x0 * (1 + k0 * (x0 * x0).sum(1, keepdims=True))
        x1 = x1 * (1 + k1 * (x1 * x1).sum(1, keepdims=True))
    return x0, x1


def _smooth_field(rng: np.random.Generator, points: np.ndarray, camera: Camera) -> np.ndarray:
    """A smooth random function of the image position, (N,), of spread about 1."""
    waves = rng.normal(0, 2.5 / camera.half_width, (2, 3)).astype(_DTYPE)
    phase = rng.uniform(0, 2 * np.pi, 3).astype(_DTYPE)
    return np.sin(points @ waves + phase).sum(1) * np.float32(0.8)


def _project(
    points: np.ndarray, R: np.ndarray, centre: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated coordinates (N, 2) of world points (3, N) and whether they are in the image."""
    local = R.astype(_DTYPE) @ (points - centre.astype(_DTYPE)[:, None])
    front = local[2] > 1e-3
    x = (local[:2] / np.where(front, local[2], 1)).T
    inside = front & (np.abs(x[:, 0]) < camera.half_width) & (np.abs(x[:, 1]) < camera.half_height)
    return x, inside


def _second_view(
    rng: np.random.Generator,
    scene: Scene,
    points: np.ndarray,
    tilt: np.ndarray,
    camera: Camera,
    difficulty: float,
    wanted: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Camera 1 that sees about ``wanted`` of the points: R1, centre, projections (N, 2), visible.

    A motion that loses too many is shortened until enough remain.
    """
    num_points = points.shape[1]
    # Look at something near; distant backdrops are seldom what a photograph is of.
    few = rng.integers(0, num_points, 9)
    nearness = np.argsort((points[:, few] ** 2).sum(0))
    focus = points[:, few[nearness[int(rng.integers(0, 5))]]].astype(np.float64)
    centre, target, roll = random_motion(rng, scene, focus, tilt, difficulty)
    down = tilt[1]
    for attempt in range(6):
        if attempt:
            centre = 0.6 * centre
            target = focus + 0.5 * (target - focus)
        R1 = look_at(centre, target, down, roll)
        x1, visible = _project(points, R1, centre, camera)
        if visible.sum() < wanted:
            continue
        if not scene.is_depth_map:
            inside = np.flatnonzero(visible)
            origin = centre.astype(_DTYPE)
            ends = points[:, inside] - origin[:, None]
            slack = 0.02 + 3 * scene.roughness
            visible[inside] = scene.cast(origin, ends) > 1 - slack
        if visible.sum() >= wanted:
            break
    return R1, centre, x1, visible


def _false_targets(
    rng: np.random.Generator,
    scene: Scene,
    false: np.ndarray,
    x0: np.ndarray,
    points: np.ndarray,
    x1: np.ndarray,
    visible: np.ndarray,
    true_ends: np.ndarray,
    camera0: Camera,
    camera1: Camera,
    R1: np.ndarray,
    centre: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where wrong matches end: points (F, 2), index of the shared keypoint or a negative number of
    their own (F,), and whether they slipped by a period of repeated structure (F,)."""
    num_false = len(false)
    # Keypoints of image 1: true ends first, then other sights of the scene, then the unseen rest.
    own = random_keypoints(rng, max(num_false, 16), camera1)
    unmatched = x1[false[visible[false]]]
    keep = int(len(unmatched) * rng.uniform(0.3, 0.9))
    own[: min(keep, len(own))] = unmatched[: min(keep, len(own))]
    pool = np.concatenate([true_ends, own])
    # Few keypoints attract many matches, many none: a power law over a part of the pool.
    attractive = int(len(pool) * rng.uniform(0.35, 0.7))
    rank = rng.random(num_false, dtype=_DTYPE) ** np.float32(rng.uniform(1.2, 1.8))
    rank = np.minimum((rank * attractive).astype(np.int64), attractive - 1)
    shared = rng.permutation(len(pool))[rank]
    target = np.take(pool, shared, axis=0)
    is_shifted = np.zeros(num_false, bool)

    weights = rng.gamma([4.0, 0.5, 0.35, 0.3, 0.5])
    if rng.random() < _REPETITIVE:  # facades, tiles, fences: the wrong ones that agree prevail
        weights[1] *= 10
    weights = weights / weights.sum()
    # ``false`` is in random order, so consecutive runs are random choices.
    kind_of = np.repeat(np.arange(5), rng.multinomial(num_false, weights))
    alone = -1 - np.arange(num_false)

    def assign(chosen: np.ndarray, ends: np.ndarray) -> None:
        target[chosen], shared[chosen] = ends, alone[chosen]

    chosen = np.flatnonzero(kind_of == 1)  # repeated structure
    if len(chosen):
        steps = _slips(rng, x0[false[chosen]])
        shift = (steps @ scene.lattice).T.astype(_DTYPE)
        ends, valid = _project(points[:, false[chosen]] + shift, R1, centre, camera1)
        assign(chosen[valid], ends[valid])
        is_shifted[chosen[valid]] = True
    chosen = np.flatnonzero(kind_of == 2)  # something else that moves
    if len(chosen):
        if rng.random() < 0.2:  # an overlay, dirt on the lens, a reflection: stays in place
            ends = x0[false[chosen]] * (camera1.half_width / camera0.half_width)
            valid = np.abs(ends).max(1) < min(camera1.half_width, camera1.half_height)
        else:
            mine = points[:, false[chosen]]
            middle = mine[:, :1]
            near = np.abs(mine - middle).sum(0) < 0.5 * np.abs(middle).sum()
            turn = rotation(rng.normal(size=3), rng.normal(0, 0.2)).astype(_DTYPE)
            drift = (0.15 * np.abs(middle).sum() * _normal(rng, 3, 1)).astype(_DTYPE)
            ends, valid = _project(turn @ (mine - middle) + middle + drift, R1, centre, camera1)
            valid &= near
        assign(chosen[valid], ends[valid])
    chosen = np.flatnonzero((kind_of == 3) | (kind_of == 4))
    chosen = chosen[visible[false[chosen]]]
    if len(chosen):  # the right place but badly localised, or a similar neighbour
        fine = kind_of[chosen] == 3
        pixels = np.where(fine, rng.uniform(4, 15), rng.uniform(20, 120))
        pixels = pixels * np.exp(0.6 * _normal(rng, len(chosen)))
        offset = (pixels / camera1.focal)[:, None] * _normal(rng, len(chosen), 2)
        ends = (x1[false[chosen]] + offset).astype(_DTYPE)
        assign(chosen, ends)
    return target, shared, is_shifted


def _slips(rng: np.random.Generator, x0: np.ndarray) -> np.ndarray:
    """By how many periods (N, 2), not both 0, each match on repeated structure slips.

    Mostly neighbours slip together: the whole facade, or a few parts of it each by its own step.
    Such clusters agree with each other as right matches do.
    """
    lot = rng.random()
    if lot < 0.25:
        steps = rng.integers(-2, 3, (len(x0), 2))
    else:
        parts = 1 if lot < 0.6 else int(rng.integers(2, 6))
        middles = x0[rng.integers(0, len(x0), parts)]
        nearest = ((x0[:, None] - middles) ** 2).sum(2).argmin(1)
        steps = rng.integers(-2, 3, (parts, 2))[nearest]
    steps[(steps == 0).all(1)] = (1, 0)
    return steps


def _duplicate_orientations(
    rng: np.random.Generator, x0: np.ndarray, x1: np.ndarray, end: np.ndarray, is_true: np.ndarray
) -> np.ndarray:
    """Make some wrong matches second orientations of other keypoints, in place.

    They start where another match starts. Where that one is true, about half of the copies end at
    the same point too (and are true); the others keep their wrong end.

    Returns:
        (N,) the match whose place in the scene each match has now.
    """
    place = np.arange(len(x0))
    wrong = np.flatnonzero(~is_true)
    if not len(wrong):
        return place
    copies = wrong[rng.random(len(wrong)) < rng.uniform(0.1, 0.36)]
    origin = rng.integers(0, len(x0), len(copies))
    x0[copies] = x0[origin]
    same = rng.random(len(copies)) < np.where(is_true[origin], 0.55, 0.13)
    copies, origin = copies[same], origin[same]
    # The same place in image 1, but a keypoint (an orientation) of its own there.
    x1[copies], end[copies], is_true[copies] = x1[origin], -1, is_true[origin]
    place[copies] = origin
    return place


def _side_info(
    rng: np.random.Generator,
    is_true: np.ndarray,
    repeated: np.ndarray,
    end: np.ndarray,
    slip: np.ndarray,
) -> np.ndarray:
    """(N, 5) the columns of `n3match.matching.side_info`.

    `slip` (N,): how far (calibrated units) a match on repeated structure is from the right place,
    where its second nearest is; NaN where it isn't one.

    The constants are fits to RootSIFT matches of real photographs (500 pairs of 23 scenes): in
    log-odds the ratio of wrong matches is about normal (3.35, 1.24); that of true ones depends on
    the pair, lower where many matches are true. Clear matches are mutual more often.
    """
    count = len(is_true)
    share = max(float(is_true.mean()), 0.01)
    middle_true = min(max(-0.5 * math.log(share) + rng.normal(-0.15, 0.7), -1.2), 2.6)
    middle_false = 3.35 + rng.normal(0, 0.2)
    own = _normal(rng, count)
    log_odds = np.where(is_true, middle_true + 1.1 * own, middle_false + 1.24 * own)
    # True matches on repeated structure are nearly as ambiguous as wrong ones.
    log_odds[repeated] = np.maximum(log_odds[repeated], rng.normal(3.2, 0.3) + 0.9 * own[repeated])
    np.minimum(log_odds, 12.0, out=log_odds)
    ratio = 1 / (1 + np.exp(-log_odds))

    odds_true = np.maximum(1.9 - 1.1 * (log_odds - 1.5), -0.8) + rng.normal(0, 0.4)
    odds_false = -0.4 - 0.62 * (log_odds - 3.5) + rng.normal(0, 0.3)
    odds = np.where(is_true, odds_true, odds_false)
    mutual = rng.random(count, dtype=_DTYPE) * (1 + np.exp(-odds)) < 1
    # One keypoint of image 1 has one nearest neighbour: of several claims the clearest is kept.
    claims = np.flatnonzero(mutual & (end >= 0))
    claims = claims[np.argsort(-log_odds[claims])]
    owner = np.full(int(end.max(initial=0)) + 1, -1)
    owner[end[claims]] = claims
    mutual[claims] = owner[end[claims]] == claims
    known = {
        "ratio": ratio,
        "mutual": mutual,
        "back_ratio": _back_ratio(rng, is_true, repeated, mutual, log_odds),
        "distance": _descriptor_distance(rng, is_true, mutual, log_odds),
        "apart": _apart(rng, repeated, slip),
    }
    return np.stack([known[name] for name in SIDE_INFO], 1).astype(_DTYPE)


def _back_ratio(
    rng: np.random.Generator,
    is_true: np.ndarray,
    repeated: np.ndarray,
    mutual: np.ndarray,
    log_odds: np.ndarray,
) -> np.ndarray:
    """(N,) the ratio the other way round, from the log-odds of the ratio: where a match is right,
    or repeats, both say nearly the same; where it is wrong they agree little."""
    own = _normal(rng, len(is_true))
    same = is_true | repeated
    back = np.where(same, 0.81 * log_odds + 0.15 + 0.8 * own, 0.29 * log_odds + 2.1 + 1.15 * own)
    beaten = 1 + np.exp(-2.2 + 1.2 * own)
    return np.where(mutual, 1 / (1 + np.exp(-np.minimum(back, 12.0))), np.minimum(beaten, 2.0))


def _descriptor_distance(
    rng: np.random.Generator, is_true: np.ndarray, mutual: np.ndarray, log_odds: np.ndarray
) -> np.ndarray:
    """(N,) the column `distance`: right matches are nearer, the clearer the more so."""
    own = _normal(rng, len(is_true))
    right = rng.normal(-0.42, 0.1) + 0.14 * log_odds + 0.16 * own
    wrong = 0.03 * log_odds - np.where(mutual, 0.15, 0.05) + rng.uniform(0.08, 0.2) * own
    relative = np.maximum(1 + np.where(is_true, right, wrong), 0.05)
    return relative / relative.mean() - 1


def _apart(rng: np.random.Generator, repeated: np.ndarray, slip: np.ndarray) -> np.ndarray:
    """(N,) the column `apart`: on repeated structure a period, else anywhere, seldom beside."""
    count = len(repeated)
    anywhere = np.clip(0.58 + 0.27 * _normal(rng, count), -1, 1)
    lot = rng.random(count)
    anywhere = np.where(lot < 0.04, rng.uniform(-0.9, -0.3, count), anywhere)
    anywhere = np.where(lot < 0.012, rng.uniform(-1, -0.9, count), anywhere)
    periods = slip[np.isfinite(slip)]
    if not len(periods):
        return anywhere
    # Right matches on it have a wrong second nearest a period away.
    length = np.where(np.isfinite(slip), slip, periods[rng.integers(0, len(periods), count)])
    return np.where(repeated, relative_apart(length, 1.0), anywhere)


def _local_maps(
    points: np.ndarray,
    depth: np.ndarray,
    x1: np.ndarray,
    tilt: np.ndarray,
    R1: np.ndarray,
    centre: np.ndarray,
) -> np.ndarray:
    """(2, N) turn (radians) and log scale of a small patch parallel to image 0, seen in image 1.

    From the Jacobian of x1 = π(R1 (X − c)) along the axes of image 0, at each world point (3, N).
    Points behind camera 1 get any finite numbers.
    """
    R1 = R1.astype(_DTYPE)
    z = R1[2] @ (points - centre.astype(_DTYPE)[:, None])
    axes = R1 @ tilt.T.astype(_DTYPE)[:, :2]  # of image 0, in camera 1
    gain = depth / np.maximum(np.abs(z), 1e-6)
    # J = depth/z · (axes₁₂ − x1 axes₃)
    J = (axes[:2, :, None] - x1.T[:, None, :] * axes[2][None, :, None]) * gain
    turn = np.arctan2(J[1, 0] - J[0, 1], J[0, 0] + J[1, 1])
    area = np.abs(J[0, 0] * J[1, 1] - J[0, 1] * J[1, 0])
    return np.stack([turn, np.clip(0.5 * np.log(np.maximum(area, 1e-12)), -3, 3)])


def _keypoint_changes(
    rng: np.random.Generator,
    local: np.ndarray,
    alike: np.ndarray,
    camera0: Camera,
    camera1: Camera,
) -> np.ndarray:
    """(N, 3) keypoint changes as a detector finds them (`n3match.matching.keypoint_change`).

    Spreads are those of SIFT on real photographs (12 scenes): right matches turn within 2° to 15°
    of each other and change size within 7 to 20 %; wrong ones turn anyhow, though textures that
    stand upright leave 12 to 37 % of them within 20° of the right turn, and change size by 0.6 to
    0.95 in the logarithm.
    """
    count = len(alike)
    turn, log_scale = local
    own = np.exp(np.float32(0.6) * _normal(rng, count))
    near = turn + np.radians(7) * np.exp(rng.normal(0, 0.5)) * own * _normal(rng, count)
    scale = log_scale + 0.11 * np.exp(rng.normal(0, 0.35)) * own * _normal(rng, count)
    slipped = rng.random(count) < rng.uniform(0.01, 0.12)  # another orientation was matched
    middle = math.atan2(np.sin(turn).mean(), np.cos(turn).mean())
    upright = rng.random(count) < rng.uniform(0, 0.25)
    quarter = np.where(rng.random(count) < 0.7, 0, rng.integers(0, 4, count)) * (np.pi / 2)
    wrong_turn = np.where(
        upright, middle + quarter + 0.25 * _normal(rng, count), rng.uniform(-np.pi, np.pi, count)
    )
    wrong_scale = math.log(camera0.focal / camera1.focal)
    wrong_scale = wrong_scale + rng.uniform(0.6, 0.95) * _normal(rng, count)
    turn = np.where(alike & ~slipped, near, wrong_turn)
    scale = np.where(alike, scale, wrong_scale)
    columns = [np.cos(turn), np.sin(turn), np.clip(scale, -3, 3)]
    return np.stack(columns, 1).astype(_DTYPE)
