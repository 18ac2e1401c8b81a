"""Small valid arguments, drawn at random: what damage starts from."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from n3match.denoising import Denoiser
from n3match.geometry import distort_points
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter, MatchFilterConfig, N3NetConfig, PruningConfig

SIZE = (640, 480)
_COUNTS = (0, 1, 2, 4, 5, 7, 8, 9, 16, 24, 40)


class Draw:
    """Draws arguments.

    Args:
        rng: where all randomness is from.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def maybe(self, value: Any, chance: float = 0.5) -> Any:
        """The value, or None."""
        return value if self.rng.random() < chance else None

    def some(self, options: dict[str, Any], chance: float = 0.3) -> dict[str, Any]:
        """Some of the options."""
        return {k: v for k, v in options.items() if self.rng.random() < chance}

    def count(self, least: int = 0) -> int:
        return max(least, self.one_of(*_COUNTS))

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape)

    def tensor(self, *shape: int, kinds: tuple = (torch.float32, torch.float64)) -> torch.Tensor:
        return torch.from_numpy(self.normal(*shape)).to(self.one_of(*kinds))

    def boolean(self) -> bool:
        return bool(self.rng.random() < 0.5)

    def mask(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.random(shape) < 0.8)

    def pixels(self, count: int) -> np.ndarray:
        return self.rng.uniform((0, 0), SIZE, (count, 2))

    def camera(self) -> np.ndarray:
        focal = self.rng.uniform(300, 1200)
        return np.array([[focal, 0, 319.5], [0, focal * 1.01, 239.5], [0, 0, 1.0]])

    def distortion(self) -> np.ndarray | None:
        length = self.one_of(0, 4, 5, 8, 12, 14)
        return self.maybe(0.05 * self.normal(length))

    def rotation(self, angle: float = 0.2) -> np.ndarray:
        return cv2.Rodrigues(angle * self.normal(3))[0]

    def essential(self) -> np.ndarray:
        x, y, z = self.normal(3)
        return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ self.rotation()

    def matches(self, least: int = 0) -> SimpleNamespace:
        """Matched pixels of two cameras, some right, and what is known of each."""
        count = self.count(least)
        K0, K1 = self.camera(), self.camera()
        R, t = self.rotation(), self.normal(3)
        rays = np.c_[self.rng.uniform(-0.4, 0.4, (count, 2)), np.ones(count)]
        depth = self.rng.uniform(2, 8, count)
        if self.boolean() and count:  # a plane
            depth = 4 / (rays @ np.array([0.2, 0.1, 1.0]))
        seen = (rays * depth[:, None]) @ R.T + t * self.one_of(0.0, 0.5)
        x1 = seen[:, :2] / np.maximum(seen[:, 2:], 0.1)
        points0, points1 = distort_points(rays[:, :2], K0), distort_points(x1, K1)
        wrong = self.rng.random(count) < self.one_of(0.0, 0.3, 1.0)
        points1[wrong] = self.pixels(int(wrong.sum()))
        return SimpleNamespace(
            count=count, points0=points0, points1=points1, K0=K0, K1=K1,
            x0=rays[:, :2], x1=x1, R=R, t=t, known=self.known(count),
        )

    def known(self, count: int) -> dict[str, Any]:
        """Side information, sizes and angles of matches, or of some of these."""
        if self.boolean():
            return {}
        return {
            "side_info": self.maybe(self.rng.random((count, self.one_of(1, 2, 5)))),
            "sizes_angles0": self.sizes_angles(count), "sizes_angles1": self.sizes_angles(count),
        }

    def sizes_angles(self, count: int) -> np.ndarray:
        return np.c_[self.rng.uniform(-1, 30, count), self.rng.uniform(-1, 360, count)]

    def descriptors(self, count: int, columns: int = 128) -> np.ndarray:
        return self.rng.random((count, columns), dtype=np.float32)

    def image(self, *, smallest: int = 1, largest: int = 40) -> np.ndarray:
        height, width = (int(n) for n in self.rng.integers(smallest, largest, 2))
        return self.rng.integers(0, 256, (height, width)).astype(np.uint8)

    def keypoints(self, count: int) -> list[cv2.KeyPoint]:
        places = self.rng.uniform((0, 0), np.array(SIZE) - 1.0, (count, 2))
        return [
            cv2.KeyPoint(float(x), float(y), float(self.rng.uniform(1, 20)), 30.0)
            for x, y in places
        ]

    def filter(self) -> MatchFilter:
        return tiny_filter(self.one_of("plain", "all", "pruning", "refining"))

    def denoiser(self, raw: bool = False) -> Denoiser:
        return tiny_denoiser("raw" if raw else self.one_of("plain", "blocks", "sigma", "colour"))


@lru_cache
def tiny_filter(kind: str) -> MatchFilter:
    """A small filter as it is initialised, in eval mode."""
    small = {"width": 8, "blocks": 2, "n3_after": (1,), "embedding_width": 4,
             "embedding_channels": 2}
    more: dict[str, Any] = {
        "plain": {},
        "all": {"side_info": SIDE_INFO, "keypoint_change": True, "mutual_only": True,
                "second_nearest": True},
        "pruning": {"side_info": SIDE_INFO, "pruning": PruningConfig(
            widths=(8, 4), neighbours=2, embedding_channels=2, value_channels=4, verdict_width=4)},
        "refining": {"refine": True, "side_info": ("ratio", "mutual")},
    }[kind]
    torch.manual_seed(0)
    return MatchFilter(MatchFilterConfig(**{**small, **more})).eval()


@lru_cache
def tiny_denoiser(kind: str) -> Denoiser:
    """A small denoising network as it is initialised, in eval mode."""
    small = {"features": 4, "depth": 2, "embedding_features": 4, "embedding_channels": 2,
             "patch_size": 4, "stride": 2, "window": 3, "block_channels": 2, "neighbours": 2}
    more: dict[str, Any] = {
        "plain": {"local_networks": 1},
        "blocks": {"local_networks": 2},
        "sigma": {"local_networks": 1, "maps": ("sigma",), "sigma": (5, 50)},
        "colour": {"local_networks": 1, "channels": 3},
        "raw": {"local_networks": 1, "maps": ("a", "b")},
    }[kind]
    torch.manual_seed(0)
    return Denoiser(N3NetConfig(**{**small, **more})).eval().requires_grad_(False)
