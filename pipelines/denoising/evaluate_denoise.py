"""PSNR and SSIM of denoising methods on the same noisy images, per image and mean.

Clean images of a folder in the order of their names, in 0 … 1; white Gaussian noise, the same for
every method, not clipped, from numpy's default_rng([1234, σ, index]), index counted from 0. Outputs
are not clipped either. PSNR over the whole image with peak 1; SSIM with an 11×11 Gaussian window
of σ 1.5. Seconds are per megapixel: CPU seconds on one thread, or on another device those that
passed.

With --noise raw (grey) or bayer (four planes of a mosaic): a camera's noise of variance a·x + b,
clipped to 0 … 1, on images made raw-like as `train-denoiser` makes them, seeded likewise. Networks
trained for it are told a and b; the other methods get the image through the generalised Anscombe
transform, which makes its noise white.

Exit status: 0; 2 after an error, told by one line on standard error.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from n3match.datasets.denoising.clean_images import eight_bit
from n3match.datasets.denoising.image_files import images_in, read_image
from n3match.pipelines.common.tables import markdown_table, write_text_whole
from n3match.pipelines.denoising.denoise import parse_gigabytes
from n3match.pipelines.denoising.evaluation_noise import GaussianNoise, RawNoise
from n3match.pipelines.denoising.image_quality import psnr, ssim
from n3match.pipelines.denoising.methods import (
    MethodSource,
    add_method_arguments,
    methods_from_arguments,
)
from n3match.pipelines.training.denoiser.config import NOISES

_LEVELS = ("0.0003,1.5e-06", "0.003,1.5e-05", "0.03,0.00015")

Noise = GaussianNoise | RawNoise


@dataclass(frozen=True)
class Score:
    """Of one image, noise level and method."""

    folder: str
    image: str
    noise: Noise
    method: str
    psnr: float
    ssim: float
    seconds: float
    megapixels: float


def evaluate(
    folders: Sequence[Path],
    noises: Sequence[Noise],
    methods: Sequence[MethodSource],
    *,
    channels: int = 1,
    memory_limit: int = 1 << 30,
    quiet: bool = True,
    on_cpu: bool = True,
) -> list[Score]:
    """Scores of all images, noise levels and methods.

    Args:
        folders, noises, methods: what is compared.
        channels: of the images.
        memory_limit: bytes for a network's intermediate results.
        quiet: no progress bar.
        on_cpu: seconds are the CPU's; else those that pass, after a run of each size that isn't
            timed.

    Raises:
        ValueError, OSError: a folder without images, weights that don't fit.
    """
    loaded = {
        noise: [(method.label, noise.loaded(method, memory_limit)) for method in methods]
        for noise in noises
    }
    files = [(folder, list(images_in(folder))) for folder in folders]
    clock = time.process_time if on_cpu else time.perf_counter
    scores, seen = [], set()
    total = sum(len(paths) for _, paths in files) * len(noises) * len(methods)
    with tqdm(total=total, unit="image", disable=quiet) as bar:
        for folder, paths in files:
            for index, path in enumerate(paths):
                image = eight_bit(read_image(path), channels)
                for noise in noises:
                    clean, noisy = noise.pair(image, index)
                    for label, run in loaded[noise]:
                        if not on_cpu and (label, noisy.shape) not in seen:
                            run(noisy)  # kernels are compiled and chosen
                            seen.add((label, noisy.shape))
                        began = clock()
                        found = run(noisy)
                        seconds = clock() - began
                        scores.append(
                            Score(
                                folder.name, path.name, noise, label, psnr(found, clean),
                                ssim(found, clean), seconds,
                                image.shape[0] * image.shape[1] / 1e6,
                            )
                        )
                        bar.update()
    return scores


def report(scores: Sequence[Score]) -> str:
    """A Markdown table of means for each folder, then one row per image for each level."""
    sections = []
    for folder in dict.fromkeys(s.folder for s in scores):
        here = [s for s in scores if s.folder == folder]
        sections.append(f"## {folder}\n\n{_means(here)}")
        for noise in dict.fromkeys(s.noise for s in here):
            part = [s for s in here if s.noise == noise]
            sections.append(f"PSNR per image, {noise.heading}:\n\n{_per_image(part)}")
    return "\n\n".join(sections) + "\n"


def _means(scores: Sequence[Score]) -> str:
    noises = list(dict.fromkeys(s.noise for s in scores))
    columns = ["method"]
    columns += [f"{name} {noise.heading}" for noise in noises for name in ("PSNR", "SSIM")]
    rows = []
    for method in dict.fromkeys(s.method for s in scores):
        own = [s for s in scores if s.method == method]
        row = [method]
        for noise in noises:
            part = [s for s in own if s.noise == noise]
            row += [f"{_mean(s.psnr for s in part):.3f}", f"{_mean(s.ssim for s in part):.4f}"]
        speed = sum(s.seconds for s in own) / sum(s.megapixels for s in own)
        rows.append([*row, f"{speed:.1f}"])
    return markdown_table([*columns, "s/MP"], rows)


def _per_image(scores: Sequence[Score]) -> str:
    methods = list(dict.fromkeys(s.method for s in scores))
    of = {(s.image, s.method): s.psnr for s in scores}
    images = dict.fromkeys(s.image for s in scores)
    rows = [[image, *(f"{of[image, method]:.2f}" for method in methods)] for image in images]
    return markdown_table(["image", *methods], rows)


def _mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def as_csv(scores: Sequence[Score]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["folder", "image", "noise", "method", "psnr", "ssim", "seconds"])
    for s in scores:
        numbers = (f"{s.psnr:.5f}", f"{s.ssim:.6f}", f"{s.seconds:.4f}")
        writer.writerow([s.folder, s.image, s.noise.label, s.method, *numbers])
    return text.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="clean images, e.g. set12 bsd68")
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=None, metavar="S",
        help="levels of Gaussian noise in 8-bit units (default: 25)",
    )
    parser.add_argument("--noise", choices=NOISES, default="gaussian")
    parser.add_argument(
        "--levels", nargs="+", default=None, metavar="A,B",
        help=f"of raw noise, variance A·x + B (default: {' '.join(_LEVELS)})",
    )
    add_method_arguments(parser)
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), default=None,
        help="grey (default) or colour; raw noise has channels of its own",
    )
    parser.add_argument("--memory", type=parse_gigabytes, default=1.0, metavar="GB")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="also write scores.csv and report.md there"
    )


def main(arguments: argparse.Namespace) -> int:
    noises, channels = _noises(arguments)
    methods = methods_from_arguments(arguments)
    # One thread, so that seconds compare, as all sets of figures quote them.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    on_cpu = torch.device(arguments.device).type == "cpu"
    scores = evaluate(
        arguments.folders, noises, methods, channels=channels,
        memory_limit=int(arguments.memory * 2**30), quiet=not sys.stderr.isatty(),
        on_cpu=on_cpu,
    )
    text = report(scores)
    if arguments.out is not None:
        write_text_whole(arguments.out / "scores.csv", as_csv(scores))
        write_text_whole(arguments.out / "report.md", text)
    print(text, end="")
    return 0


def _noises(arguments: argparse.Namespace) -> tuple[list[Noise], int]:
    """The noise levels asked for, and the channels of the images that they want."""
    if arguments.noise == "gaussian":
        if arguments.levels is not None:
            raise ValueError("--levels: are of raw noise: give --noise raw or bayer")
        for sigma in arguments.sigma or ():
            if not 0 < sigma <= 255:
                raise ValueError(f"sigma: wanted numbers above 0 and up to 255, got {sigma}")
        sigmas = dict.fromkeys(arguments.sigma or [25.0])
        return [GaussianNoise(sigma) for sigma in sigmas], arguments.channels or 1
    for name in ("sigma", "channels"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name}: is of no use with raw noise, which has --levels")
    bayer = arguments.noise == "bayer"
    levels = dict.fromkeys(RawNoise.parse(text, bayer) for text in arguments.levels or _LEVELS)
    return list(levels), 3 if bayer else 1
