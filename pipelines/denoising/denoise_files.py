"""Image files denoised one by one, each written whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from n3match.datasets.denoising.image_files import check_suffix, encoded, images_in, read_image
from n3match.denoising import Denoiser, denoise
from n3match.denoising.denoise import as_denoiser
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.plots.before_after import plot_before_after
from n3match.whole_file import check_target, write_whole


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
    write_whole(job.target, content)
    if job.picture is not None:
        plot_before_after(job.picture, pixels, done)


def jobs_of(source: Path, target: Path, picture: Path | None) -> list[Job]:
    """One for a file, one for each image of a folder.

    Raises:
        ValueError, OSError: nothing to do, or nowhere to put it.
    """
    if not source.is_dir():
        if picture is not None:
            check_target(picture, ".png")
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


def denoise_files(
    source: Path,
    target: Path,
    picture: Path | None,
    weights: str,
    sigma: float | None,
    memory_limit: int,
) -> tuple[int, int]:
    """An image or all of a folder; each that fails is told by a line on standard error.

    Returns:
        How many were done, of how many.

    Raises:
        ValueError, OSError: see `jobs_of`; no such weights. Where there is but one image also
            MemoryError, and whatever it fails for.
    """
    # Features behind a trained ReLU can be denormal, which slows a CPU down many times.
    torch.set_flush_denormal(True)
    net = as_denoiser(weights)
    jobs = jobs_of(source, target, picture)
    failed = 0
    with Progress(len(jobs), "image") as bar:
        for number, job in enumerate(jobs):

            def progress(share: float, number: int = number) -> None:
                bar.reach(number + share)

            bar.describe(job.source.name)
            try:
                denoise_file(job, net, sigma, memory_limit, progress)
            except (ValueError, OSError, MemoryError) as error:
                if len(jobs) == 1:
                    raise
                failed += 1
                message = " ".join(str(error).split()) or type(error).__name__
                bar.say(f"n3match: error: {message}")
            progress(1.0)
    return len(jobs) - failed, len(jobs)
