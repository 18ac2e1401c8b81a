"""Values on the command line that several commands read alike."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from n3match.files.whole import check_target


def given_path(text: str) -> Path:
    """A file or folder of this machine."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text}: is a URL, wanted a file: download it first")
    return Path(text)


def output_file(*suffixes: str) -> Callable[[str], Path]:
    """A type of arguments: a file to write, which is found out before any work.

    Args:
        suffixes: one of which the name has to end in, in small or large letters; none: anything.
    """

    def parse(text: str) -> Path:
        path = given_path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            wanted = " or ".join(suffixes)
            raise argparse.ArgumentTypeError(f"{text}: wanted a name that ends in {wanted}")
        try:
            check_target(text)
        except OSError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return path

    return parse


def output_folder(text: str) -> Path:
    """A type of arguments: a folder to write into, made where it isn't there."""
    path = given_path(text)
    try:
        check_folder(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("out: ")) from error
    return path


def parse_sigma(text: str) -> float | None:
    """"auto" (None) or a number of 8-bit units."""
    if text == "auto":
        return None
    (value,) = _numbers(text, 1) or (math.nan,)
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(f"wanted auto or a number from 0 to 255, got {text!r}")
    return value


def parse_probability(text: str) -> float:
    """A number in [0, 1]."""
    (value,) = _numbers(text, 1) or (math.nan,)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"wanted a number from 0 to 1, got {text!r}")
    return value


def add_memory_argument(parser: argparse.ArgumentParser) -> None:
    """--memory GB, to bytes."""
    parser.add_argument(
        "--memory", type=_gigabytes, default=1 << 30, metavar="GB",
        help="for intermediate results: larger images are done in tiles (default: 1)",
    )


def _gigabytes(text: str) -> int:
    (value,) = _numbers(text, 1) or (math.nan,)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"wanted a positive number of gigabytes, got {text!r}")
    return int(value * 2**30)


def add_filter_argument(parser: argparse.ArgumentParser, more: str = "") -> None:
    """--filter NAME; `more`: what else it may be."""
    parser.add_argument(
        "--filter", default="sift", metavar="NAME",
        help=f'shipped weights ("sift", "sift-cnnet", …) or a file of weights{more} '
        "(default: %(default)s)",
    )


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --half, for `devices.placed`."""
    parser.add_argument(
        "--device", default="cpu", metavar="cpu|cuda|…",
        help="of the networks; results are the same but for rounding (default: %(default)s)",
    )
    parser.add_argument(
        "--half", action="store_true",
        help="matrix products of the networks in half precision: float16 on a GPU, for denoisers "
        "bfloat16 on a CPU",
    )


def add_stored_pixels_argument(parser: argparse._ActionsContainer, of: str = "") -> None:
    """--stored-pixels; `of`: more of what it is about."""
    parser.add_argument(
        "--stored-pixels", action="store_true",
        help=f"don't turn photographs by their EXIF orientation, which cv2.imread does too{of}",
    )


def cores_of_a_process() -> int:
    """How many cores there are for each process that `torchrun` started on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def parse_intrinsics(text: str) -> np.ndarray:
    """"fx,fy,cx,cy" in pixels to a (3, 3) camera matrix."""
    numbers = _numbers(text, 4)
    if not numbers or min(numbers[:2]) <= 0:
        raise argparse.ArgumentTypeError(
            f"wanted four numbers fx,fy,cx,cy with positive focal lengths, got {text!r}"
        )
    fx, fy, cx, cy = numbers
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def parse_distortion(text: str) -> np.ndarray:
    """"k1,k2,p1,p2[,k3]" to (4,) or (5,) coefficients."""
    numbers = _numbers(text, 4, 5)
    if not numbers:
        raise argparse.ArgumentTypeError(
            f"wanted four or five numbers k1,k2,p1,p2[,k3], got {text!r}"
        )
    return np.array(numbers)


def _numbers(text: str, *counts: int) -> list[float]:
    """Finite numbers between commas; nothing where one of them isn't, or their count is another."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if len(numbers) in counts and all(map(math.isfinite, numbers)) else []


def check_at_least(least: int, arguments: argparse.Namespace, *names: str) -> None:
    """Raises ValueError for the first of these options that is smaller; None is none."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least {least}, got {value}"
            )


def check_folder(out: str | Path | None) -> None:
    """Asked before the work whose results are written there; `out` need not exist, nor be given.

    Raises:
        OSError: it can't be made or written into.
    """
    if out is None:
        return
    there = next(path for path in (Path(out), *Path(out).parents) if path.exists())
    if there == Path(out) and not there.is_dir():
        raise NotADirectoryError(f"out: {out} is a file, wanted a folder")
    if not there.is_dir():
        raise NotADirectoryError(f"out: {out} can't be made: {there} is a file")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"out: {out}: the folder {there} is not writable")
