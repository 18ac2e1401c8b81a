"""Two photographs read and matched as the command line says, and what is told of them."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace

import numpy as np
import torch

from n3match.datasets.images import turn_in_words
from n3match.denoising import Denoiser, denoise
from n3match.geometry import RelativePose
from n3match.nn import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.two_view.match_images import MatchedPair, filter_of, match_images
from n3match.pipelines.two_view.photograph import ASSUMED, EXIF, GIVEN, Photograph, read_photograph

_ORIGIN = {
    GIVEN: "as given",
    EXIF: "from EXIF",
    ASSUMED: "assumed: 1.2 × the longer side",
}


def match_from_arguments(arguments: argparse.Namespace, stopwatch: Stopwatch) -> MatchedPair:
    """Stages "weights", "read", "denoise", that of the feature ("sift"), "matching" and "filter" as
    the arguments say."""
    if "sigma" in arguments and arguments.denoise is None:
        raise ValueError("--sigma: is of the noise that --denoise takes out, which isn't asked for")
    arguments.filter = filter_of(arguments.filter, arguments.feature)  # as it is told of
    with stopwatch.stage("weights"):
        filter = denoiser = None
        if arguments.filter != "none":
            net = MatchFilter.from_pretrained(arguments.filter)
            filter = placed(net, arguments.device, arguments.half)
        if arguments.denoise is not None:
            weights = Denoiser.from_pretrained(arguments.denoise)
            denoiser = placed(weights, arguments.device, arguments.half)
    with stopwatch.stage("read"):
        photos = [
            read_photograph(
                path, K=K, distortion=distortion, max_size=arguments.max_size,
                stored=arguments.stored_pixels,
            )
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
    pair = match_images(
        *photos, feature=arguments.feature, filter=filter,
        max_keypoints=arguments.max_keypoints, device=arguments.device,
    )
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
    line = f"{photo.name}: {photo.size[0]} × {photo.size[1]}"
    if photo.turned:
        line += f" ({turn_in_words(photo.orientation)}, as its EXIF data says)"
    elif photo.orientation != 1:
        line += f" (as stored, not {turn_in_words(photo.orientation)} as its EXIF data says)"
    line += f", focal length {focal} px ({_ORIGIN[photo.intrinsics]})"
    if photo.scale != (1.0, 1.0):
        height, width = photo.image.shape
        line += f", matched at {width} × {height}"
    if photo.denoised:
        line += f", denoised by {photo.denoised}"
    return line


def photograph_as_dict(photo: Photograph) -> dict:
    """The same as plain values for JSON."""
    return {
        "path": photo.name,
        "width": photo.size[0],
        "height": photo.size[1],
        "K": photo.file_K.tolist(),
        "distortion": None if photo.distortion is None else photo.distortion.tolist(),
        "intrinsics": photo.intrinsics,
        "orientation": photo.orientation,
        "turned": photo.turned,
        "denoised": photo.denoised or None,
    }


def print_json(result: dict) -> None:
    """One object on standard output."""
    json.dump(result, sys.stdout, indent=2, allow_nan=False)
    print()


def describe_seconds(seconds: dict[str, float]) -> str:
    stages = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    return f"{stages}; together {sum(seconds.values()):.2f}"


def describe_probability(value: float) -> str:
    """Of a pair being real, in words."""
    return f"shows a common part of the scene with probability {value:.3f}"


def pose_lines(pair: MatchedPair, pose: RelativePose) -> list[str]:
    """Matches, status, R and t for people."""
    kept = pair.kept
    lines = [
        f"matches    {len(kept)} found, {np.count_nonzero(kept)} kept, {pose.num_inliers} inliers",
        f"pair       {describe_probability(pose.pair_probability)}",
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
