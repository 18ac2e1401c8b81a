"""Toy image pairs with known pose: what the geometry tests measure against."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT = 1280, 960
K_A = np.array([[1000.0, 0.0, 639.5], [0.0, 1000.0, 479.5], [0.0, 0.0, 1.0]])
K_B = np.array([[780.0, 0.0, 660.0], [0.0, 800.0, 470.0], [0.0, 0.0, 1.0]])
DISTORTION_A = np.array([-0.12, 0.05, 0.0, 0.0])
DISTORTION_B = np.array([-0.25, 0.08, 1e-3, -5e-4, 0.01])


@dataclass
class Scene:
    points0: np.ndarray
    points1: np.ndarray
    K0: np.ndarray
    K1: np.ndarray
    distortion0: np.ndarray | None
    distortion1: np.ndarray | None
    R: np.ndarray
    t: np.ndarray  # unit length
    true: np.ndarray  # bool, which matches are true

    @property
    def cameras(self) -> dict:
        return {
            "K0": self.K0,
            "K1": self.K1,
            "distortion0": self.distortion0,
            "distortion1": self.distortion1,
        }


def make_scene(
    kind: str,
    count: int = 400,
    outliers: int = 0,
    noise: float = 0.5,
    seed: int = 0,
    two_cameras: bool = False,
) -> Scene:
    """`count` true matches (fewer where they leave image 1) with Gaussian noise in pixels.

    Kinds: general, forward, planar, forward_planar, far (all points at 1200 to 3000 baselines),
    near_and_far (a tenth of the points near, the rest at more than 1000 baselines), rotation.
    """
    rng = np.random.default_rng(seed)
    K0, K1, d0, d1 = (
        (K_A, K_B, DISTORTION_A, DISTORTION_B) if two_cameras else (K_A, K_A, None, None)
    )
    angles = {"far": 0.05, "near_and_far": 0.05, "forward": 0.03, "forward_planar": 0.03}
    R = Rotation.from_rotvec(angles.get(kind, 0.15) * np.array([0.4, 0.8, -0.3])).as_matrix()
    t = {
        "forward": np.array([0.05, -0.03, -1.0]),
        "forward_planar": np.array([0.02, 0.01, -1.0]),
    }.get(kind, np.array([-0.9, 0.2, 0.25]))
    t = t / np.linalg.norm(t)
    if kind == "rotation":
        t = np.zeros(3)

    pixels = rng.uniform((60, 60), (WIDTH - 60, HEIGHT - 60), (4 * count + 50, 2))
    rays = np.c_[(pixels - K0[:2, 2]) / np.diag(K0)[:2], np.ones(len(pixels))]
    if kind in ("planar", "forward_planar"):
        normal = np.array([0.35, 0.2, 1.0])
        depth = 6.0 / (rays @ normal)
    elif kind == "far":
        depth = rng.uniform(1200, 3000, len(rays))
    elif kind == "near_and_far":
        near = rng.random(len(rays)) < 0.1
        depth = np.where(near, rng.uniform(4, 12, len(rays)), rng.uniform(1100, 9000, len(rays)))
    else:
        depth = rng.uniform(4, 12, len(rays))
    X0 = rays * depth[:, None]
    X1 = X0 @ R.T + t
    p0, p1 = _project(X0, K0, d0), _project(X1, K1, d1)
    visible = (X1[:, 2] > 0.1) & (p1 > 0).all(1) & (p1 < (WIDTH, HEIGHT)).all(1) & (p0 > 0).all(1)
    kept = np.flatnonzero(visible)[:count]
    p0, p1 = p0[kept], p1[kept]
    p0 = p0 + rng.normal(size=p0.shape) * noise
    p1 = p1 + rng.normal(size=p1.shape) * noise
    wrong0, wrong1 = (rng.uniform((0, 0), (WIDTH, HEIGHT), (outliers, 2)) for _ in range(2))
    order = rng.permutation(len(p0) + outliers)
    true = np.r_[np.ones(len(p0), bool), np.zeros(outliers, bool)][order]
    return Scene(np.r_[p0, wrong0][order], np.r_[p1, wrong1][order], K0, K1, d0, d1, R, t, true)


def random_matches(count: int, seed: int) -> Scene:
    """Matches without any geometry in them."""
    rng = np.random.default_rng(seed)
    points0, points1 = (rng.uniform((0, 0), (WIDTH, HEIGHT), (count, 2)) for _ in range(2))
    return Scene(
        points0, points1, K_A, K_A, None, None, np.eye(3), np.zeros(3), np.zeros(count, bool)
    )


def _project(X: np.ndarray, K: np.ndarray, distortion: np.ndarray | None) -> np.ndarray:
    pixels, _ = cv2.projectPoints(X[:, None], np.zeros(3), np.zeros(3), K, distortion)
    return pixels.reshape(-1, 2)
