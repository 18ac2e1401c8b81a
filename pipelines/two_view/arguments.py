"""What `n3match pose` and `n3match match` have in common on the command line."""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_stored_pixels_argument,
    given_path,
    output_file,
    parse_distortion,
    parse_intrinsics,
    parse_sigma,
)
from n3match.weights import DEFAULT_DENOISER


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image0", type=given_path, help="a photograph")
    parser.add_argument("image1", type=given_path, help="another photograph of the same scene")
    for i in (0, 1):
        parser.add_argument(
            f"--intrinsics{i}", type=parse_intrinsics, metavar="FX,FY,CX,CY",
            help=f"focal lengths and principal point of image {i} in pixels of the file, turned "
            "by its EXIF orientation (unless --stored-pixels); default: "
            "the focal length in the file's EXIF data, else 1.2 × the longer side",
        )
        parser.add_argument(
            f"--distortion{i}", type=parse_distortion, metavar="K1,K2,P1,P2[,K3]",
            help=f"lens distortion of image {i}, OpenCV's coefficients",
        )
    parser.add_argument(
        "--feature", default="sift", metavar="KIND",
        help="of two photographs: sift (default), orb, brisk or akaze",
    )
    parser.add_argument(
        "--max-keypoints", type=int, default=4000, metavar="N",
        help="keypoints per photograph (default: %(default)s)",
    )
    parser.add_argument(
        "--max-size", type=int, default=1600, metavar="PIXELS",
        help="larger photographs are matched with the longer side reduced to this; all results "
        "are in the files' own pixels (default: %(default)s)",
    )
    add_stored_pixels_argument(parser)
    parser.add_argument(
        "--filter", default="auto", metavar="NAME",
        help='shipped weights or a file of weights, or "none" (default: those for the feature, '
        '"sift" or, for the binary ones, "orb")',
    )
    add_device_arguments(parser)
    parser.add_argument(
        "--denoise", nargs="?", const=DEFAULT_DENOISER, metavar="WEIGHTS",
        help="take noise out of the photographs, at the size they are matched at, before keypoints "
        "are looked for: shipped weights or a file (without a name: %(const)s); after the "
        "photographs",
    )
    parser.add_argument(
        "--sigma", type=parse_sigma, default=argparse.SUPPRESS, metavar="auto|S",
        help="with --denoise: the noise's standard deviation in 8-bit units; auto: estimated from "
        "each photograph (default)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--plot", type=output_file(".png"), metavar="FILE.png",
        help="draw the matches and a histogram of their probabilities; with a pose, epipolar "
        "lines too",
    )
