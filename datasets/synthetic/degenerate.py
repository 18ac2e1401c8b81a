"""Point matches of scenes on which two-view geometry is hard or impossible (numpy).

Kinds, and what the right answer is:

    general           points at depths 4 … 12 baselines: the pose
    plane             on one plane: the pose, or that two explain it
    forward           motion along the axis: the pose
    forward plane     the same towards a plane
    far               at 300 … 3000 baselines: the pose, or no parallax
    tiny baseline     motion of a 300th to a 3000th of the depth: the same
    rotation          none at all: no parallax
    two motions       a third of the points move by themselves: the camera's pose, or theirs
    one side          in the left fifth of the image
    cluster           within a twentieth of the image
    repeated          a lattice on two walls, wrong matches being off by one to three periods
    outliers          wrong matches alone: no pose
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

KINDS = (
    "general", "plane", "forward", "forward plane", "far", "tiny baseline", "rotation",
    "two motions", "one side", "cluster", "repeated", "outliers",
)
#: Kinds without a translation, and without anything.
WITHOUT_TRANSLATION, WITHOUT_POSE = ("rotation",), ("outliers",)
SIZE = (1280, 960)
K = np.array([[1000.0, 0.0, 639.5], [0.0, 1000.0, 479.5], [0.0, 0.0, 1.0]])
_BORDER = 40
_PERIOD = 0.45  # of the lattice, baselines
_STEPS = (1.0, 2.0, 3.0)  # periods


@dataclass(frozen=True, eq=False)
class DegenerateMatches:
    """Matches of one pair of images of SIZE with camera K.

    Attributes:
        points0, points1: (N, 2) pixels.
        right: (N,) bool, of the scene rather than wrong matches.
        motions: R (3, 3), t (3,) of length 1 with x1 ~ R x0 + t, those that are right answers, the
            camera's first; t is zero where there is none.
    """

    points0: np.ndarray
    points1: np.ndarray
    right: np.ndarray
    motions: list[tuple[np.ndarray, np.ndarray]]


def degenerate_matches(
    kind: str, noise: float, wrong: float, rng: np.random.Generator, count: int = 300
) -> DegenerateMatches:
    """Matches of a scene of one of KINDS, another one for each state of `rng`.

    Args:
        noise: standard deviation in pixels, of each coordinate in each image.
        wrong: share of wrong matches, at least 0 and below 1; "outliers" have no others.
        count: matches, right and wrong ones; fewer where many leave image 1.

    Raises:
        ValueError: an unknown kind, or a share out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if not 0 <= wrong < 1:
        raise ValueError(f"wrong must be at least 0 and below 1, got {wrong}")
    num_right = 0 if kind in WITHOUT_POSE else round((1 - wrong) * count)
    R, t = _motion(kind, rng)
    x0, depth = _seen(kind, rng, 6 * num_right + 60)
    X0 = np.c_[x0, np.ones(len(x0))] * depth[:, None]
    motions = [(R, t)]
    X1 = X0 @ R.T + t
    if kind == "two motions":
        turned = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
        motions.append((turned @ R, _unit(rng.normal(size=3))))
        own = rng.random(len(X0)) < 1 / 3
        X1 = np.where(own[:, None], X0 @ motions[1][0].T + motions[1][1], X1)
    points0, points1 = _pixels(X0), _pixels(X1)
    visible = (X1[:, 2] > 0.1) & _inside(points0) & _inside(points1)
    kept = np.flatnonzero(visible)[:num_right]
    points0, points1 = points0[kept], points1[kept]
    num_wrong = count - num_right
    if kind == "repeated" and len(kept):
        again = rng.integers(len(kept), size=num_wrong)
        wrong0 = points0[again]
        steps = rng.choice(_STEPS, (num_wrong, 2)) * rng.choice((-1.0, 1.0), (num_wrong, 2))
        moved = X0[kept][again] + _PERIOD * np.c_[steps, np.zeros(num_wrong)]
        wrong1 = _pixels(moved @ R.T + t)
    else:
        extent = _extent(kind)
        wrong0, wrong1 = (
            rng.uniform(extent[0], extent[1], (num_wrong, 2)) for _ in range(2)
        )
    points0, points1 = np.r_[points0, wrong0], np.r_[points1, wrong1]
    points0, points1 = (p + rng.normal(0, noise, p.shape) for p in (points0, points1))
    order = rng.permutation(len(points0))
    right = np.arange(len(points0)) < len(kept)
    return DegenerateMatches(points0[order], points1[order], right[order], motions)


def _motion(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """R and t of length 1, or zero."""
    if kind.startswith("forward"):
        turn, t = 0.03, np.array([*rng.normal(0, 0.08, 2), -1.0])
    elif kind in ("far", "tiny baseline", "rotation"):
        turn, t = 0.06, rng.normal(size=3)
    else:
        turn, t = 0.12, np.array([*rng.normal(size=2), 0.3 * rng.normal()])
    R = Rotation.from_rotvec(turn * _unit(rng.normal(size=3))).as_matrix()
    return R, np.zeros(3) if kind in WITHOUT_TRANSLATION else _unit(t)


def _seen(kind: str, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated points (M, 2) of image 0, and their depths (M,) in baselines."""
    low, high = _extent(kind)
    x = (rng.uniform(low, high, (count, 2)) - K[:2, 2]) / np.diag(K)[:2]
    rays = np.c_[x, np.ones(count)]
    if kind in ("plane", "forward plane"):
        normal = _unit(np.array([*rng.normal(0, 0.35, 2), 1.0]))
        return x, 6.0 / np.maximum(rays @ normal, 0.2)
    if kind == "far":
        return x, np.exp(rng.uniform(np.log(300), np.log(3000), count))
    if kind == "tiny baseline":
        return x, np.exp(rng.uniform(np.log(300), np.log(3000))) * rng.uniform(0.6, 1.4, count)
    if kind == "repeated":
        # On a lattice of two walls that meet in a corner.
        depth = 7.0 - 0.5 * np.abs(x[:, 0])
        X = rays * depth[:, None]
        X[:, :2] = _PERIOD * np.round(X[:, :2] / _PERIOD)
        X[:, 2] = 7.0 - 0.5 * np.abs(X[:, 0])
        X = np.unique(X.round(9), axis=0)
        X = X[rng.permutation(len(X))]
        return X[:, :2] / X[:, 2:], X[:, 2]
    return x, rng.uniform(4, 12, count)


def _extent(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The corners of where points lie."""
    low, high = np.full(2, float(_BORDER)), np.array(SIZE, float) - _BORDER
    if kind == "one side":
        high[0] = SIZE[0] / 5
    if kind == "cluster":
        low = K[:2, 2] + [150.0, -80.0]
        high = low + np.sqrt(SIZE[0] * SIZE[1] / 20)
    return low, high


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _pixels(X: np.ndarray) -> np.ndarray:
    depth = np.where(np.abs(X[:, 2:]) > 1e-9, X[:, 2:], 1e-9)
    return X[:, :2] / depth * np.diag(K)[:2] + K[:2, 2]


def _inside(points: np.ndarray) -> np.ndarray:
    return ((points > 0) & (points < SIZE)).all(axis=1)
