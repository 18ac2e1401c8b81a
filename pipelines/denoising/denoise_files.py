"""Image files denoised one by one, each written whole."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from n3match.datasets.denoising.image_files import (
    SUFFIXES,
    check_fits,
    check_suffix,
    encoded,
    images_in,
    read_image,
)
from n3match.datasets.images import HEIC_SUFFIXES, ImageFile, turn_in_words
from n3match.denoising import Denoiser, denoise
from n3match.files.whole import check_target, write_whole
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.plots.before_after import plot_before_after
from n3match.pipelines.common.progress import Progress, duration, is_quiet
from n3match.weights import FAST_DENOISER, default_denoiser

#: Of the work left after the first tile: where it takes longer, what would be faster is said.
SLOW_S = 60.0
_MEMORY = (1, 2, 4, 8, 16)  # gigabytes that are suggested
_LESS_WORK = 0.9  # by more memory: what is worth a word


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        source, target, picture: files.
        stored: pixels aren't turned by an EXIF orientation.
    """

    source: Path
    target: Path
    picture: Path | None
    stored: bool = False

    def read(self) -> tuple[np.ndarray, int]:
        """The image, of which it is known that its result can be written; its EXIF orientation.

        Raises:
            ValueError, OSError: naming the file.
        """
        check_suffix(self.target)
        check_target(self.target)
        if self.picture is not None:
            check_target(self.picture, ".png")
        file = ImageFile(self.source)
        image = read_image(file, stored=self.stored)
        check_fits(image, self.target)
        return image, file.orientation


class DenoisedFiles:
    """Images denoised, with progress; those that can't be are told of first.

    Args:
        jobs: what there is to do.
        nets: the networks for images of 1 and of 3 channels; one and the same, maybe.
        sigma: of the noise in 8-bit units; None: estimated.
        memory_limit: bytes.
        chosen: whether other networks were asked for than the default ones.

    Attributes:
        turned: EXIF orientations of the photographs that have one, by their files.
    """

    def __init__(self, jobs: list[Job], nets: dict[int, Denoiser], sigma: float | None,
                 memory_limit: int, chosen: bool = False):
        self.jobs, self.nets, self.sigma, self.memory_limit = jobs, nets, sigma, memory_limit
        self._fast_would_do = not chosen  # colours it does one by one
        self.turned: dict[Path, int] = {}
        self.done = 0
        self._began = 0.0
        self._hinted = is_quiet()

    def run(self) -> None:
        """Raises: where there is but one image, whatever it fails for."""
        sizes = {}
        with Progress(len(self.jobs), "image") as bar:
            bar.describe("reading")
            for job in self.jobs:
                try:
                    image, orientation = job.read()
                    self._check(image, job)
                except (ValueError, OSError, MemoryError) as error:
                    self._failed(error, bar)
                    continue
                finally:
                    bar.update()
                sizes[job] = image.shape
                self._fast_would_do &= image.ndim == 2
                if orientation != 1:
                    self.turned[job.source] = orientation
        megapixels = {job: shape[0] * shape[1] / 1e6 for job, shape in sizes.items()}
        self._began = time.monotonic()
        before = 0.0
        with Progress(sum(megapixels.values()), "megapixel") as bar:
            for job in sizes:
                bar.describe(job.source.name)

                def progress(share: float, before: float = before, job: Job = job) -> None:
                    bar.reach(before + share * megapixels[job])
                    self._hint(bar, sizes[job])

                try:
                    self._denoise(job, progress)
                    self.done += 1
                except (ValueError, OSError, MemoryError) as error:
                    self._failed(error, bar)
                before += megapixels[job]
                bar.reach(before)

    def _check(self, image: np.ndarray, job: Job) -> None:
        """Whether there is memory for the smallest tiles."""
        shape = image.shape
        try:
            self._net(shape).work(*shape[:2], self.memory_limit)
        except ValueError as error:
            needed = next((m for m in _MEMORY if self._work(shape, m) < math.inf), None)
            hint = "" if needed is None else f"; give --memory {needed}"
            raise ValueError(f"{job.source}: {error}{hint}") from error

    def _net(self, shape: tuple[int, ...]) -> Denoiser:
        """For an image of this shape; alpha isn't denoised."""
        return self.nets[3 if len(shape) == 3 else 1]

    def _work(self, shape: tuple[int, ...], gigabytes: int) -> float:
        """Infinite where so much memory doesn't do."""
        try:
            return self._net(shape).work(*shape[:2], gigabytes << 30)
        except ValueError:
            return math.inf

    def _denoise(self, job: Job, progress) -> None:
        image, _ = job.read()
        alpha = image[..., 3:] if image.ndim == 3 and image.shape[2] == 4 else None
        pixels = image if alpha is None else image[..., :3]
        try:
            done = denoise(
                pixels, self.sigma, weights=self._net(image.shape), memory_limit=self.memory_limit,
                progress=progress,
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{job.source}: {error}") from error
        content = encoded(done if alpha is None else np.concatenate([done, alpha], 2), job.target)
        write_whole(job.target, content)
        if job.picture is not None:
            plot_before_after(job.picture, pixels, done)

    def _failed(self, error: Exception, bar: Progress) -> None:
        if len(self.jobs) == 1:
            raise error
        message = " ".join(str(error).split()) or type(error).__name__
        bar.say(f"n3match: error: {message}")

    def _hint(self, bar: Progress, shape: tuple[int, ...]) -> None:
        """After the first tile: how long it will take, and what would be faster."""
        if self._hinted:
            return
        self._hinted = True
        passed = time.monotonic() - self._began
        left = passed / bar.done * (bar.total - bar.done)
        if left > SLOW_S:
            ways = "; ".join(self.faster(shape))
            bar.say(f"n3match: note: this will take about {duration(left)}; faster: {ways}")

    def faster(self, shape: tuple[int, ...]) -> list[str]:
        """What would make an image of this shape be done sooner, by options first."""
        net = self._net(shape)
        device = next(net.parameters()).device
        ways = []
        if device.type == "cpu" and torch.cuda.is_available():
            ways.append("--device cuda")
        if net.products_in is None and (device.type != "cpu" or _multiplies_bfloat16()):
            ways.append("--half")
        if self._fast_would_do:
            ways.append(f"--weights {FAST_DENOISER} (a quarter of the time, not quite as clean)")
        now = net.work(*shape[:2], self.memory_limit)
        more = (m for m in _MEMORY if m << 30 > self.memory_limit)
        shares = ((m, self._work(shape, m) / now) for m in more)
        gigabytes, share = next(((m, s) for m, s in shares if s < _LESS_WORK), (0, 1.0))
        if gigabytes:
            ways.append(f"--memory {gigabytes} ({1 - share:.0%} less work: tiles overlap less)")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        if device.type == "cpu" and torch.get_num_threads() < (cores or 1) // 2:
            ways.append(
                f"more threads (OMP_NUM_THREADS; now {torch.get_num_threads()}, {cores} cores)"
            )
        if device.type == "cpu" and not torch.cuda.is_available():
            ways.append("a machine with a GPU")
        return [*ways, "smaller images (the time goes with their pixels)"]


def _multiplies_bfloat16() -> bool:
    """Whether the CPU does; where it doesn't, bfloat16 is slower than float32."""
    # Of newer PyTorch; where it can't say, nothing is suggested.
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def jobs_of(source: Path, target: Path, picture: Path | None, stored: bool = False) -> list[Job]:
    """One for a file, one for each image of a folder.

    Raises:
        ValueError, OSError: nothing to do, or nowhere to put it.
    """
    if not source.is_dir():
        return [Job(source, target, picture, stored)]
    found = images_in(source)
    for folder in (target, picture):
        if folder is None:
            continue
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder}: is a file, wanted a folder for {source}")
        if not folder.exists() and folder.suffix.lower() in SUFFIXES:
            raise ValueError(
                f"{folder}: looks like a file, wanted a folder for the images of {source}"
            )
    jobs = [
        Job(path, target / _written_as(path), picture and picture / f"{path.stem}.png", stored)
        for path in found
    ]
    targets: dict[Path, Path] = {}
    for job in jobs:
        other = targets.setdefault(job.target, job.source)
        if other != job.source:
            raise ValueError(f"{job.target}: would be written for {other} and for {job.source}")
    for folder in (target, picture):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    return jobs


def _written_as(source: Path) -> str:
    return f"{source.stem}.png" if source.suffix.lower() in HEIC_SUFFIXES else source.name


def denoise_files(
    source: Path,
    target: Path,
    picture: Path | None,
    weights: str | None,
    sigma: float | None,
    memory_limit: int,
    *,
    device: str = "cpu",
    half: bool = False,
    stored: bool = False,
) -> DenoisedFiles:
    """An image or all of a folder; each that fails is told by a line on standard error.

    Whether an image can be read and its result written is found out before any is denoised.

    Args:
        source, target, picture: files, or folders.
        weights: name or file of the network; None: what `n3match.denoise` takes.
        device, half: see `devices.placed`.
        sigma: of the noise in 8-bit units; None: estimated.
        memory_limit: bytes.
        stored: photographs aren't turned by an EXIF orientation.

    Raises:
        ValueError, OSError: see `jobs_of`; no such weights. Where there is but one image also
            MemoryError, and whatever it fails for.
    """
    # Features behind a trained ReLU can be denormal, which slows a CPU down many times.
    torch.set_flush_denormal(True)
    jobs = jobs_of(source, target, picture, stored)
    names = {channels: weights or default_denoiser(channels) for channels in (1, 3)}
    loaded = {
        name: placed(Denoiser.from_pretrained(name), device, half) for name in set(names.values())
    }
    nets = {channels: loaded[name] for channels, name in names.items()}
    files = DenoisedFiles(jobs, nets, sigma, memory_limit, chosen=weights is not None)
    files.run()
    return files


def describe_turns(files: DenoisedFiles) -> str:
    """What was done about EXIF orientations, in a line; "" where there are none."""
    if not files.turned:
        return ""
    words = {turn_in_words(orientation) for orientation in files.turned.values()}
    how = words.pop() if len(words) == 1 else "turned"
    count = len(files.turned)
    which = str(next(iter(files.turned))) if count == 1 else f"{count} photographs"
    if files.jobs[0].stored:
        return f"{which}: not {how} as EXIF says; the result, without EXIF data, is as stored"
    return f"{which}: {how}, as EXIF says; the result has no EXIF data"
