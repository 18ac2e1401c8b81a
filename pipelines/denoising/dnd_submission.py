"""Files that the server of the Darmstadt Noise Dataset scores: one for each crop, and bundles.

    0001_01.mat          `Idenoised_crop`: image 1, crop 1
    bundled/0001.mat     `Idenoised`: a cell for each crop, `israw`, `eval_version`
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from n3match.datasets.denoising.dnd import DndImage, mosaic_places, read_image, read_info
from n3match.files.whole import write_whole
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.denoising.methods import Method, MethodSource, RawMethod

_VERSION = "1.0"


class Submission:
    """The files in one folder.

    Args:
        folder: made where it isn't there.
        raw: raw crops; else sRGB.
        made_by: what determines their pixels.

    Raises:
        ValueError: the folder holds files that something else made.
    """

    def __init__(self, folder: Path, *, raw: bool, made_by: dict):
        self.folder, self.raw = folder, raw
        described = folder / "made-by.json"
        text = json.dumps({**made_by, "raw": raw})
        if described.exists():
            if described.read_text(encoding="utf-8") != text:
                raise ValueError(
                    f"{folder} holds files made with other weights or options: "
                    "give the same ones, or another folder"
                )
        else:
            write_whole(described, text)

    def find(self, image: int, crop: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """A crop that is there already, numbers from 1; None where it isn't, or is something
        else."""
        try:
            found = loadmat(self._path(image, crop)).get("Idenoised_crop")
        except (OSError, ValueError, TypeError, zlib.error, MatReadError):
            return None
        fits = isinstance(found, np.ndarray) and found.shape == shape
        return found if fits and found.dtype == np.float32 else None

    def write_crop(self, image: int, crop: int, pixels: np.ndarray) -> None:
        _save(self._path(image, crop), {"Idenoised_crop": pixels})

    def write_bundle(self, image: int, crops: Sequence[np.ndarray]) -> None:
        cells = np.empty(len(crops), dtype=object)
        for i, pixels in enumerate(crops):
            cells[i] = pixels
        path = self.folder / "bundled" / f"{image:04d}.mat"
        _save(path, {"Idenoised": cells, "israw": self.raw, "eval_version": _VERSION})

    def _path(self, image: int, crop: int) -> Path:
        return self.folder / f"{image:04d}_{crop:02d}.mat"


def _save(path: Path, content: dict) -> None:
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    write_whole(path, buffer.getvalue())


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


def denoise_dataset(
    folder: Path,
    out: Path,
    weights: str,
    *,
    srgb: bool,
    memory_limit: int,
    device: str = "cpu",
    half: bool = False,
) -> tuple[int, int]:
    """The whole dataset; images that fail are told by a line each on standard error.

    Returns:
        How many images were done, of how many.

    Raises:
        OSError, ValueError: no such dataset or method, or `out` holds files of another.
    """
    torch.set_flush_denormal(True)
    method = replace(MethodSource.parse(weights), device=device, half=half)
    run = method.load(memory_limit) if srgb else method.load_raw(memory_limit)
    images = read_info(folder)
    if srgb and any(image.sigma is None for image in images):
        raise ValueError(f"{folder / 'info.mat'}: has no sigma_srgb, which --srgb wants")
    submission = Submission(out, raw=not srgb, made_by={"weights": method.fingerprint()})
    failed = 0
    with Progress(len(images), "image") as progress:
        for image in images:
            try:
                denoise_image(folder, image, submission, run)
            except (ValueError, OSError) as error:
                failed += 1
                progress.say(f"n3match: error: {' '.join(str(error).split())}")
            progress.update()
    return len(images) - failed, len(images)
