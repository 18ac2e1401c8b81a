"""Keypoints and descriptors through OpenCV: SIFT, RootSIFT, and the binary ORB, BRISK and AKAZE.

RootSIFT compares the histograms by the Hellinger kernel: Arandjelović & Zisserman, "Three things
everyone should know to improve object retrieval", CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from n3match.arguments import flag, number_array, one_of, positive, real, whole

# Of SIFT, see `extract_sift`.
CONTRAST_THRESHOLD = 0.01
# OpenCV multiplies what it is asked for, in 32 bits.
_MOST_KEYPOINTS = 2**24
# More than any use has, and what OpenCV's pyramids still have memory for.
_MOST_LAYERS, _LARGEST_SIGMA, _LARGEST_THRESHOLD = 16, 1000, 1e6


@dataclass(frozen=True)
class Features:
    """Keypoints of one image with their descriptors, strongest first.

    Attributes:
        keypoints: (N, 2) float32, x right and y down in pixels, pixel centres at integers.
        descriptors: (N, 128) float32; binary ones (N, bytes) uint8, eight bits each.
        sizes: (N,) float32, diameter of the keypoint's neighbourhood in pixels (OpenCV's `size`).
        angles: (N,) float32, orientation in degrees in [0, 360), clockwise as seen on the screen
            (OpenCV's `angle`).
        responses: (N,) float32, the detector's contrast response.
        image_size: (width, height) in pixels.
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    sizes: np.ndarray
    angles: np.ndarray
    responses: np.ndarray
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def binary(self) -> bool:
        """Whether descriptors are bits, compared by how many differ (Hamming distance)."""
        return self.descriptors.dtype == np.uint8

    @property
    def sizes_angles(self) -> np.ndarray:
        """(N, 2) float32 sizes and angles."""
        return np.stack([self.sizes, self.angles], axis=1)


def extract_sift(
    image: np.ndarray,
    max_keypoints: int = 2000,
    *,
    root: bool = True,
    contrast_threshold: float = CONTRAST_THRESHOLD,
    edge_threshold: float = 10.0,
    octave_layers: int = 3,
    sigma: float = 1.6,
) -> Features:
    """Detect and describe SIFT keypoints.

    A point with several dominant orientations gives several keypoints at one position, as usual.
    An image without texture gives N = 0.

    Args:
        image: (H, W) uint8, grey.
        max_keypoints: at most so many keypoints, the strongest (OpenCV itself may return a few
            more than it is asked for).
        root: RootSIFT descriptors (unit norm) instead of OpenCV's integer-valued ones (0..255).
        contrast_threshold: OpenCV's; its own default of 0.04 leaves weakly textured photographs
            with a few hundred keypoints, 0.01 fills 2 000 on most.
        edge_threshold, octave_layers, sigma: OpenCV's.

    Raises:
        TypeError: `image` is not a uint8 array.
        ValueError: `image` is not (H, W) with H, W > 0, or an option is out of range.
    """
    max_keypoints, root = _check(image, max_keypoints), flag("root", root)
    octave_layers = whole("octave_layers", octave_layers, 1, _MOST_LAYERS)
    # Thresholds below 0 and far above all values are how others say "keep all".
    numbers = {"contrast_threshold": contrast_threshold, "edge_threshold": edge_threshold}
    for name, value in numbers.items():
        numbers[name] = real(name, value)
        if not abs(numbers[name]) <= _LARGEST_THRESHOLD:
            raise ValueError(
                f"{name} must lie within ±{_LARGEST_THRESHOLD:g}, got {numbers[name]:g}"
            )
    sigma = positive("sigma", sigma)
    if sigma > _LARGEST_SIGMA:
        raise ValueError(f"sigma must lie in 0 … {_LARGEST_SIGMA}, got {sigma:g}")
    # Without the precise upscale all keypoints sit about a quarter of a pixel off.
    detector = cv2.SIFT.create(
        nfeatures=max_keypoints,
        nOctaveLayers=octave_layers,
        contrastThreshold=numbers["contrast_threshold"],
        edgeThreshold=numbers["edge_threshold"],
        sigma=sigma,
        enable_precise_upscale=True,
    )
    features = _strongest(detector, image, max_keypoints, np.zeros((0, 128), np.float32))
    descriptors = features.descriptors.astype(np.float32)
    return replace(features, descriptors=root_sift(descriptors) if root else descriptors)


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Square root of each descriptor after scaling it to sum 1.

    Args:
        descriptors: (N, D) non-negative histograms, any real dtype.

    Returns:
        (N, D) float32, rows of Euclidean norm 1; an all-zero row stays zero.

    Raises:
        ValueError: not two-dimensional, or a negative or non-finite entry.
    """
    descriptors = number_array("descriptors", descriptors).astype(np.float32)
    if descriptors.ndim != 2:
        raise ValueError(f"descriptors: found shape {descriptors.shape}, wanted (N, D)")
    if descriptors.size and not (np.isfinite(descriptors).all() and descriptors.min() >= 0):
        raise ValueError("descriptors: found a negative or non-finite entry, wanted histograms")
    total = descriptors.sum(axis=1, keepdims=True)
    return np.sqrt(descriptors / np.where(total > 0, total, 1))


# Thresholds are low, so that there are enough keypoints to choose the strongest from.
_BINARY: dict[str, tuple[int, Callable[[int], cv2.Feature2D]]] = {
    "orb": (32, lambda count: cv2.ORB.create(nfeatures=count, fastThreshold=0)),
    "brisk": (64, lambda count: _moved("BRISK").create(thresh=10)),
    "akaze": (61, lambda count: _moved("AKAZE").create(threshold=1e-4)),
}

def _moved(name: str) -> Any:
    """A detector that OpenCV 5 has moved to its contributed modules."""
    return getattr(cv2, name, None) or getattr(cv2.xfeatures2d, name)


#: Kinds of features by name, as `extract_features` takes them.
FEATURES = ("sift", *_BINARY)


def extract_features(image: np.ndarray, kind: str = "sift", max_keypoints: int = 2000) -> Features:
    """Detect and describe keypoints of one of the FEATURES.

    Args:
        image: (H, W) uint8, grey.
        kind: "sift" (RootSIFT, see `extract_sift`), or binary: "orb" (Rublee et al., ICCV 2011),
            "brisk" (Leutenegger et al., ICCV 2011), "akaze" (Alcantarilla et al., BMVC 2013).
        max_keypoints: at most so many keypoints, the strongest.

    Raises:
        TypeError, ValueError: as `extract_sift`; an unknown kind.
    """
    one_of("kind", kind, FEATURES)
    if kind == "sift":
        return extract_sift(image, max_keypoints)
    max_keypoints = _check(image, max_keypoints)
    size, make = _BINARY[kind]
    return _strongest(make(max_keypoints), image, max_keypoints, np.zeros((0, size), np.uint8))


def _check(image: np.ndarray, max_keypoints: int) -> int:
    """The number of keypoints as OpenCV takes it."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image: found {found}, wanted a numpy array of uint8")
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"image: found shape {image.shape}, wanted grey (H, W) with H, W > 0")
    return whole("max_keypoints", max_keypoints, 1, _MOST_KEYPOINTS)


def _strongest(
    detector: cv2.Feature2D, image: np.ndarray, max_keypoints: int, none: np.ndarray
) -> Features:
    """What a detector finds; none: descriptors of an image without texture, (0, D)."""
    found: Sequence[cv2.KeyPoint] = ()
    descriptors = None
    try:
        # In a single row or column there is nothing to find, and OpenCV's AKAZE writes beyond it.
        if min(image.shape) > 1:
            found, descriptors = detector.detectAndCompute(np.ascontiguousarray(image), None)
    except cv2.error as error:  # some of its detectors want more pixels than others
        raise ValueError(
            f"image: {image.shape[1]} x {image.shape[0]} pixels, which OpenCV refuses ({error.err})"
        ) from error
    if descriptors is None or len(found) == 0:
        found, descriptors = (), none
    responses = np.array([k.response for k in found], dtype=np.float32)
    order = np.argsort(-responses, kind="stable")[:max_keypoints]
    return Features(
        keypoints=np.array([k.pt for k in found], dtype=np.float32).reshape(-1, 2)[order],
        descriptors=descriptors[order],
        sizes=np.array([k.size for k in found], dtype=np.float32)[order],
        angles=np.array([k.angle for k in found], dtype=np.float32)[order],
        responses=responses[order],
        image_size=(image.shape[1], image.shape[0]),
    )
