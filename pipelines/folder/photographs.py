"""The photographs of a folder and their keypoints, each found once and kept on the disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from n3match.files.whole import write_whole
from n3match.matching import extract_sift
from n3match.pipelines.filtering.image_cameras import ImageCameras, calibrated_keypoints
from n3match.pipelines.filtering.pair_logits import ImageFeatures
from n3match.pipelines.two_view.photograph import read_photograph
from n3match.plugins.colmap.model import ColmapCamera

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif"}
_HELD = 64  # images with their descriptors, a megabyte each


def find_photographs(
    folder: Path, least: int, suffixes: Collection[str] = SUFFIXES
) -> list[str]:
    """Names of the photographs in a folder and those below it, relative to it, sorted.

    Args:
        folder: of the photographs.
        least: number of them that is wanted.
        suffixes: of their names, in small letters.

    Raises:
        FileNotFoundError: no such folder. ValueError: fewer than `least` photographs in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of photographs")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix.lower() in suffixes
    )
    if len(names) < least:
        raise ValueError(f"{folder}: found {len(names)} photographs, wanted {least} or more")
    return names


@dataclass(frozen=True)
class Detection:
    """How keypoints are sought: see `n3match match --help`."""

    max_keypoints: int = 4000
    max_size: int | None = 1600


@dataclass(frozen=True, eq=False)
class PhotographFeatures:
    """Keypoints of one photograph, in pixels of the file as stored: COLMAP and hloc read those.

    Attributes:
        size: (2,) width and height of the file's image.
        keypoints: (N, 2) float32; sizes_angles: (N, 2) float32; responses: (N,) float32.
        descriptors: (N, 128) float32 RootSIFT.
        scale: (1,) of the pixels that keypoints were sought in against the file's, at most 1.
    """

    size: np.ndarray
    keypoints: np.ndarray
    sizes_angles: np.ndarray
    responses: np.ndarray
    descriptors: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Photographs:
    """The photographs of a folder.

    Attributes:
        folder: of the photographs; work: where keypoints are kept, which exists.
        detection: how they are sought.
    """

    folder: Path
    work: Path
    detection: Detection

    def key(self, name: str) -> str:
        """What a photograph's keypoints depend on, as a name: another one when it changes."""
        try:
            stat = (self.folder / name).stat()
            state = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            state = ()
        text = repr((str(self.folder.absolute()), name, state, self.detection))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def extract(self, name: str) -> None:
        """Detect the keypoints of a photograph and keep them, or why there are none."""
        path = self._path(name)
        if path.exists():
            return
        try:
            photo = read_photograph(
                self.folder / name, max_size=self.detection.max_size, stored=True
            )
        except (OSError, ValueError) as error:
            fields = {"problem": np.array(str(error))}
        else:
            found = extract_sift(photo.image, self.detection.max_keypoints)
            scale = float(np.mean(photo.scale))
            features = PhotographFeatures(
                size=np.array(photo.size),
                keypoints=photo.to_file(found.keypoints.astype(np.float64)).astype(np.float32),
                sizes_angles=(found.sizes_angles / [scale, 1]).astype(np.float32),
                responses=found.responses,
                descriptors=found.descriptors,
                scale=np.array([scale]),
            )
            fields = vars(features)
        buffer = io.BytesIO()
        np.savez(buffer, **fields)
        write_whole(path, buffer.getvalue())

    def read(self, name: str) -> PhotographFeatures:
        """The keypoints of a photograph.

        Raises:
            ValueError: it can't be read: why.
        """
        path = self._path(name)
        if not path.exists():  # the photograph was changed meanwhile
            self.extract(name)
        with np.load(path, allow_pickle=False) as found:
            if "problem" in found:
                raise ValueError(str(found["problem"]))
            return PhotographFeatures(**found)

    def _path(self, name: str) -> Path:
        return self.work / "keypoints" / f"{self.key(name)}.npz"


@dataclass
class PhotographReader:
    """Keypoints with cameras, as the filter takes them; those used last are held.

    Attributes:
        photographs: of the folder; cameras: of them.
    """

    photographs: Photographs
    cameras: ImageCameras

    def __post_init__(self) -> None:
        self._image = lru_cache(_HELD)(self._read)

    def image(self, name: str) -> tuple[PhotographFeatures, ImageFeatures]:
        """Keypoints as found, and as the filter takes them.

        Raises:
            ValueError: the photograph or its camera can't be used: why.
        """
        return self._image(name)

    def camera(self, name: str, size: np.ndarray) -> ColmapCamera:
        """The camera of a photograph of a size.

        Raises:
            ValueError: it can't be used: why.
        """
        return self.cameras.camera(name, tuple(size.tolist()))

    def _read(self, name: str) -> tuple[PhotographFeatures, ImageFeatures]:
        found = self.photographs.read(name)
        camera = self.camera(name, found.size)
        pixels = found.keypoints.astype(np.float64)
        x = calibrated_keypoints(name, pixels, camera)
        return found, ImageFeatures(
            pixels, x, camera, found.sizes_angles.astype(np.float64), found.descriptors
        )
