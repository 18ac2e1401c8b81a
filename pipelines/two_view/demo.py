"""Two bundled photographs, from SIFT to a relative pose, compared with the pose known for them.

The pair is a typical hard one: most putative matches are wrong, the right ones fix the pose well.
The same keypoints are also taken through the usual ratio test (0.8) and RANSAC. Photographs: Andrew
Zaborowski, attribution to OpenStreetMap-PL, CC BY 3.0; they were not used in training.

With --operator, instead: a picture of how the N³ operator's soft neighbours become the hard K
nearest ones as the temperature falls.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from n3match.pipelines.common.arguments import add_device_arguments, output_file

PICTURE, OPERATOR_PICTURE = "n3match-demo.png", "n3match-operator.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=output_file(".png"), default=None, metavar="FILE.png",
        help=f"the picture (default: {PICTURE}, with --operator {OPERATOR_PICTURE})",
    )
    parser.add_argument(
        "--operator", action="store_true",
        help="draw soft neighbours turning hard on a few points in the plane, and nothing else",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result")
    add_device_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    from n3match.files.whole import check_target

    out = arguments.out or Path(OPERATOR_PICTURE if arguments.operator else PICTURE)
    check_target(out, ".png")
    found = True
    if arguments.operator:
        from n3match.pipelines.common.plots.operator import draw_operator, what_to_see

        print("\n".join(what_to_see(draw_operator(out, arguments.seed))))
    else:
        from n3match.pipelines.two_view.demo_pair import show_pair

        found = show_pair(out, arguments.seed, arguments.device, arguments.half)
    print()
    print(f"picture    {out}")
    return 0 if found else 1
