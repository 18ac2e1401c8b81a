"""Removes noise from an image, or from every image of a folder.

8 or 16 bit or float32 (TIFF), grey or colour, of any size; an alpha channel is kept as it is.
Images too large for the memory allowed are done in overlapping tiles, with the same result.

Exit status: 0; 2 where an image couldn't be read, denoised or written: one line on standard error
for each, and the other images of a folder are done all the same. No file is left half written.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from n3match.datasets.denoising.image_files import check_suffix, encoded, images_in, read_image
from n3match.denoising import DEFAULT_WEIGHTS, Denoiser, denoise
from n3match.denoising.denoise import as_denoiser
from n3match.pipelines.common.whole_file import check_target, whole_file
from n3match.pipelines.plots.before_after import plot_before_after
from n3match.pipelines.plots.matches import check_picture_target


@dataclass(frozen=True)
class Job:
    """One image."""

    source: Path
    target: Path
    picture: Path | None


def denoise_file(
    job: Job,
    net: Denoiser,
    sigma: float | None,
    memory_limit: int,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Reads, denoises and writes one image, and the picture where one is wanted.

    Raises:
        ValueError, OSError: naming the file.
    """
    check_suffix(job.target)
    check_target(job.target)
    image = read_image(job.source)
    alpha = image[..., 3:] if image.ndim == 3 and image.shape[2] == 4 else None
    pixels = image if alpha is None else image[..., :3]
    try:
        done = denoise(
            pixels, sigma, weights=net, memory_limit=memory_limit, progress=progress
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{job.source}: {error}") from error
    content = encoded(done if alpha is None else np.concatenate([done, alpha], 2), job.target)
    with whole_file(job.target) as temporary:
        temporary.write_bytes(content)
    if job.picture is not None:
        plot_before_after(job.picture, pixels, done)


def jobs_of(source: Path, target: Path, picture: Path | None) -> list[Job]:
    """One for a file, one for each image of a folder.

    Raises:
        ValueError, OSError: nothing to do, or nowhere to put it.
    """
    if not source.is_dir():
        if picture is not None:
            check_picture_target(picture)
        return [Job(source, target, picture)]
    found = images_in(source)
    for folder in (target, picture):
        if folder is not None:
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(f"{folder}: is a file, wanted a folder for {source}")
            folder.mkdir(parents=True, exist_ok=True)
    return [
        Job(path, target / path.name, picture and picture / f"{path.stem}.png") for path in found
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN", help="an image, or a folder of images")
    parser.add_argument("target", type=Path, metavar="OUT", help="file to write, or a folder")
    parser.add_argument(
        "--sigma", type=parse_sigma, default=None, metavar="auto|S",
        help="standard deviation of the noise in 8-bit units, e.g. 25; auto: estimated from each "
        "image (default)",
    )
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, metavar="NAME", help="shipped weights, or a file"
    )
    parser.add_argument(
        "--memory", type=parse_gigabytes, default=1.0, metavar="GB",
        help="for intermediate results: larger images are done in tiles (default: %(default)s)",
    )
    parser.add_argument(
        "--picture", type=Path, metavar="PNG",
        help="draw before and after beside each other; for a folder: a folder of such pictures",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def parse_sigma(text: str) -> float | None:
    """"auto" or a number of 8-bit units."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(f"wanted auto or a number from 0 to 255, got {text!r}")
    return value


def parse_gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"wanted a positive number of gigabytes, got {text!r}")
    return value


def main(arguments: argparse.Namespace) -> int:
    # Features behind a trained ReLU can be denormal, which slows a CPU down many times.
    torch.set_flush_denormal(True)
    net = as_denoiser(arguments.weights)
    jobs = jobs_of(arguments.source, arguments.target, arguments.picture)
    failed = 0
    bar = tqdm(
        total=len(jobs), unit="image", disable=arguments.quiet or not sys.stderr.isatty(),
        bar_format="{l_bar}{bar}| {n:.2f}/{total} [{elapsed}<{remaining}]",
    )
    with bar:
        for number, job in enumerate(jobs):

            def progress(share: float, number: int = number) -> None:
                bar.n = number + share
                bar.refresh()

            bar.set_description(job.source.name)
            try:
                denoise_file(
                    job, net, arguments.sigma, int(arguments.memory * 2**30), progress
                )
            except (ValueError, OSError, MemoryError) as error:
                if len(jobs) == 1:
                    raise
                failed += 1
                message = " ".join(str(error).split()) or type(error).__name__
                bar.write(f"n3match: error: {message}", file=sys.stderr)
            progress(1.0)
    print(f"{len(jobs) - failed} of {len(jobs)} denoised: {arguments.target}")
    return 2 if failed else 0
