"""Brute-force matching of SIFT descriptors: n3match against cv2.BFMatcher."""

from __future__ import annotations

import cv2
import numpy as np

from n3match.matching import nearest_neighbors, root_sift
from n3match.pipelines.benchmarks.measure import median_seconds


def _descriptors(count: int, seed: int) -> np.ndarray:
    """SIFT-like: sparse, whole numbers from 0 to 255, norm about 512."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.6, 1.0, (count, 128))
    scaled = np.floor(512 * raw / np.linalg.norm(raw, axis=1, keepdims=True))
    return np.minimum(scaled, 255).astype(np.float32)


def run(sizes: list[int], repeats: int) -> list[dict]:
    rows = []
    for n, root in ((n, root) for n in sizes for root in (False, True)):
        a, b = _descriptors(n, 0), _descriptors(n, 1)
        if root:  # no whole numbers any more
            a, b = root_sift(a), root_sift(b)
        matcher = cv2.BFMatcher(cv2.NORM_L2)
        seconds = median_seconds(
            {
                "opencv": lambda a=a, b=b, m=matcher: m.knnMatch(a, b, k=2),
                "n3match": lambda a=a, b=b: nearest_neighbors(a, b),
            },
            repeats,
        )
        found = matcher.knnMatch(a, b, k=2)
        ours = nearest_neighbors(a, b)
        same = np.mean([m[0].trainIdx for m in found] == ours.index.numpy())
        rows.append(
            {
                "matching": f"{n} × {n}" + (" RootSIFT" if root else " SIFT"),
                "BFMatcher.knnMatch(k=2), s": round(seconds["opencv"], 3),
                "n3match both ways, s": round(seconds["n3match"], 3),
                "times faster": round(seconds["opencv"] / seconds["n3match"], 1),
                "same nearest": f"{100 * same:.2f} %",
            }
        )
    return rows
