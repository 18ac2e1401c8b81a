"""Relative pose of the cameras of two photographs.

SIFT keypoints (of photographs denoised before with --denoise), nearest neighbours, the N³ match
filter, a robust essential matrix, R and t.
Convention: x1 ~ R x0 + t maps points from camera 0 to camera 1 (x right, y down, z ahead); the
length of t is unknown and given as 1. Pixels are those stored in the file (an EXIF orientation is
not applied), the centre of the first one is (0, 0).

Exit status: 0 for a pose; 1 where the matches give none that can be trusted (the printed status
says why: too_few_matches, estimation_failed, degenerate, no_parallax, insufficient_support);
2 for an error such as an unreadable file or a malformed option.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from n3match.geometry import RelativePose
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.plots.matches import check_picture_target
from n3match.pipelines.two_view.match_images import MatchedPair
from n3match.pipelines.two_view.photograph import Photograph
from n3match.pipelines.two_view.view_arguments import (
    add_view_arguments,
    describe_photograph,
    describe_seconds,
    match_from_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_view_arguments(parser)
    parser.add_argument(
        "--estimator", default="auto",
        help="poselib, opencv_usac, opencv_ransac, kornia, eight_point, or auto: PoseLib where it "
        "is installed, else OpenCV's USAC (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def main(arguments: argparse.Namespace) -> int:
    if arguments.plot is not None:
        check_picture_target(arguments.plot)
    watch = Stopwatch()
    pair = match_from_arguments(arguments, watch)
    with watch.stage("pose"):
        pose = pair.pose(estimator=arguments.estimator, seed=arguments.seed)
    if arguments.plot is not None:
        with watch.stage("plot"):
            pair.plot(arguments.plot, pose)
    if arguments.json:
        result = pose_as_dict(pair, pose)
        result.update(filter=arguments.filter, seed=arguments.seed, seconds=watch.seconds)
        json.dump(result, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        for i, photo in enumerate(pair.photographs):
            print(f"image {i}    {describe_photograph(photo)}")
        print("\n".join(pose_lines(pair, pose)))
        print(f"seconds    {describe_seconds(watch.seconds)}")
        if arguments.plot is not None:
            print(f"picture    {arguments.plot}")
    return 0 if pose.ok else 1


def pose_lines(pair: MatchedPair, pose: RelativePose) -> list[str]:
    """Matches, status, R and t for people."""
    kept = pair.kept
    lines = [
        f"matches    {len(kept)} found, {np.count_nonzero(kept)} kept, {pose.num_inliers} inliers",
        f"status     {pose.status} (estimator {pose.estimator})",
    ]
    if pose.detail:
        lines.append(f"           {pose.detail}")
    if pose.R is not None:
        for i, row in enumerate(pose.R):
            head = "R          [" if i == 0 else "            "
            lines.append(f"{head}[{_numbers(row)}]{']' if i == 2 else ''}")
    if pose.t is not None:
        lines.append(f"t          [{_numbers(pose.t)}]")
    return lines


def _numbers(row: np.ndarray) -> str:
    return ", ".join(f"{value: .6f}" for value in row)


def pose_as_dict(pair: MatchedPair, pose: RelativePose) -> dict:
    """Plain values for JSON; R, t and E are null where they aren't determined."""

    def plain(array: np.ndarray | None) -> list | None:
        return None if array is None else array.tolist()

    kept = pair.kept
    return {
        "status": str(pose.status),
        "detail": pose.detail,
        "R": plain(pose.R),
        "t": plain(pose.t),
        "E": plain(pose.E),
        "matches": {
            "found": len(kept),
            "kept": int(np.count_nonzero(kept)),
            "inliers": pose.num_inliers,
        },
        "homography_support": pose.homography_support,
        "homography": plain(pose.homography),
        "estimator": pose.estimator,
        "images": [_photo_as_dict(photo) for photo in pair.photographs],
    }


def _photo_as_dict(photo: Photograph) -> dict:
    return {
        "path": photo.name,
        "width": photo.size[0],
        "height": photo.size[1],
        "K": photo.file_K.tolist(),
        "distortion": None if photo.distortion is None else photo.distortion.tolist(),
        "intrinsics": photo.intrinsics,
        "denoised": photo.denoised or None,
    }
