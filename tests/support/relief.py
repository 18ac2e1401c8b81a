"""Photographs of a scene in relief: a textured wall with squares that hang in front of it."""

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT, FOCAL = 400, 300, 480.0  # 1.2 × the longer side, as is guessed
_WALL, _FRONT = 6.0, 3.6
_NORMAL = np.array([0.0, 0.0, 1.0])


def camera_matrix() -> np.ndarray:
    return np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]])


def poses(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """R, t (world to camera) of cameras on an arc around the scene."""
    found = []
    for i in range(count):
        angle = 0.06 * (i - (count - 1) / 2)
        R, _ = cv2.Rodrigues(np.array([0.03 * np.cos(2 * i), angle, 0.02 * i]))
        centre = np.array([-5 * np.sin(angle), 0.12 * (-1) ** i, 5 - 5 * np.cos(angle)])
        found.append((R, -R @ centre))
    return found


def photographs(count: int, seed: int = 5) -> list[np.ndarray]:
    """(HEIGHT, WIDTH) uint8 each."""
    wall, front = _texture(seed), _texture(seed + 1)
    mask = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    for row in range(3):
        for column in range(4):
            y, x = 60 + 180 * row, 50 + 190 * column
            mask[y : y + 110, x : x + 110] = 255
    return [
        np.where(
            _seen(mask, R, t, _FRONT, cv2.INTER_NEAREST) > 0,
            _seen(front, R, t, _FRONT), _seen(wall, R, t, _WALL),
        )
        for R, t in poses(count)
    ]


def write_photographs(folder: Path, count: int = 5, seed: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(photographs(count, seed)):
        cv2.imwrite(str(folder / f"{seed}-{i}.png"), image)
    return folder


def _texture(seed: int) -> np.ndarray:
    """Twice as wide and high as a photograph."""
    rng = np.random.default_rng(seed)
    texture = np.zeros((2 * HEIGHT, 2 * WIDTH))
    for size in (5, 11, 24):
        coarse = rng.random((2 * HEIGHT // size + 2, 2 * WIDTH // size + 2))
        texture += cv2.resize(coarse, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def _seen(texture, R, t, depth: float, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """A texture on the plane z = depth, whose middle half fills the view from the origin."""
    K = camera_matrix()
    shift = np.array([[1, 0, -WIDTH / 2], [0, 1, -HEIGHT / 2], [0, 0, 1.0]])
    H = K @ (R + np.outer(t, _NORMAL) / depth) @ np.linalg.inv(K) @ shift
    return cv2.warpPerspective(texture, H, (WIDTH, HEIGHT), flags=interpolation)
