"""Which ways to denoise are compared, on the command line."""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import add_device_arguments

# Those that are no networks, with what the tables say of them.
DESCRIPTIONS = {
    "noisy": "the noisy image itself",
    "cv2-nlm": "`cv2.fastNlMeansDenoising`, h = σ, default windows, on 8 bits",
    "bm3d": "BM3D of the Python package bm3d, default profile",
}


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", nargs="*", default=[], metavar="[LABEL=]FILE",
        help="networks to compare: shipped names or files",
    )
    parser.add_argument(
        "--methods", nargs="*", default=["noisy", "cv2-nlm"], choices=tuple(DESCRIPTIONS),
        help="others (default: noisy cv2-nlm; bm3d takes minutes, and the package bm3d)",
    )
    add_device_arguments(parser)
