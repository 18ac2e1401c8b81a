"""The filter's own time beside SIFT extraction on the bundled pair of photographs."""

from __future__ import annotations

import numpy as np
import torch

from n3match import MatchFilter
from n3match.matching import extract_sift
from n3match.pipelines.benchmarks.measure import median_seconds
from n3match.pipelines.demo import load_demo_pair

_PAIRS = 8


def pairs_per_second(net: MatchFilter, largest: int, repeats: int) -> dict[str, float]:
    """Of pairs with largest / 2 … largest matches, one by one and as ragged lists in one call."""
    rng = np.random.default_rng(0)
    points0, points1, side = (
        [
            torch.from_numpy(rng.random((int(n), 2), dtype=np.float32))
            for n in np.linspace(largest / 2, largest, _PAIRS)
        ]
        for _ in range(3)
    )

    def one_by_one():
        with torch.inference_mode():
            return [net.score(*(t[None] for t in pair)) for pair in zip(points0, points1, side)]

    def in_one_call():
        with torch.inference_mode():
            return net.score_ragged(points0, points1, side)

    seconds = median_seconds({"one by one": one_by_one, "in one call": in_one_call}, repeats)
    return {how: _PAIRS / s for how, s in seconds.items()}


def run(matches: list[int], repeats: int) -> list[dict]:
    images = [photograph.image for photograph in load_demo_pair().photographs]
    rows = []
    for n in matches:
        rng = np.random.default_rng(0)
        points0, points1, side = (
            torch.from_numpy(rng.random((1, n, 2), dtype=np.float32)) for _ in range(3)
        )
        nets = {name: MatchFilter.from_pretrained(name) for name in ("sift", "sift-cnnet")}

        def score(net, points0=points0, points1=points1, side=side):
            with torch.inference_mode():
                return net.score(points0, points1, side)

        seconds = median_seconds(
            {
                "SIFT": lambda n=n: [extract_sift(image, max_keypoints=n) for image in images],
                **{name: lambda net=net: score(net) for name, net in nets.items()},
            },
            repeats,
        )
        together = pairs_per_second(nets["sift"], n, repeats)
        rows.append(
            {
                "filter": f"{n} matches",
                "SIFT of the pair, ms": round(1e3 * seconds["SIFT"]),
                "sift, ms": round(1e3 * seconds["sift"], 1),
                "sift-cnnet, ms": round(1e3 * seconds["sift-cnnet"], 1),
                "sift / SIFT": round(seconds["sift"] / seconds["SIFT"], 3),
                **{f"{_PAIRS} pairs {how}, pairs/s": round(r, 1) for how, r in together.items()},
            }
        )
    return rows
