"""The bundled photographs with their known pose, and what the filter makes of them."""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from n3match.geometry import (
    RelativePose,
    essential_from_pose,
    estimate_relative_pose_from_matches,
    pose_error_deg,
    rotation_error_deg,
    sampson_distance,
    translation_error_deg,
    undistort_points,
)
from n3match.nn import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.two_view.match_images import MatchedPair, match_images
from n3match.pipelines.two_view.photograph import Photograph, read_photograph
from n3match.pipelines.two_view.two_photographs import describe_seconds, pose_lines

RATIO = 0.8  # Lowe's
# A match is counted as right within so many pixels of its epipolar line under the known pose.
RIGHT_PX = 3.0


@dataclass(frozen=True, eq=False)
class DemoPair:
    """The bundled photographs and their known relative pose: x1 ~ R x0 + t, ‖t‖ = 1."""

    photographs: tuple[Photograph, Photograph]
    R: np.ndarray
    t: np.ndarray
    accuracy_deg: float  # of the known pose
    about: dict[str, str]  # title, author, attribution, licence, source, ...

    def error_deg(self, pose: RelativePose) -> float | None:
        """The larger of rotation and translation error, degrees; None without a pose."""
        return float(pose_error_deg(pose.R, pose.t, self.R, self.t)) if pose.ok else None

    def right(self, pair: MatchedPair) -> np.ndarray:
        """(N,) bool: putative matches near their epipolar line under the known pose.

        Some wrong ones are near theirs by chance.
        """
        photo0, photo1 = pair.photographs
        x0 = undistort_points(pair.putative.points0, photo0.K, photo0.distortion)
        x1 = undistort_points(pair.putative.points1, photo1.K, photo1.distortion)
        squared = sampson_distance(x0, x1, essential_from_pose(self.R, self.t))
        focal = np.mean([photo.K[i, i] for photo in pair.photographs for i in (0, 1)])
        return np.sqrt(squared) * focal < RIGHT_PX


def load_demo_pair() -> DemoPair:
    """The photographs of `demo_data/` with camera, lens and known pose."""
    folder = resources.files("n3match.pipelines") / "demo_data"
    about = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
    photographs = []
    for image in about.pop("images"):
        with resources.as_file(folder / image["file"]) as path:
            photographs.append(
                read_photograph(
                    path, K=np.array(image["K"]), distortion=np.array(image["distortion"])
                )
            )
    R, t = np.array(about.pop("R")), np.array(about.pop("t"))
    return DemoPair(tuple(photographs), R, t, about.pop("pose_accuracy_deg"), about)


def show_pair(out: Path, seed: int, device: str = "cpu", half: bool = False) -> bool:
    """Draws the pair and prints what came of it; whether there is a pose."""
    watch = Stopwatch()
    with watch.stage("read"):
        known = load_demo_pair()
    with watch.stage("weights"):
        net = placed(MatchFilter.from_pretrained("sift"), device, half)
    pair = match_images(*known.photographs, filter=net, device=device)
    watch.add(pair.seconds)
    with watch.stage("pose"):
        pose = pair.pose(seed=seed)
    pair.plot(out, pose)

    about = known.about
    credit = f"© {about['author']}, {about['attribution']}, {about['licence']}"
    print(f"{about['title']} ({credit}):")
    print(textwrap.fill(f"{about['choice']}.", width=90))
    print()
    print("\n".join(pose_lines(pair, pose)))
    if pose.ok:
        print(
            f"error      {known.error_deg(pose):.2f}° "
            f"(rotation {float(rotation_error_deg(pose.R, known.R)):.2f}°, "
            f"translation {float(translation_error_deg(pose.t, known.t)):.2f}°) against the known "
            f"pose, itself good to about {known.accuracy_deg:g}°"
        )
    print(f"seconds    {describe_seconds(watch.seconds)}")
    print()
    print("\n".join(compare(known, pair, pose, watch.seconds, seed)))
    return pose.ok


def compare(
    known: DemoPair, pair: MatchedPair, pose: RelativePose, seconds: dict[str, float], seed: int
) -> list[str]:
    """A table: the filter's pose and those of the ratio test on the same keypoints."""
    right = known.right(pair)
    ratio_kept = pair.putative.ratio < RATIO
    rows = [("N³ filter", pair.kept, pose, seconds["filter"] + seconds["pose"])]
    for estimator in dict.fromkeys((pose.estimator, "opencv_ransac")):
        began = time.perf_counter()
        rival = _ratio_test_pose(pair, ratio_kept, estimator, seed)
        rows.append((f"ratio test {RATIO}", ratio_kept, rival, time.perf_counter() - began))
    found, found_right = len(right), np.count_nonzero(right)
    lines = [
        f"Same keypoints, {found} putative matches, {found_right} of them right "
        f"(within {RIGHT_PX:g} px of the known epipolar line):",
        f"{'method':<16} {'estimator':<14} {'kept':>5} {'right':>6} {'inliers':>8} "
        f"{'error':>8} {'seconds':>8}",
    ]
    for name, kept, result, spent in rows:
        error = known.error_deg(result)
        lines.append(
            f"{name:<16} {result.estimator:<14} {np.count_nonzero(kept):>5} "
            f"{np.count_nonzero(kept & right):>6} {result.num_inliers:>8} "
            f"{f'{error:.2f}°' if error is not None else result.status:>8} {spent:>8.2f}"
        )
    return lines


def _ratio_test_pose(
    pair: MatchedPair, kept: np.ndarray, estimator: str, seed: int
) -> RelativePose:
    photo0, photo1 = pair.photographs
    return estimate_relative_pose_from_matches(
        pair.putative.points0[kept],
        pair.putative.points1[kept],
        photo0.K,
        photo1.K,
        estimator=estimator,
        distortion0=photo0.distortion,
        distortion1=photo1.distortion,
        seed=seed,
    )
