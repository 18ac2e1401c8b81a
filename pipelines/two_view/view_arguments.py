"""What `n3match pose` and `n3match match` have in common on the command line."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from n3match.denoising import DEFAULT_WEIGHTS, Denoiser, denoise
from n3match.denoising.denoise import as_denoiser
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.denoising.denoise import parse_sigma
from n3match.pipelines.two_view.match_images import MatchedPair, match_images
from n3match.pipelines.two_view.photograph import ASSUMED, EXIF, GIVEN, Photograph, read_photograph

_ORIGIN = {
    GIVEN: "as given",
    EXIF: "from EXIF",
    ASSUMED: "assumed: 1.2 × the longer side",
}


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image0", type=Path, help="a photograph")
    parser.add_argument("image1", type=Path, help="another photograph of the same scene")
    for i in (0, 1):
        parser.add_argument(
            f"--intrinsics{i}", type=parse_intrinsics, metavar="FX,FY,CX,CY",
            help=f"focal lengths and principal point of image {i} in the file's pixels; default: "
            "the focal length in the file's EXIF data, else 1.2 × the longer side",
        )
        parser.add_argument(
            f"--distortion{i}", type=parse_distortion, metavar="K1,K2,P1,P2[,K3]",
            help=f"lens distortion of image {i}, OpenCV's coefficients",
        )
    parser.add_argument(
        "--max-keypoints", type=int, default=2000, metavar="N", help="SIFT keypoints per photograph"
    )
    parser.add_argument(
        "--max-size", type=int, default=1600, metavar="PIXELS",
        help="larger photographs are matched with the longer side reduced to this; all results "
        "are in the files' own pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--filter", default="sift", metavar="NAME",
        help='shipped weights ("sift", "sift-cnnet"), a file of weights, or "none" '
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--denoise", nargs="?", const=DEFAULT_WEIGHTS, metavar="WEIGHTS",
        help="take noise out of the photographs, at the size they are matched at, before keypoints "
        "are looked for: shipped weights or a file (without a name: %(const)s); after the "
        "photographs",
    )
    parser.add_argument(
        "--sigma", type=parse_sigma, default=argparse.SUPPRESS, metavar="auto|S",
        help="with --denoise: the noise's standard deviation in 8-bit units; auto: estimated from "
        "each photograph (default)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png",
        help="draw the matches and a histogram of their scores; with a pose, epipolar lines too",
    )


def parse_intrinsics(text: str) -> np.ndarray:
    """"fx,fy,cx,cy" in pixels to a (3, 3) camera matrix."""
    numbers = _numbers(text)
    if len(numbers) != 4 or min(numbers[:2]) <= 0:
        raise argparse.ArgumentTypeError(
            f"wanted four numbers fx,fy,cx,cy with positive focal lengths, got {text!r}"
        )
    fx, fy, cx, cy = numbers
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def parse_distortion(text: str) -> np.ndarray:
    """"k1,k2,p1,p2[,k3]" to (4,) or (5,) coefficients."""
    numbers = _numbers(text)
    if len(numbers) not in (4, 5):
        raise argparse.ArgumentTypeError(
            f"wanted four or five numbers k1,k2,p1,p2[,k3], got {text!r}"
        )
    return np.array(numbers)


def _numbers(text: str) -> list[float]:
    """Finite numbers between commas; nothing where one of them isn't."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def load_filter(name: str) -> MatchFilter | None:
    return None if name == "none" else MatchFilter.from_pretrained(name)


def match_from_arguments(arguments: argparse.Namespace, stopwatch: Stopwatch) -> MatchedPair:
    """Stages "weights", "read", "denoise", "sift", "matching" and "filter" as the arguments say."""
    if "sigma" in arguments and arguments.denoise is None:
        raise ValueError("--sigma: is of the noise that --denoise takes out, which isn't asked for")
    with stopwatch.stage("weights"):
        filter = load_filter(arguments.filter)
        denoiser = None if arguments.denoise is None else as_denoiser(arguments.denoise)
    with stopwatch.stage("read"):
        photos = [
            read_photograph(path, K=K, distortion=distortion, max_size=arguments.max_size)
            for path, K, distortion in (
                (arguments.image0, arguments.intrinsics0, arguments.distortion0),
                (arguments.image1, arguments.intrinsics1, arguments.distortion1),
            )
        ]
    if denoiser is not None:
        # Features behind a trained ReLU can be denormal, which slows a CPU down many times.
        torch.set_flush_denormal(True)
        sigma = getattr(arguments, "sigma", None)
        with stopwatch.stage("denoise"):
            photos = [
                denoised_photograph(photo, denoiser, arguments.denoise, sigma) for photo in photos
            ]
    pair = match_images(*photos, filter=filter, max_keypoints=arguments.max_keypoints)
    stopwatch.add(pair.seconds)
    return pair


def denoised_photograph(
    photo: Photograph, denoiser: Denoiser, name: str, sigma: float | None
) -> Photograph:
    """The photograph with less noise in its `image`.

    Args:
        photo: as read.
        denoiser: the network, and `name` what it is called.
        sigma: of the noise, 8-bit units; None: estimated.

    Raises:
        ValueError: naming the photograph: weights that are not for it, too small to estimate.
    """
    try:
        image = denoise(photo.image, sigma, weights=denoiser)
    except ValueError as error:
        raise ValueError(f"{photo.name}: {error}") from error
    return replace(photo, image=image, denoised=name)


def describe_photograph(photo: Photograph) -> str:
    """One line: file, size, camera and where it is from."""
    K = photo.file_K
    focal = f"{K[0, 0]:.1f}"
    if not math.isclose(K[0, 0], K[1, 1], rel_tol=1e-6):
        focal += f", {K[1, 1]:.1f}"
    line = (
        f"{photo.name}: {photo.size[0]} × {photo.size[1]}, "
        f"focal length {focal} px ({_ORIGIN[photo.intrinsics]})"
    )
    if photo.scale != (1.0, 1.0):
        height, width = photo.image.shape
        line += f", matched at {width} × {height}"
    if photo.denoised:
        line += f", denoised by {photo.denoised}"
    return line


def describe_seconds(seconds: dict[str, float]) -> str:
    stages = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    return f"{stages}; together {sum(seconds.values()):.2f}"
