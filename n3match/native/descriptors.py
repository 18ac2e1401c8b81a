"""Nearest neighbours of descriptors by the compiled loops, as of vectors of integers.

N, M vectors of either image, D channels. Nothing is checked here. Work is shared between threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from n3match.native.library import call
from n3match.native.threads import run_tasks

#: Longest vector of integers: the squared distance of any two fits 31 bits, and is below `FAR`.
LONGEST = 23170
#: The distance of what isn't there.
FAR = 2147395601
_TASK_ROWS = 96  # what kernels.c takes at most
_TASKS_A_THREAD = 8  # so that a thread that is held up leaves its work to the others
_CHUNK = 768  # vectors that are laid out in one task, a multiple of any panel
_WORDS, _UNSIGNED_BYTES, _SIGNED_BYTES = range(3)


def _panel(columns: bool) -> int:
    """Vectors of a panel of rows, or of columns."""
    return call("panel", None, columns)


@dataclass(frozen=True)
class Survey:
    """Of the vectors of two images, each less a centre.

    Attributes:
        longest: the largest norm; NaN or inf for an image where a number of it is; of each image.
        whole: whether all are whole numbers.
        bytes: whether all are whole numbers from 0 to 255.
        sums: (D,) float64, of both images' vectors, without the centre.
    """

    longest: tuple[float, float]
    whole: bool
    bytes: bool
    sums: Tensor


def survey(images: Sequence[Tensor], centre: Tensor | None = None) -> Survey:
    """Look through the vectors of two images, (N, D) and (M, D) float32, contiguous.

    centre: (D,) float64; None: 0.
    """
    depth = images[0].shape[1]
    centre = _padded(depth, centre)
    tasks = _chunks(images)
    sums = torch.zeros(len(tasks), len(centre), dtype=torch.float64)
    found = torch.zeros(len(tasks), 3, dtype=torch.float64)

    def work(shared) -> None:
        for number in shared:
            image, rows = tasks[number]
            part = images[image][rows]
            call("survey", None, part, len(part), depth, centre, sums[number], found[number])

    run_tasks(work, range(len(tasks)))
    return Survey(
        _largest(tasks, found[:, 0]), bool(found[:, 1].all()), bool(found[:, 2].all()),
        sums.sum(0)[:depth],
    )


@dataclass(frozen=True)
class Integers:
    """Vectors of integers of one image, in panels: see search.inc.

    Attributes:
        count: of vectors. depth: 32-bit numbers of each.
        bytes: whether four integers of 8 bits make a 32-bit number, or two of 16.
        values, norm, start: int32.
        cut: length of the longest vector that rounding took away; 0: the integers are exact.
    """

    count: int
    depth: int
    bytes: bool
    values: Tensor
    norm: Tensor
    start: Tensor
    cut: float


def integers(
    images: Sequence[Tensor], scale: float, *, centre: Tensor | None, bytes: bool
) -> tuple[Integers, Integers]:
    """(vectors − centre) · scale, rounded.

    Args:
        images: as in `survey`; no scaled vector longer than `LONGEST`.
        centre: as in `survey`.
        bytes: all numbers are whole ones from 0 to 255, the scale is 1 and there is no centre:
            faster where the processor has products of bytes.
    """
    length = images[0].shape[1]
    # Sums of bytes times 128 must fit 32 bits.
    bytes = bytes and bool(call("takes_bytes", None)) and length <= 1 << 16
    forms = (_UNSIGNED_BYTES, _SIGNED_BYTES) if bytes else (_WORDS, _WORDS)
    depth = -(-length // (4 if bytes else 2))
    centre, factor = _padded(length, centre), torch.tensor([scale], dtype=torch.float64)
    tasks = _chunks(images)
    cuts = torch.zeros(len(tasks), dtype=torch.float64)
    made = []
    for number, image in enumerate(images):
        panel = _panel(number)
        padded = -(-len(image) // panel) * panel
        sizes = (padded * depth, padded, padded)
        made.append([torch.empty(size, dtype=torch.int32) for size in sizes])

    def work(shared) -> None:
        line = torch.zeros(len(centre), dtype=torch.int32)
        for number in shared:
            image, rows = tasks[number]
            part, (values, norm, start) = images[image][rows], made[image]
            call(
                "integers", None, part, len(part), length, centre, factor, forms[image],
                _panel(image), values[rows.start * depth :], norm[rows.start :],
                start[rows.start :], cuts[number], line,
            )

    run_tasks(work, range(len(tasks)))
    return tuple(
        Integers(len(image), depth, bytes, *parts, cut)
        for image, parts, cut in zip(images, made, _largest(tasks, cuts))
    )


def nearest(
    a: Integers, b: Integers, keep_a: int, keep_b: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The nearest of the other image, of equals the one of the lowest number.

    Args:
        a, b: made together.
        keep_a, keep_b: how many of b's for each of a, how many of a's for each of b; at least 1.

    Returns:
        Squared distances (N, keep_a) int32 in order and numbers (N, keep_a) int64 of b; the same
        (M, keep_b) of a. `FAR` and −1 where there are no more.
    """
    rows = np.empty((a.count, keep_a), np.int64)
    following = torch.zeros(1, dtype=torch.int64)
    panel = _panel(0)
    task = min(_TASK_ROWS, -(-a.count // (_TASKS_A_THREAD * torch.get_num_threads())))
    task = max(1, task // panel) * panel
    parts, lock = [], threading.Lock()

    def work(_) -> None:
        columns = np.empty((b.count, keep_b), np.int64)
        bounds = torch.empty(2 * len(b.start), dtype=torch.int32)
        call(
            "nearest", None, a.values, a.start, a.norm, a.count, b.values, b.norm, b.count,
            a.depth, a.bytes, keep_a, keep_b, rows.ctypes.data, columns.ctypes.data, bounds, task,
            following,
        )
        with lock:
            parts.append(columns)

    run_tasks(work, range(0, a.count, task))
    # NumPy's sort: torch's would keep the processors busy, waiting for more, for milliseconds.
    columns = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts, 1), 1)[:, :keep_b]
    return _split(rows), _split(columns)


def squared_distances(a: Tensor, b: Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """|a[i] − b[j]|² in float64, of the shape of i and j; inf where j is negative.

    a: (N, D), b: (M, D) float32, contiguous. i, j: int64.
    """
    i, j = np.ascontiguousarray(i), np.ascontiguousarray(j)
    out = np.empty(i.shape)
    flat = [array.reshape(-1) for array in (i, j, out)]

    def work(shared) -> None:
        for start in shared:
            i, j, out = (array[start : start + 4 * _CHUNK] for array in flat)
            call(
                "squared_distances", None, a, b, a.shape[1], i.ctypes.data, j.ctypes.data,
                len(out), out.ctypes.data,
            )

    run_tasks(work, range(0, out.size, 4 * _CHUNK))
    return out


def _chunks(images: Sequence[Tensor]) -> list[tuple[int, slice]]:
    return [
        (number, slice(start, min(start + _CHUNK, len(image))))
        for number, image in enumerate(images)
        for start in range(0, len(image), _CHUNK)
    ]


def _largest(tasks: list[tuple[int, slice]], squares: Tensor) -> tuple[float, float]:
    """The root of the largest square of each image; NaN where one is."""
    images = torch.tensor([image for image, _ in tasks])
    return tuple(float(squares[images == i].max()) ** 0.5 for i in (0, 1))


def _padded(length: int, centre: Tensor | None) -> Tensor:
    padded = torch.zeros(-(-length // 8) * 8, dtype=torch.float64)
    if centre is not None:
        padded[:length] = centre
    return padded


def _split(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (keys >> 32).astype(np.int32), keys.astype(np.int32).astype(np.int64)
