"""Cameras of images by their names, from the best source that knows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from n3match.datasets.images import ImageFile
from n3match.datasets.scenes.colmap import model_folder
from n3match.files.given import inside, read_text
from n3match.geometry import calibrated_points, guess_intrinsics
from n3match.plugins.colmap.model import (
    ColmapCamera,
    UnsupportedCamera,
    camera_from_raw,
    read_colmap_model,
)
from n3match.plugins.colmap.model_files import CAMERA_MODELS, RawCamera

MODEL, LIST, EXIF = "from the COLMAP model", "from the intrinsics list", "from EXIF"
ASSUMED = "assumed (focal length 1.2 × the longer side)"
_MARGIN = 2.0  # pixels that a keypoint may lie outside its image


@dataclass
class ImageCameras:
    """Looks up cameras: COLMAP model, intrinsics list, EXIF, else an assumed focal length.

    Attributes:
        model, listed: cameras by image name.
        images: folder of the photographs, or None.
        sources: how many images had their camera from where.
        unsupported: why the camera of an image, by its name, can't be used.
    """

    model: dict[str, ColmapCamera]
    listed: dict[str, ColmapCamera]
    images: Path | None
    sources: Counter
    unsupported: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, colmap: Path | None, intrinsics: Path | None, images: Path | None
    ) -> ImageCameras:
        """
        Args:
            colmap: a folder with a COLMAP model. intrinsics: see `read_intrinsics_list`. images:
                folder of the photographs, for their EXIF data.

        Raises:
            FileNotFoundError, ValueError: naming the file and what is wrong with it.
        """
        model, listed, unsupported = {}, {}, {}
        if colmap is not None:
            folder = model_folder(colmap)
            if folder is None:
                raise FileNotFoundError(f"--colmap: {colmap} has no COLMAP model")
            found = read_colmap_model(folder)
            model = {image.name: found.camera_of(i) for i, image in found.images.items()}
            unsupported |= found.unsupported
        if intrinsics is not None:
            listed, unlisted = read_intrinsics_list(intrinsics)
            unsupported |= {name: why for name, why in unlisted.items() if name not in model}
        if images is not None and not images.is_dir():
            raise FileNotFoundError(f"--images: {images}: no such folder")
        return cls(model, listed, images, Counter(), unsupported)

    def camera(self, name: str, size: tuple[int, int] | None) -> ColmapCamera:
        """The camera of an image whose keypoints are in pixels of a `size` image.

        Raises:
            UnsupportedCamera: see `unsupported`. ValueError: the camera is of another image size,
            or nothing tells the size.
        """
        for source, cameras in ((MODEL, self.model), (LIST, self.listed)):
            if name in cameras:
                camera = cameras[name]
                if size not in (None, (camera.width, camera.height)):
                    raise ValueError(
                        f"{name}: its keypoints are of an image of {size[0]} x {size[1]} pixels, "
                        f"its camera {source} is for {camera.width} x {camera.height}"
                    )
                self.sources[source] += 1
                return camera
        if name in self.unsupported:
            raise UnsupportedCamera(self.unsupported[name])
        focal = None
        if self.images is not None:
            file = ImageFile(inside(self.images, name, "--images"))
            # hloc and COLMAP look at the pixels as stored, others at turned ones.
            stored, turned = file.size(stored=True), file.size()
            size = size or stored
            wide = {width > height for width, height in (stored, turned)}
            if (size[0] > size[1]) not in wide and stored[0] != stored[1]:
                raise ValueError(
                    f"{file.path}: {stored[0]} x {stored[1]} pixels, its keypoints are of an image "
                    f"of {size[0]} x {size[1]}"
                )
            focal = file.focal_px(*size)
        if size is None:
            raise ValueError(
                f"{name}: no camera is known, and the features file has no image_size to guess "
                "one from; give --colmap, --intrinsics or --images"
            )
        if focal is None:
            self.sources[ASSUMED] += 1
            K = guess_intrinsics(size)
        else:
            self.sources[EXIF] += 1
            K = guess_intrinsics(size, focal)
        return ColmapCamera(*size, K, np.zeros(4), guessed=focal is None)

    def describe(self) -> str:
        """E.g. "12 from EXIF, 3 assumed (…)"."""
        return ", ".join(f"{count} {source}" for source, count in self.sources.items()) or "none"


def read_intrinsics_list(path: Path) -> tuple[dict[str, ColmapCamera], dict[str, str]]:
    """Cameras by image name from lines NAME MODEL WIDTH HEIGHT PARAMETERS….

    Returns:
        The cameras, and of images whose camera can't be used why.

    Raises:
        FileNotFoundError: no such file. ValueError: a line of another form; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    cameras, unsupported = {}, {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        where = f"{path}: line {number}"
        if len(words) < 4 or words[1] not in CAMERA_MODELS:
            raise ValueError(
                f"{where}: found {line!r}, wanted NAME MODEL WIDTH HEIGHT PARAMETERS, MODEL one of "
                f"{', '.join(CAMERA_MODELS)}"
            )
        wanted = CAMERA_MODELS[words[1]][1]
        try:
            width, height = (int(word) for word in words[2:4])
            params = tuple(float(word) for word in words[4:])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if len(params) != wanted:
            raise ValueError(f"{where}: found {len(params)} parameters, wanted {wanted}")
        raw = RawCamera(number, words[1], width, height, params)
        try:
            cameras[words[0]] = camera_from_raw(path, raw)
        except UnsupportedCamera as error:
            unsupported[words[0]] = str(error)
    return cameras, unsupported


def calibrated_keypoints(name: str, keypoints: np.ndarray, camera: ColmapCamera) -> np.ndarray:
    """(N, 2) keypoints on z = 1, NaN where the lens model has no ray.

    Raises:
        ValueError: keypoints outside the camera's image, which are of another image size.
    """
    if len(keypoints):
        low, high = keypoints.min(axis=0), keypoints.max(axis=0)
        size = (camera.width, camera.height)
        if (low < -_MARGIN).any() or (high > np.array(size) + _MARGIN).any():
            raise ValueError(
                f"{name}: keypoints from {low.round(1).tolist()} to {high.round(1).tolist()}, but "
                f"its camera has {size[0]} x {size[1]} pixels: keypoints of another image size?"
            )
    return calibrated_points(keypoints, camera.K, camera.distortion, camera.lens)
