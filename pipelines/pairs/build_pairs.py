"""Make a pair store from scenes with known poses: keypoints, putative matches, labels.

SOURCE is one scene or a folder of scenes, in any of these layouts:
  colmap     images/ and a model (cameras, images: .bin or .txt) in sparse/ or sparse/0/
  cnnet      images.txt, calibration.txt, visibility.txt
  rgbd       7-Scenes or SUN3D: colour, depth, camera-to-world poses
  pair-list  text file, a pair a line: name0 name1 rot0 rot1 K0(9) K1(9) T_0to1(16)
  dump       HDF5 of OANet's layout: matches and poses, no photographs
With --images, SOURCE is a folder of photographs; COLMAP (pip install "n3match[colmap]") finds
their poses first, and keeps its model beside OUT.

Stopped at any moment, even killed, it goes on where it was when started again. Exit status: 0; 1
where something could not be read or used (told on standard error and in the store) and the rest
was done; 2 after an error.
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import (
    add_stored_pixels_argument,
    given_path,
    output_file,
    parse_intrinsics,
)
from n3match.pipelines.pairs.sources import MIN_CONSISTENT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenes", type=given_path, metavar="SOURCE", help="scene, or folder of scenes"
    )
    parser.add_argument("out", type=output_file(), metavar="OUT", help="pair store to write (.h5)")
    parser.add_argument(
        "--format", metavar="LAYOUT", help="one of those above (default: recognised)"
    )
    parser.add_argument(
        "--images", action="store_true", help="SOURCE is a folder of photographs for COLMAP"
    )
    parser.add_argument(
        "--image-root", type=given_path, help="folder that names of images refer to"
    )
    parser.add_argument(
        "--intrinsics", type=parse_intrinsics, metavar="FX,FY,CX,CY",
        help="of all images, where the layout has none (RGB-D)",
    )
    parser.add_argument(
        "--feature", default="sift", metavar="KIND",
        help="sift (default), or the binary orb, brisk, akaze",
    )
    add_stored_pixels_argument(
        parser, " (pair lists and RGB-D; cameras of COLMAP and cnnet are for stored pixels, unless "
        "only the turned ones have their size)"
    )
    parser.add_argument("--max-keypoints", type=int, default=2000)
    parser.add_argument(
        "--contrast-threshold", type=float, default=0.01,
        help="of SIFT (default: %(default)s); higher: fewer and stronger keypoints",
    )
    parser.add_argument(
        "--max-size", type=int, metavar="PIXELS",
        help="longer side that keypoints are sought in, at most",
    )
    parser.add_argument(
        "--changed", action="store_true",
        help="keypoints are sought in photographs changed on purpose: light, contrast, blur, "
        "noise, JPEG, size, turns, each view its own way",
    )
    parser.add_argument("--max-pairs", type=int, help="per scene; all when left out")
    parser.add_argument(
        "--min-shared", type=int,
        help="shared 3-D points of a pair (default: 20; cnnet: 101)",
    )
    parser.add_argument(
        "--min-overlap", type=float,
        help="least share of one view seen by the other, where known (default: rgbd 0.15, "
        "cnnet 0.3, colmap 0)",
    )
    parser.add_argument(
        "--min-consistent", type=float, default=MIN_CONSISTENT, metavar="SHARE",
        help="pairs whose pose clearly explains less of their mutual low-ratio matches are left "
        "out; 0 keeps all (default: %(default)s)",
    )
    parser.add_argument("--exclude", nargs="*", default=(), help="scenes to leave out")
    parser.add_argument(
        "--fixed-direction", action="store_true", help="image 0 is first by name, not by chance"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first image or scene not usable"
    )
    parser.add_argument("--source", default="", help="text kept in the store")
    parser.add_argument("--licence", default="", help="text kept in the store")


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.pairs.make_store import build_pairs, tell_problems

    out = build_pairs(**vars(arguments))
    found = tell_problems(out)
    print(out)
    return 1 if found else 0
