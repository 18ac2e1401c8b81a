"""Photographs changed on purpose before keypoints are sought, for pairs that are hard to match.

Light that varies over the picture, contrast, blur, noise, compression, a smaller size, a turn: what
parts two photographs of one place in practice, and what few training scenes have enough of. The
geometry stays that of the photograph: keypoints of a changed one are brought back to its pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_SMALLEST_SCALE = 0.35


@dataclass(frozen=True, eq=False)
class ChangedPhotograph:
    """A photograph as it was made to look, and the way back.

    Attributes:
        image: (H, W) uint8.
        back: (2, 3) float64: pixels of `image` to pixels of the photograph (a turn and a scale).
    """

    image: np.ndarray
    back: np.ndarray

    def points(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints (N, 2) of `image` in pixels of the photograph."""
        return keypoints @ self.back[:, :2].T + self.back[:, 2]

    def sizes_angles(self, sizes_angles: np.ndarray) -> np.ndarray:
        """Keypoint sizes (pixels) and angles (degrees), (N, 2), as they are in the photograph."""
        scale = math.hypot(self.back[0, 0], self.back[1, 0])
        turn = math.degrees(math.atan2(self.back[1, 0], self.back[0, 0]))
        sizes, angles = np.asarray(sizes_angles).T
        return np.stack([sizes * scale, (angles + turn) % 360.0], axis=1)


def shrink_photograph(image: np.ndarray, scale: float) -> ChangedPhotograph:
    """A photograph made smaller, nothing else.

    Args:
        image: (H, W) uint8, grey.
        scale: in (0, 1], up to whole pixels.
    """
    height, width = image.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = width / size[0], height / size[1]
    # Edges, half a pixel outside the centres, stay edges.
    back = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])
    return ChangedPhotograph(cv2.resize(image, size, interpolation=cv2.INTER_AREA), back)


def change_photograph(
    image: np.ndarray, rng: np.random.Generator, scale: float = 1.0
) -> ChangedPhotograph:
    """One photograph, changed in several ways drawn at random; how much is drawn as well.

    Args:
        image: (H, W) uint8, grey.
        rng: source of randomness.
        scale: the largest it may be, in (0, 1], of its own size.
    """
    # All lots first, so that one change more doesn't alter the others.
    lots, strength = rng.random(6), rng.uniform(0.2, 1.0)
    shrunk = math.exp(rng.uniform(math.log(_SMALLEST_SCALE), 0)) if lots[1] < 0.5 else 1.0
    photograph = shrink_photograph(image, scale * shrunk)
    if lots[0] < 0.3:
        photograph = _turned(photograph, rng.uniform(-math.pi, math.pi))
    image, back = photograph.image, photograph.back
    values = image.astype(np.float32) / 255
    if lots[2] < 0.7:
        values = _lit(values, rng, strength)
    if lots[3] < 0.4:
        values = _blurred(values, rng, strength)
    if lots[4] < 0.4:
        values = values + rng.normal(0, 0.08 * strength * rng.random(), values.shape)
    image = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    if lots[5] < 0.4:
        image = _compressed(image, int(rng.uniform(12, 70)))
    return ChangedPhotograph(image, back)


def _turned(photograph: ChangedPhotograph, angle: float) -> ChangedPhotograph:
    """Turned about its centre by `angle` (radians), on a canvas that holds all of it."""
    height, width = photograph.image.shape
    c, s = math.cos(angle), math.sin(angle)
    size = (
        math.ceil(abs(c) * width + abs(s) * height),
        math.ceil(abs(s) * width + abs(c) * height),
    )
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    new_middle = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2])
    turn = np.array([[c, -s], [s, c]])  # from the canvas to the image
    unturned = np.column_stack([turn, middle - turn @ new_middle])
    image = cv2.warpAffine(
        photograph.image, unturned, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=float(photograph.image.mean()),
    )  # fmt: skip
    back = photograph.back[:, :2] @ unturned
    back[:, 2] += photograph.back[:, 2]
    return ChangedPhotograph(image, back)


def _field(shape: tuple[int, int], rng: np.random.Generator, knots: int) -> np.ndarray:
    """A smooth random function over the picture, within about −1 … 1."""
    coarse = rng.uniform(-1, 1, (knots, knots)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _lit(values: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Exposure and contrast that vary over the picture, a bend of the tones, sometimes a shadow."""
    knots = int(rng.integers(2, 5))
    exposure = 2.0 ** (1.6 * strength * _field(values.shape, rng, knots))
    contrast = 2.0 ** (-1.5 * strength * (0.5 + 0.5 * _field(values.shape, rng, knots)))
    bend = math.exp(strength * rng.normal(0, 0.5))
    values = np.clip(values, 0, 1) ** bend
    middle = float(values.mean())
    values = (middle + (values - middle) * contrast) * exposure
    if rng.random() < 0.3:  # with an edge across the picture
        height, width = values.shape
        angle, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
        y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
        dark = math.cos(angle) * x + math.sin(angle) * y > offset
        values = np.where(dark, values * rng.uniform(0.3, 0.8), values)
    return values


def _blurred(values: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Out of focus, or moved in one direction."""
    if rng.random() < 0.6:
        return cv2.GaussianBlur(values, (0, 0), 0.3 + 1.8 * strength * rng.random())
    length = 3 + 2 * int(3 * strength * rng.random())
    angle = rng.uniform(0, math.pi)
    kernel = np.zeros((length, length), np.float32)
    steps = np.linspace(-(length // 2), length // 2, 4 * length)
    rows = np.rint(length // 2 + steps * math.sin(angle)).astype(int)
    columns = np.rint(length // 2 + steps * math.cos(angle)).astype(int)
    kernel[rows, columns] = 1
    return cv2.filter2D(values, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"image: found shape {image.shape}, which can't be compressed as JPEG")
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
