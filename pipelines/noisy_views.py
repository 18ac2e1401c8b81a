"""Photographs of scenes with noise added and taken out again, and their keypoints.

What takes long, the denoised images, is kept in a folder as PNG files and used again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from n3match.datasets.image_files import encoded, read_image
from n3match.datasets.scene_source import View
from n3match.pipelines.denoise_methods import Method, MethodSource
from n3match.pipelines.evaluation_noise import noisy_image
from n3match.pipelines.pair_jobs import DetectionOptions, ViewFeatures, features_of
from n3match.pipelines.photograph import read_photograph
from n3match.pipelines.whole_file import whole_file


@dataclass(frozen=True)
class Treatment:
    """Noise of σ (8-bit units; 0: none) and what is done against it."""

    sigma: float
    method: MethodSource


class NoisyViews:
    """Features of views whose photographs are treated.

    The noise of a photograph depends on its scene, its name and σ alone. It is added to the
    reduced grey image; the sum is rounded and clipped to 8 bits, as a file would be.

    Args:
        folder: for the denoised images.
        max_size: photographs are reduced so that the longer side has so many pixels.
        max_keypoints: for each.
        memory_limit: of the networks, bytes.
    """

    def __init__(self, folder: Path, max_size: int, max_keypoints: int, memory_limit: int):
        self.folder, self.max_size = folder, max_size
        self.max_keypoints, self.memory_limit = max_keypoints, memory_limit
        self._methods: dict[MethodSource, Method] = {}

    def fingerprint(self, scene: str, view: View, treatment: Treatment) -> str:
        """Text that changes with anything the features depend on."""
        camera = (view.K.tolist(), view.distortion.tolist(), view.lens, view.size)
        return _hash([self._image_key(scene, view, treatment), camera, self.max_keypoints])

    def features(self, scene: str, view: View, treatment: Treatment) -> tuple[View, ViewFeatures]:
        """The view at the size of the reduced photograph, and its keypoints.

        Raises:
            OSError, ValueError: naming the photograph that can't be used.
        """
        photo = read_photograph(view.path, K=view.K, max_size=self.max_size)
        if view.size is not None and view.size != photo.size:
            raise ValueError(
                f"{view.path}: {photo.size[0]} x {photo.size[1]} pixels, its camera has "
                f"{view.size[0]} x {view.size[1]}"
            )
        height, width = photo.image.shape
        reduced = replace(view, K=photo.K, size=(width, height))
        image = self._treated(scene, view, treatment, photo.image)
        return reduced, features_of(image, reduced, DetectionOptions(self.max_keypoints))

    def _treated(
        self, scene: str, view: View, treatment: Treatment, clean: np.ndarray
    ) -> np.ndarray:
        if treatment.sigma == 0:
            return clean
        index = zlib.crc32(f"{scene}/{view.name}".encode())
        noisy = noisy_image(clean.astype(np.float32) / np.float32(255), treatment.sigma, index)
        noisy = _eight_bit(noisy)
        if treatment.method.source == "noisy":
            return noisy
        key = self._image_key(scene, view, treatment)
        readable = f"{scene}-{Path(view.name).stem}-{treatment.sigma:g}-{treatment.method.label}"
        name = re.sub(r"[^\w.-]", "_", readable)
        path = self.folder / f"{name}-{key[:16]}.png"
        if path.exists():
            return read_image(path)
        run = self._methods.get(treatment.method)
        if run is None:
            run = self._methods[treatment.method] = treatment.method.load(self.memory_limit)
        image = _eight_bit(run(noisy.astype(np.float32) / np.float32(255), treatment.sigma))
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(encoded(image, path))
        return image

    def _image_key(self, scene: str, view: View, treatment: Treatment) -> str:
        photograph = hashlib.sha256(view.path.read_bytes()).hexdigest()
        versions = [importlib.metadata.version(name) for name in ("n3match", "torch", "numpy")]
        return _hash([
            scene, view.name, photograph, self.max_size, treatment.sigma,
            treatment.method.fingerprint(), versions,
        ])


def _eight_bit(unit: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(unit * 255), 0, 255).astype(np.uint8)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
