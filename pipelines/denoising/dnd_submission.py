"""Files that the server of the Darmstadt Noise Dataset scores: one for each crop, and bundles.

    0001_01.mat          `Idenoised_crop`: image 1, crop 1
    bundled/0001.mat     `Idenoised`: a cell for each crop, `israw`, `eval_version`
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError

from n3match.pipelines.common.tables import write_text_whole
from n3match.pipelines.common.whole_file import whole_file

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
            write_text_whole(described, text)

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
        path.parent.mkdir(exist_ok=True)
        _save(path, {"Idenoised": cells, "israw": self.raw, "eval_version": _VERSION})

    def _path(self, image: int, crop: int) -> Path:
        return self.folder / f"{image:04d}_{crop:02d}.mat"


def _save(path: Path, content: dict) -> None:
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
