"""Relative pose of the cameras of two photographs.

Keypoints (of photographs denoised before with --denoise), nearest neighbours, the N³ match
filter, a robust essential matrix, R and t.
Convention: x1 ~ R x0 + t maps points from camera 0 to camera 1 (x right, y down, z ahead); the
length of t is unknown and given as 1. Pixels, and the cameras R and t are of, are those of the
image that cv2.imread gives: turned by the file's EXIF orientation (--stored-pixels: as stored). The
centre of the first one is (0, 0).

Exit status: 0 for a pose; 1 where the matches give none that can be trusted (the printed status
says why: too_few_matches, estimation_failed, degenerate, no_parallax, insufficient_support);
2 for an error such as an unreadable file or a malformed option.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from n3match.pipelines.two_view.arguments import add_view_arguments

if TYPE_CHECKING:
    from n3match.geometry import RelativePose
    from n3match.pipelines.two_view.match_images import MatchedPair


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_view_arguments(parser)
    parser.add_argument(
        "--estimator", default="auto",
        help="poselib, opencv_usac, opencv_ransac, kornia, eight_point, or auto: PoseLib where it "
        "is installed, else OpenCV's USAC (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result")


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.common.stopwatch import Stopwatch
    from n3match.pipelines.two_view import two_photographs as view

    watch = Stopwatch()
    pair = view.match_from_arguments(arguments, watch)
    with watch.stage("pose"):
        pose = pair.pose(estimator=arguments.estimator, seed=arguments.seed)
    if arguments.plot is not None:
        with watch.stage("plot"):
            pair.plot(arguments.plot, pose)
    if arguments.json:
        result = pose_as_dict(pair, pose)
        result.update(filter=arguments.filter, seed=arguments.seed, seconds=watch.seconds)
        view.print_json(result)
    else:
        for i, photo in enumerate(pair.photographs):
            print(f"image {i}    {view.describe_photograph(photo)}")
        print("\n".join(view.pose_lines(pair, pose)))
        print(f"seconds    {view.describe_seconds(watch.seconds)}")
        if arguments.plot is not None:
            print(f"picture    {arguments.plot}")
    return 0 if pose.ok else 1


def pose_as_dict(pair: MatchedPair, pose: RelativePose) -> dict:
    """Plain values for JSON; R, t and E are null where they aren't determined."""
    from n3match.pipelines.two_view.two_photographs import photograph_as_dict

    def plain(array) -> list | None:
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
            "kept": int(kept.sum()),
            "inliers": pose.num_inliers,
        },
        "pair_probability": pose.pair_probability,
        "homography_support": pose.homography_support,
        "homography": plain(pose.homography),
        "estimator": pose.estimator,
        "images": [photograph_as_dict(photo) for photo in pair.photographs],
    }
