"""How near the images that methods denoise come to the clean ones: PSNR, SSIM, seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from n3match.datasets.denoising.clean_images import eight_bit
from n3match.datasets.denoising.image_files import images_in, read_image
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.tables import csv_text, markdown_table
from n3match.pipelines.denoising.evaluation_noise import GaussianNoise, RawNoise
from n3match.pipelines.denoising.methods import MethodSource

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2

Noise = GaussianNoise | RawNoise


@dataclass(frozen=True)
class Quality:
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
    on_cpu: bool = True,
) -> list[Quality]:
    """PSNR and SSIM of all images, noise levels and methods.

    Args:
        folders, noises, methods: what is compared.
        channels: of the images.
        memory_limit: bytes for a network's intermediate results.
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
    results, seen = [], set()
    total = sum(len(paths) for _, paths in files) * len(noises) * len(methods)
    with Progress(total, "image") as progress:
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
                        results.append(
                            Quality(
                                folder.name, path.name, noise, label, psnr(found, clean),
                                ssim(found, clean), seconds,
                                image.shape[0] * image.shape[1] / 1e6,
                            )
                        )
                        progress.update()
    return results


def report(results: Sequence[Quality]) -> str:
    """A Markdown table of means for each folder, then one row per image for each level."""
    sections = []
    for folder in dict.fromkeys(s.folder for s in results):
        here = [s for s in results if s.folder == folder]
        sections.append(f"## {folder}\n\n{_means(here)}")
        for noise in dict.fromkeys(s.noise for s in here):
            part = [s for s in here if s.noise == noise]
            sections.append(f"PSNR per image, {noise.heading}:\n\n{_per_image(part)}")
    return "\n\n".join(sections) + "\n"


def _means(results: Sequence[Quality]) -> str:
    noises = list(dict.fromkeys(s.noise for s in results))
    columns = ["method"]
    columns += [f"{name} {noise.heading}" for noise in noises for name in ("PSNR", "SSIM")]
    rows = []
    for method in dict.fromkeys(s.method for s in results):
        own = [s for s in results if s.method == method]
        row = [method]
        for noise in noises:
            part = [s for s in own if s.noise == noise]
            row += [f"{_mean(s.psnr for s in part):.3f}", f"{_mean(s.ssim for s in part):.4f}"]
        speed = sum(s.seconds for s in own) / sum(s.megapixels for s in own)
        rows.append([*row, f"{speed:.1f}"])
    return markdown_table([*columns, "s/MP"], rows)


def _per_image(results: Sequence[Quality]) -> str:
    methods = list(dict.fromkeys(s.method for s in results))
    of = {(s.image, s.method): s.psnr for s in results}
    images = dict.fromkeys(s.image for s in results)
    rows = [[image, *(f"{of[image, method]:.2f}" for method in methods)] for image in images]
    return markdown_table(["image", *methods], rows)


def _mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def as_csv(results: Sequence[Quality]) -> str:
    return csv_text(
        ["folder", "image", "noise", "method", "psnr", "ssim", "seconds"],
        [
            [
                s.folder, s.image, s.noise.label, s.method,
                f"{s.psnr:.5f}", f"{s.ssim:.6f}", f"{s.seconds:.4f}",
            ]
            for s in results
        ],
    )


def psnr(found: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal to noise ratio in dB over the whole image, peak 1; infinite where equal."""
    error = float(np.mean((found.astype(np.float64) - clean) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(found: np.ndarray, clean: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004): 11×11 Gaussian window of σ 1.5, population
    moments, mean over the windows that lie inside the image; of colours, the channels' mean.

    Raises:
        ValueError: images smaller than the window.
    """
    if min(clean.shape[:2]) < _WINDOW:
        raise ValueError(f"SSIM wants {_WINDOW}×{_WINDOW} pixels at least, got {clean.shape}")
    x, y = (np.atleast_3d(image).astype(np.float64) for image in (found, clean))
    return float(np.mean([_ssim(x[..., c], y[..., c]) for c in range(x.shape[2])]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    half = _WINDOW // 2

    def mean(image: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(image, (_WINDOW, _WINDOW), _SIGMA)
        return smooth[half:-half, half:-half]

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    top = (2 * mx * my + _C1) * (2 * cov + _C2)
    return float((top / ((mx**2 + my**2 + _C1) * (vx + vy + _C2))).mean())
