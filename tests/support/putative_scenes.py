"""Two-view scenes with a known answer, in pixels, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

SIZE0, SIZE1 = (1024, 768), (800, 1000)
K0 = np.array([[900.0, 0, 511.5], [0, 900, 383.5], [0, 0, 1]])
K1 = np.array([[750.0, 0, 399.5], [0, 750, 499.5], [0, 0, 1]])


@dataclass(frozen=True)
class TwoViewScene:
    points0: np.ndarray  # (N, 2) pixels
    points1: np.ndarray
    right: np.ndarray  # (N,) bool
    side_info: np.ndarray  # (N, 2) ratio and mutual flag, as SIFT gives them
    R: np.ndarray
    t: np.ndarray


def make_scene(
    right: int = 300, wrong: int = 700, *, seed: int = 0, noise: float = 0.5, motion: str = "side"
) -> TwoViewScene:
    """A random scene seen by two different cameras, with uniformly wrong matches mixed in."""
    rng = np.random.default_rng(seed)
    R = Rotation.from_euler("xyz", [4, -12, 3], degrees=True).as_matrix()
    t = {"side": [1.0, 0.1, 0.15], "forward": [0.05, 0.02, 1.0]}[motion]
    t = np.asarray(t) / np.linalg.norm(t)
    points0, points1 = [], []
    while len(points0) < right:
        pixel = rng.uniform((0, 0), SIZE0)
        X = rng.uniform(4, 12) * np.linalg.solve(K0, [*pixel, 1.0])
        projected = K1 @ (R @ X + t)
        image = projected[:2] / projected[2]
        if projected[2] > 0 and (image >= 0).all() and (image < SIZE1).all():
            points0.append(pixel)
            points1.append(image)
    points0 = np.array(points0).reshape(-1, 2) + rng.normal(0, noise, (right, 2))
    points1 = np.array(points1).reshape(-1, 2) + rng.normal(0, noise, (right, 2))
    points0 = np.concatenate([points0, rng.uniform((0, 0), SIZE0, (wrong, 2))])
    points1 = np.concatenate([points1, rng.uniform((0, 0), SIZE1, (wrong, 2))])
    is_right = np.arange(right + wrong) < right
    ratio = np.where(is_right, rng.uniform(0.4, 0.95, len(is_right)),
                     rng.uniform(0.85, 1.0, len(is_right)))
    mutual = rng.random(len(is_right)) < np.where(is_right, 0.85, 0.25)
    order = rng.permutation(len(is_right))
    side = np.stack([ratio, mutual], 1)
    return TwoViewScene(
        points0[order], points1[order], is_right[order], side[order].astype(np.float64), R, t
    )


def pose_error_deg(pose, scene: TwoViewScene) -> float:
    """max of rotation and translation error in degrees."""
    angle = Rotation.from_matrix(pose.R @ scene.R.T).magnitude()
    cosine = np.clip(abs(pose.t @ scene.t), -1.0, 1.0)
    return float(np.degrees(max(angle, np.arccos(cosine))))
