"""Denoises the Darmstadt Noise Dataset and writes the files that its server scores.

Raw (default): the four planes of a crop's mosaic, by a network for raw noise, which is told the
image's a and b; another network gets them through the generalised Anscombe transform. --srgb: the
crops in sRGB, each at its σ.

OUT gets 0001_01.mat … and bundled/0001.mat …, which are to be submitted. Crops that are there
already are not made again.

Exit status: 0; 2 where an image couldn't be read or denoised: one line on standard error for each,
and the other images are done all the same.
"""

from __future__ import annotations

import argparse

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    add_memory_argument,
    given_path,
    output_folder,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dnd", type=given_path, metavar="DND", help="folder with info.mat")
    parser.add_argument("out", type=output_folder, metavar="OUT", help="folder for the submission")
    parser.add_argument(
        "--weights", required=True, help="shipped weights or a file; or cv2-nlm, bm3d"
    )
    parser.add_argument("--srgb", action="store_true", help="the sRGB images, not the raw ones")
    add_memory_argument(parser)
    add_device_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.denoising.dnd_submission import denoise_dataset

    done, count = denoise_dataset(
        arguments.dnd, arguments.out, arguments.weights, srgb=arguments.srgb,
        memory_limit=arguments.memory, device=arguments.device, half=arguments.half,
    )
    print(f"{done} of {count} images denoised: {arguments.out / 'bundled'}")
    return 2 if done < count else 0
