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
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from n3match.datasets.denoising.dnd import DndImage, mosaic_places, read_image, read_info
from n3match.pipelines.denoising.denoise import parse_gigabytes
from n3match.pipelines.denoising.dnd_submission import Submission
from n3match.pipelines.denoising.methods import Method, MethodSource, RawMethod


def denoise_mosaic(
    crop: np.ndarray, places: list[tuple[int, int]], run: RawMethod, a: float, b: float
) -> np.ndarray:
    """(H, W) of a mosaic, H and W even, as four planes; clipped to 0 … 1.

    Raises:
        ValueError: an odd side.
    """
    if crop.shape[0] % 2 or crop.shape[1] % 2:
        raise ValueError(f"crop: {crop.shape[0]} x {crop.shape[1]} pixels, wanted even numbers")
    planes = np.stack([crop[y::2, x::2] for y, x in places], 2)
    done = run(planes, a, b)
    whole = np.empty_like(crop)
    for i, (y, x) in enumerate(places):
        whole[y::2, x::2] = done[..., i]
    return np.clip(whole, 0.0, 1.0)


def denoise_image(
    folder: Path, image: DndImage, submission: Submission, run: Method | RawMethod
) -> None:
    """Writes the crops of an image, and their bundle.

    Raises:
        OSError, ValueError: naming the file.
    """
    pixels = read_image(folder, image, srgb=not submission.raw)
    crops = []
    for k, (top, left, bottom, right) in enumerate(image.boxes, 1):
        noisy = np.ascontiguousarray(pixels[top:bottom, left:right])
        done = submission.find(image.number, k, noisy.shape)
        if done is None:
            try:
                if submission.raw:
                    places = mosaic_places(image.pattern, top, left)
                    done = denoise_mosaic(noisy, places, run, image.a, image.b)
                else:
                    done = np.clip(run(noisy, 255 * float(image.sigma[k - 1])), 0.0, 1.0)
            except ValueError as error:
                raise ValueError(f"image {image.number}, crop {k}: {error}") from error
            submission.write_crop(image.number, k, done.astype(np.float32))
        crops.append(done)
    submission.write_bundle(image.number, crops)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dnd", type=Path, metavar="DND", help="folder with info.mat")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the submission")
    parser.add_argument(
        "--weights", required=True, help="shipped weights or a file; or cv2-nlm, bm3d"
    )
    parser.add_argument("--srgb", action="store_true", help="the sRGB images, not the raw ones")
    parser.add_argument("--memory", type=parse_gigabytes, default=1.0, metavar="GB")


def main(arguments: argparse.Namespace) -> int:
    torch.set_flush_denormal(True)
    method = MethodSource.parse(arguments.weights)
    memory = int(arguments.memory * 2**30)
    run = method.load(memory) if arguments.srgb else method.load_raw(memory)
    images = read_info(arguments.dnd)
    if arguments.srgb and any(image.sigma is None for image in images):
        raise ValueError(f"{arguments.dnd / 'info.mat'}: has no sigma_srgb, which --srgb wants")
    submission = Submission(
        arguments.out, raw=not arguments.srgb, made_by={"weights": method.fingerprint()}
    )
    failed = 0
    for image in tqdm(images, unit="image", disable=not sys.stderr.isatty()):
        try:
            denoise_image(arguments.dnd, image, submission, run)
        except (ValueError, OSError) as error:
            failed += 1
            message = " ".join(str(error).split())
            tqdm.write(f"n3match: error: {message}", file=sys.stderr)
    print(f"{len(images) - failed} of {len(images)} images denoised: {arguments.out / 'bundled'}")
    return 2 if failed else 0
