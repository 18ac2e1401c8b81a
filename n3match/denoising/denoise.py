"""Denoised images, from one call (numpy in, numpy out)."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable

import numpy as np
import torch

from n3match.arguments import MODERATE, check_function, check_moderate, real
from n3match.denoising.denoiser import Denoiser
from n3match.denoising.noise_level import estimate_sigma
from n3match.nn import N3NetConfig
from n3match.weights import default_denoiser

MEMORY_LIMIT = 1 << 30
# A network trained for one noise level still does well this far from it.
_TOLERANCE = 0.2
_WHITE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))

Progress = Callable[[float], None]


@functools.lru_cache(maxsize=4)
def _loaded(name: str) -> Denoiser:
    return Denoiser.from_pretrained(name)


def as_denoiser(value: Denoiser | str | os.PathLike) -> Denoiser:
    """A network from itself, a shipped name or a path; networks loaded by name are kept.

    Raises:
        FileNotFoundError, ValueError: as `Denoiser.from_pretrained`.
    """
    if isinstance(value, Denoiser):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"weights must be a Denoiser, a name or a path, got {type(value).__name__}"
        )
    try:
        return _loaded(os.fspath(value))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise type(error)(str(error).replace("name_or_path", "weights")) from error


def denoise(
    image: np.ndarray,
    sigma: float | None = None,
    *,
    weights: Denoiser | str | os.PathLike | None = None,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
) -> np.ndarray:
    """Removes white Gaussian noise.

    Args:
        image: (H, W) grey or (H, W, C) colour; uint8, uint16, or floats of which 1 is white. Not
            to be clipped or scaled before; any size. Three channels are red, green and blue (OpenCV
            reads them the other way round). Networks for grey images do the channels one by one.
        sigma: standard deviation of the noise in 8-bit units (25: 25/255 of white), whatever the
            image's type. None: estimated from the image where the network wants to know it.
        weights: a `Denoiser`, a shipped name, or a path. None: "n3net", for three channels
            "n3net-colour".
        memory_limit: bytes for intermediate results: larger images are done in tiles, with the same
            result.
        progress: called with the share of the work that is done, now and then.

    Returns:
        The same shape and type; integers are rounded and clipped.

    Raises:
        ValueError, TypeError: naming the argument. FileNotFoundError: no such weights.
    """
    _check_image(image)
    channels = image.shape[2] if image.ndim == 3 else 1
    net = as_denoiser(default_denoiser(channels) if weights is None else weights)
    if net.config.maps == ("a", "b"):
        raise ValueError("weights: a network for raw noise: use denoise_raw with its a and b")
    unit = _unit(image)
    maps: tuple[float, ...] = ()
    if sigma is not None:
        sigma = _checked_sigma(sigma, net)
    if net.config.maps:
        # Before this, so that an image too small to say is only asked where it must.
        value = estimate_sigma(unit) if sigma is None else sigma / 255
        maps = (_within(value, net),)
    return _stored(_restored(unit, maps, net, memory_limit, progress), image.dtype)


def denoise_raw(
    image: np.ndarray,
    a: float,
    b: float,
    *,
    weights: Denoiser | str | os.PathLike,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
) -> np.ndarray:
    """Removes a camera's noise of variance a·x + b from linear intensities x.

    Args:
        image: (H, W), or (H, W, 4): half-resolution planes of a Bayer pattern, as the network was
            trained; types as in `denoise`, white at 1.
        a, b: of the noise model, for intensities of 0 … 1; both 0 or more.
        weights, memory_limit, progress: as in `denoise`.

    Returns:
        The same shape and type.

    Raises:
        ValueError, TypeError: naming the argument. FileNotFoundError: no such weights.
    """
    _check_image(image)
    net = as_denoiser(weights)
    if net.config.maps != ("a", "b"):
        raise ValueError("weights: not a network for raw noise (which has maps of a and b)")
    levels = real("a", a), real("b", b)
    for name, value in zip("ab", levels):
        if not 0 <= value <= MODERATE:
            raise ValueError(f"{name} must be a number from 0 to {MODERATE:g}, got {value:g}")
    found = _restored(_unit(image), levels, net, memory_limit, progress)
    return _stored(found, image.dtype)


def _check_image(image: np.ndarray) -> None:
    """Pixels of (H, W) or (H, W, C), of a type that is known.

    Raises:
        TypeError: other types than uint8, uint16 and floats. ValueError: no pixels, another shape,
            NaN, infinite numbers or such beyond ±1e9.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a numpy array, got {type(image).__name__}")
    if image.dtype not in _WHITE and image.dtype not in _FLOATS:
        raise TypeError(
            f"image must be uint8, uint16 or floating point (0 … 1), got {image.dtype}"
        )
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"image must have shape (H, W) or (H, W, C), got {image.shape}")
    if image.dtype in _FLOATS:
        check_moderate("image", image)


def _unit(image: np.ndarray) -> np.ndarray:
    """float32, white at 1."""
    return image.astype(np.float32) / np.float32(_WHITE.get(image.dtype, 1))


def _stored(unit: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Back: integers rounded and clipped, floats as they are."""
    if dtype not in _WHITE:
        largest = np.finfo(dtype).max  # float16 ends before what a network may answer
        return np.clip(unit, -largest, largest).astype(dtype)
    return np.clip(np.rint(unit * _WHITE[dtype]), 0, _WHITE[dtype]).astype(dtype)


def accepted_sigma(config: N3NetConfig) -> tuple[float, float]:
    """Lowest and highest σ, in 8-bit units, that `denoise` takes with a network for Gaussian
    noise."""
    low, high = config.sigma or (0.0, math.inf)
    return low * (1 - _TOLERANCE), min(high * (1 + _TOLERANCE), 255.0)


def _checked_sigma(sigma: float, net: Denoiser) -> float:
    sigma = real("sigma", sigma)
    lowest, highest = accepted_sigma(net.config)
    if not lowest <= sigma <= highest:
        low, high = net.config.sigma or (0.0, math.inf)
        shown = f"{low:g} … {high:g}" if high > low else f"{low:g}"
        if high == math.inf:
            shown = "0 … 255"
        raise ValueError(
            f"sigma: these weights are for noise of {shown} in 8-bit units, got {sigma:g}"
        )
    return sigma


def _within(sigma: float, net: Denoiser) -> float:
    """In units of white, and within what the network has seen."""
    low, high = net.config.sigma or (0.0, 255.0)
    return min(max(sigma, low / 255), high / 255)


def _restored(
    unit: np.ndarray,
    maps: tuple[float, ...],
    net: Denoiser,
    memory_limit: int,
    progress: Progress | None,
) -> np.ndarray:
    if progress is not None:
        check_function("progress", progress)
    planes = unit[None] if unit.ndim == 2 else np.moveaxis(unit, 2, 0)
    wanted = net.config.channels
    if len(planes) != wanted and wanted != 1:
        raise ValueError(
            f"image: these weights are for {wanted} channels, got {len(planes)} ({unit.shape})"
        )
    groups = [planes] if wanted > 1 else [plane[None] for plane in planes]
    found = []
    for number, group in enumerate(groups):

        def part_done(share: float, number: int = number) -> None:
            if progress is not None:
                progress((number + share) / len(groups))

        found.append(_restored_planes(group, maps, net, memory_limit, part_done))
    together = np.concatenate(found)
    return together[0] if unit.ndim == 2 else np.moveaxis(together, 0, 2)


def _restored_planes(
    planes: np.ndarray,
    maps: tuple[float, ...],
    net: Denoiser,
    memory_limit: int,
    progress: Progress,
) -> np.ndarray:
    _, height, width = planes.shape
    # A network with blocks wants a patch at least; mirrored pixels have the same noise.
    size = net.config.smallest_side
    more = [(0, 0), (0, max(0, size - height)), (0, max(0, size - width))]
    planes = np.pad(planes, more, mode="symmetric")
    like = next(net.parameters())
    x = torch.from_numpy(np.ascontiguousarray(planes)).to(like)[None]
    if maps:
        constant = x.new_tensor(maps)[None, :, None, None].expand(-1, -1, *x.shape[2:])
        x = torch.cat([x, constant], 1)
    out = net.restore(x, memory_limit=memory_limit, progress=progress)
    return out[0, :, :height, :width].float().cpu().numpy()
