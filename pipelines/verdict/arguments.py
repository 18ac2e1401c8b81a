"""What `train-verdict` and `evaluate-verdict` are told alike."""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_filter_argument,
    check_at_least,
    given_path,
)


def add_plan_arguments(
    parser: argparse.ArgumentParser, *, real: int, other_side: int, other_part: int,
    other_place: int, images: int | None,
) -> None:
    """Options of `plan.planned_pairs` with these defaults, and of how matches are made and kept."""
    add = parser.add_argument
    limits = {
        "--real": (real, "real pairs of each scene"),
        "--other-side": (other_side, "pairs of each scene whose cameras look at different sides"),
        "--other-part": (other_part, "pairs of each scene of parts that share nothing"),
        "--other-place": (other_place, "pairs of two scenes, in all"),
    }
    for name, (default, what) in limits.items():
        add(name, type=int, default=default, metavar="N",
            help=f"at most so many {what} (default: %(default)s)")
    add("--images", type=int, default=images, metavar="N",
        help="of each scene, drawn at random (default: "
        f"{'all' if images is None else '%(default)s'})")
    add("--one-place", action="append", default=[], metavar="NAME,NAME,…",
        help="scenes that are, or may be, of one place: no pairs of two places are made of them; "
        "may be given several times")
    add("--turned", nargs="+", default=[], metavar="NAME",
        help="scenes of an object that was turned before an unmoved room, which all photographs "
        "show whatever the cameras' poses around the object: no pairs of different sides are made "
        "of them")
    add("--keypoints", type=int, nargs="+", default=[2000, 4000], metavar="N",
        help="per photograph (default: 2000 4000)")
    add("--work", type=given_path, required=True, metavar="DIR",
        help="a folder for keypoints, matches and rows of results, all used again: only what "
        "is new costs time")
    add("--seed", type=int, default=0, help="of the draw of pairs")
    add_filter_argument(parser)
    add_device_arguments(parser)


def check_plan(arguments: argparse.Namespace) -> None:
    """Raises ValueError for an option out of range."""
    check_at_least(0, arguments, "real", "other_side", "other_part", "other_place")
    check_at_least(2, arguments, "images")
    if min(arguments.keypoints) < 8:
        raise ValueError(f"--keypoints must be at least 8, got {min(arguments.keypoints)}")
