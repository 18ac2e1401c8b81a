"""PSNR and SSIM of denoising methods on the same noisy images, per image and mean.

Clean images of a folder in the order of their names, in 0 … 1; white Gaussian noise, the same for
every method, not clipped, from numpy's default_rng([1234, σ, index]), index counted from 0. Outputs
are not clipped either. PSNR over the whole image with peak 1; SSIM with an 11×11 Gaussian window
of σ 1.5. Seconds are CPU seconds per megapixel on one thread.

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
import numpy as np
import torch
from tqdm import tqdm

from n3match.datasets.denoising_images import eight_bit
from n3match.datasets.image_files import images_in, read_image
from n3match.pipelines.denoise import parse_gigabytes
from n3match.pipelines.denoise_methods import CLASSICAL, MethodSource
from n3match.pipelines.image_quality import psnr, ssim
from n3match.pipelines.tables import markdown_table, write_text_whole

_SEED = 1234


@dataclass(frozen=True)
class Score:
    """Of one image, σ and method."""

    folder: str
    image: str
    sigma: float
    method: str
    psnr: float
    ssim: float
    seconds: float
    megapixels: float


def noisy_image(clean: np.ndarray, sigma: float, index: int) -> np.ndarray:
    """float32 image with the noise of image number `index` (of the sorted folder) at σ.

    σ that isn't whole seeds by its thousandth part.
    """
    seed = int(sigma) if float(sigma).is_integer() else round(sigma * 1000)
    rng = np.random.default_rng([_SEED, seed, index])
    noise = rng.standard_normal(clean.shape).astype(np.float32) * np.float32(sigma / 255)
    return clean + noise


def evaluate(
    folders: Sequence[Path],
    sigmas: Sequence[float],
    methods: Sequence[MethodSource],
    *,
    channels: int = 1,
    memory_limit: int = 1 << 30,
    quiet: bool = True,
) -> list[Score]:
    """Scores of all images, noise levels and methods.

    Raises:
        ValueError, OSError: a folder without images, weights that don't fit.
    """
    loaded = [(method.label, method.load(memory_limit)) for method in methods]
    files = [(folder, list(images_in(folder))) for folder in folders]
    scores = []
    total = sum(len(paths) for _, paths in files) * len(sigmas) * len(loaded)
    with tqdm(total=total, unit="image", disable=quiet) as bar:
        for folder, paths in files:
            for index, path in enumerate(paths):
                clean = eight_bit(read_image(path), channels).astype(np.float32) / np.float32(255)
                for sigma in sigmas:
                    noisy = noisy_image(clean, sigma, index)
                    for label, run in loaded:
                        began = time.process_time()
                        found = run(noisy, sigma)
                        seconds = time.process_time() - began
                        scores.append(
                            Score(
                                folder.name, path.name, sigma, label, psnr(found, clean),
                                ssim(found, clean), seconds,
                                clean.shape[0] * clean.shape[1] / 1e6,
                            )
                        )
                        bar.update()
    return scores


def report(scores: Sequence[Score]) -> str:
    """A Markdown table of means for each folder, then one row per image for each σ."""
    sections = []
    for folder in dict.fromkeys(s.folder for s in scores):
        here = [s for s in scores if s.folder == folder]
        sections.append(f"## {folder}\n\n{_means(here)}")
        for sigma in dict.fromkeys(s.sigma for s in here):
            part = [s for s in here if s.sigma == sigma]
            sections.append(f"PSNR per image, σ = {sigma:g}:\n\n{_per_image(part)}")
    return "\n\n".join(sections) + "\n"


def _means(scores: Sequence[Score]) -> str:
    sigmas = list(dict.fromkeys(s.sigma for s in scores))
    columns = ["method"]
    columns += [f"{name} σ {sigma:g}" for sigma in sigmas for name in ("PSNR", "SSIM")]
    rows = []
    for method in dict.fromkeys(s.method for s in scores):
        own = [s for s in scores if s.method == method]
        row = [method]
        for sigma in sigmas:
            part = [s for s in own if s.sigma == sigma]
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
    writer.writerow(["folder", "image", "sigma", "method", "psnr", "ssim", "cpu_seconds"])
    for s in scores:
        numbers = (f"{s.psnr:.5f}", f"{s.ssim:.6f}", f"{s.seconds:.4f}")
        writer.writerow([s.folder, s.image, f"{s.sigma:g}", s.method, *numbers])
    return text.getvalue()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", type=Path, help="clean images, e.g. set12 bsd68")
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=[25.0], metavar="S",
        help="noise levels in 8-bit units (default: 25)",
    )
    parser.add_argument(
        "--weights", nargs="*", default=[], metavar="[LABEL=]FILE",
        help="networks to compare: shipped names or files",
    )
    parser.add_argument(
        "--methods", nargs="*", default=list(CLASSICAL), choices=tuple(CLASSICAL),
        help="others (default: all)",
    )
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1, help="grey or colour")
    parser.add_argument("--memory", type=parse_gigabytes, default=1.0, metavar="GB")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="also write scores.csv and report.md there"
    )


def main(arguments: argparse.Namespace) -> int:
    for sigma in arguments.sigma:
        if not 0 < sigma <= 255:
            raise ValueError(f"sigma: wanted numbers above 0 and up to 255, got {sigma}")
    methods = [MethodSource.parse(name) for name in (*arguments.methods, *arguments.weights)]
    labels = [method.label for method in methods]
    if not methods or len(set(labels)) < len(labels):
        raise ValueError(f"methods: wanted some with different labels, got {labels}")
    # One thread, so that seconds compare, as all sets of figures quote them.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    scores = evaluate(
        arguments.folders, arguments.sigma, methods, channels=arguments.channels,
        memory_limit=int(arguments.memory * 2**30), quiet=not sys.stderr.isatty(),
    )
    text = report(scores)
    if arguments.out is not None:
        write_text_whole(arguments.out / "scores.csv", as_csv(scores))
        write_text_whole(arguments.out / "report.md", text)
    print(text, end="")
    return 0
