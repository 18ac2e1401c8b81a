"""A pair from photographs to pose, its matching and its filtering, beside what others take."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import cv2
import numpy as np
import torch

from n3match import MatchFilter
from n3match.geometry import estimate_relative_pose_from_matches
from n3match.matching import extract_sift, nearest_neighbors, root_sift
from n3match.matching.features import CONTRAST_THRESHOLD
from n3match.pipelines.benchmarks.measure import (
    median_seconds,
    seconds_in_turns,
    seconds_of_call,
)
from n3match.pipelines.two_view.demo_pair import RATIO, load_demo_pair
from n3match.pipelines.two_view.match_images import match_images
from n3match.pipelines.two_view.photograph import Photograph

_PAIRS = 8


def pair_rows(keypoints: list[int], repeats: int) -> list[dict]:
    """The bundled pair from decoded photographs to a pose: by n3match, stage by stage, and by
    OpenCV's SIFT, brute force, ratio test and `findEssentialMat(RANSAC)`."""
    photographs = load_demo_pair().photographs
    net = MatchFilter.from_pretrained("sift")
    rows = []
    for n in keypoints:
        runs: list[dict[str, float]] = []

        def ours(n: int = n, runs: list[dict[str, float]] = runs) -> None:
            pair = match_images(*photographs, filter=net, max_keypoints=n)
            runs.append({**pair.seconds, "pose": seconds_of_call(pair.pose)})

        seconds = seconds_in_turns(
            {"n3match": ours, "OpenCV": lambda n=n: _opencv_pose(photographs, n)}, repeats
        )
        whole = {name: statistics.median(values) for name, values in seconds.items()}
        stages = {
            f"{stage}, s": round(statistics.median(run[stage] for run in runs[1:]), 3)
            for stage in ("sift", "matching", "filter", "pose")
        }
        rows.append(
            {
                "keypoints": n,
                **stages,
                "n3match, s": round(whole["n3match"], 3),
                "OpenCV, s": round(whole["OpenCV"], 3),
                "n3match / OpenCV": round(whole["n3match"] / whole["OpenCV"], 2),
            }
        )
    return rows


def _opencv_pose(photographs: tuple[Photograph, Photograph], keypoints: int) -> None:
    # As low in contrast as n3match goes: else it finds fewer than asked for.
    sift = cv2.SIFT_create(keypoints, contrastThreshold=CONTRAST_THRESHOLD)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    (points0, desc0), (points1, desc1) = (
        sift.detectAndCompute(photograph.image, None) for photograph in photographs
    )
    found = [m for m, n in matcher.knnMatch(desc0, desc1, k=2) if m.distance < RATIO * n.distance]
    estimate_relative_pose_from_matches(
        np.array([points0[m.queryIdx].pt for m in found]),
        np.array([points1[m.trainIdx].pt for m in found]),
        *(photograph.K for photograph in photographs),
        distortion0=photographs[0].distortion,
        distortion1=photographs[1].distortion,
        estimator="opencv_ransac",
        verify=False,
    )


def pairs_per_second(net: MatchFilter, largest: int, repeats: int) -> dict[str, float]:
    """Of pairs with largest / 2 … largest matches, one by one and as ragged lists in one call."""
    rng = np.random.default_rng(0)
    points0, points1, side_info = (
        [
            torch.from_numpy(rng.random((int(n), 2), dtype=np.float32))
            for n in np.linspace(largest / 2, largest, _PAIRS)
        ]
        for _ in range(3)
    )

    def one_by_one():
        with torch.inference_mode():
            pairs = zip(points0, points1, side_info)
            return [net.logits(*(t[None] for t in pair)) for pair in pairs]

    def in_one_call():
        with torch.inference_mode():
            return net.logits_of_many(points0, points1, side_info)

    seconds = median_seconds({"one by one": one_by_one, "in one call": in_one_call}, repeats)
    return {how: _PAIRS / s for how, s in seconds.items()}


def filter_rows(matches: list[int], repeats: int) -> list[dict]:
    """The filter's own time beside SIFT extraction on the bundled pair of photographs.

    Two rows for each number of matches: the pair's own, and as many of which all are mutual.
    """
    images = [photograph.image for photograph in load_demo_pair().photographs]
    nets = {name: MatchFilter.from_pretrained(name) for name in ("sift", "sift-cnnet")}
    rows = []
    for n in matches:
        together = pairs_per_second(nets["sift"], n, repeats)
        for what, run in (("putative", _on_pair(n)), ("mutual", _on_points(n))):
            seconds = median_seconds(
                {
                    "SIFT": lambda n=n: [extract_sift(image, max_keypoints=n) for image in images],
                    **{name: lambda net=net, f=run: f(net) for name, net in nets.items()},
                },
                repeats,
            )
            speeds = together if what == "mutual" else dict.fromkeys(together)
            rows.append(
                {
                    "filter": f"{n} {what} matches",
                    "SIFT of the pair, ms": round(1e3 * seconds["SIFT"]),
                    "sift, ms": round(1e3 * seconds["sift"], 1),
                    "sift-cnnet, ms": round(1e3 * seconds["sift-cnnet"], 1),
                    "sift / SIFT": round(seconds["sift"] / seconds["SIFT"], 3),
                    **{
                        f"{_PAIRS} pairs {how}, pairs/s": "—" if speed is None else round(speed, 1)
                        for how, speed in speeds.items()
                    },
                }
            )
    return rows


def _on_pair(keypoints: int) -> Callable[[MatchFilter], object]:
    """The filter on the pair's putative matches, as `n3match pose` runs it."""
    pair = match_images(*load_demo_pair().photographs, filter=None, max_keypoints=keypoints)
    return pair.filtered


def _on_points(matches: int) -> Callable[[MatchFilter], object]:
    """The network on random points, none of which it may leave out."""
    rng = np.random.default_rng(0)
    points0, points1, side_info = (
        torch.from_numpy(rng.random((1, matches, 2), dtype=np.float32)) for _ in range(3)
    )

    def logits(net: MatchFilter):
        with torch.inference_mode():
            return net.logits(points0, points1, side_info)

    return logits


def _descriptors(count: int, seed: int) -> np.ndarray:
    """SIFT-like: sparse, whole numbers from 0 to 255, norm about 512."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.6, 1.0, (count, 128))
    scaled = np.floor(512 * raw / np.linalg.norm(raw, axis=1, keepdims=True))
    return np.minimum(scaled, 255).astype(np.float32)


def matching_rows(sizes: list[int], repeats: int) -> list[dict]:
    """Brute-force matching of SIFT descriptors: n3match against cv2.BFMatcher."""
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
