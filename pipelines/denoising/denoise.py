"""Removes noise from an image, or from every image of a folder.

8 or 16 bit or float32 (TIFF), grey or colour, of any size; an alpha channel is kept as it is.
Images too large for the memory allowed are done in overlapping tiles, with the same result. A
photograph is turned by its EXIF orientation; results have no EXIF data. HEIC of a folder becomes
PNG.

What can't be read, or can't be written as it is named (alpha to JPEG, say), is found before any
image is denoised. After the first tile it is said how long it will take and, where that is more
than a minute, what would be faster.

Exit status: 0; 2 where an image couldn't be read, denoised or written: one line on standard error
for each, and the other images of a folder are done all the same. No file is left half written.
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_memory_argument,
    add_stored_pixels_argument,
    given_path,
    parse_sigma,
)
from n3match.weights import default_denoiser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=given_path, metavar="IN", help="an image, or a folder of images"
    )
    parser.add_argument("target", type=given_path, metavar="OUT", help="file to write, or a folder")
    parser.add_argument(
        "--sigma", type=parse_sigma, default=None, metavar="auto|S",
        help="standard deviation of the noise in 8-bit units, e.g. 25; auto: estimated from each "
        "image (default)",
    )
    parser.add_argument(
        "--weights", default=None, metavar="NAME",
        help=f"shipped weights, or a file (default: {default_denoiser(1)}, of pictures in colour "
        f"{default_denoiser(3)})",
    )
    add_memory_argument(parser)
    add_device_arguments(parser)
    add_stored_pixels_argument(parser)
    parser.add_argument(
        "--picture", type=given_path, metavar="PNG",
        help="draw before and after beside each other; for a folder: a folder of such pictures",
    )


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.denoising.denoise_files import denoise_files, describe_turns

    files = denoise_files(
        arguments.source, arguments.target, arguments.picture, arguments.weights, arguments.sigma,
        arguments.memory, device=arguments.device, half=arguments.half,
        stored=arguments.stored_pixels,
    )
    if turns := describe_turns(files):
        print(turns)
    count = len(files.jobs)
    print(f"{files.done} of {count} denoised: {arguments.target}")
    return 2 if files.done < count else 0
