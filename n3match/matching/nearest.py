"""Nearest neighbours of descriptors: exact, without ever holding the N x M distances.

One matrix product per block of rows gives squared distances that serve both directions. In float32
these carry a rounding error with a known bound, so each answer comes with a certificate: where the
runner-up is further behind than the error could account for, the answer is right; the few rows
where it is not are decided again on the differences themselves. Where the compiled loops are there
(n3match.native), they search in the same manner on integers (nearest_compiled.py).

Shapes: N descriptors of image 0, M of image 1, D channels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from n3match import native
from n3match.arguments import computing_device, dense_tensor, flag, lent_tensor, number_array, whole
from n3match.matching import nearest_compiled
from n3match.native import descriptors

# Entries of one block: 16 MiB of float32 stay in the cache of a CPU; a GPU wants larger products.
_BLOCK_ENTRIES = {"cpu": 1 << 22, "cuda": 1 << 26}
# The smallest entry of a line is sought among the minima of interleaved groups of so many, which
# are cheap as they carry no indices; descriptors are padded to a multiple of it.
_GROUP = 16
# Minima along rows go fast in full vector registers: the number of groups is a multiple of this.
_LANES = 32
# Pairs of descriptors whose differences are formed at a time.
_CHUNK = 1 << 13
# Of ratios to the distance of another candidate: farther off is no worse.
LARGEST_RATIO = 2.0


@dataclass(frozen=True)
class Matches:
    """For each descriptor of image 0 its two nearest of image 1, by Euclidean or Hamming distance.

    All tensors are on the device of the computation.

    Attributes:
        index: (N,) int64, nearest descriptor of image 1, the lowest index among equals; -1 where
            image 1 has none.
        distance: (N,) float32 to the nearest; inf where image 1 has none.
        second_distance: (N,) float32 to the second nearest (the same number where two tie); inf
            where there is none.
        ratio: (N,) float32 in [0, 1], distance / second_distance; 1 where there is no second and
            where both are 0 (nothing tells the two candidates apart).
        mutual: (N,) bool, whether this one is the nearest of image 0 to its nearest, the lowest
            index among equals.
        second_index: (N,) int64, second nearest descriptor of image 1; -1 where there is none.
        back_ratio: (N,) float32 in [0, 2], the ratio the other way round: distance / that of the
            nearest *other* descriptor of image 0 to the same one of image 1. At most 1 where
            mutual, at least 1 elsewhere; 1 where there is no other. Unlike the rest it is not
            decided exactly, but taken from the products: good to about 1e-3 for descriptors that
            differ as SIFT's do.
    """

    index: torch.Tensor
    distance: torch.Tensor
    second_distance: torch.Tensor
    ratio: torch.Tensor
    mutual: torch.Tensor
    second_index: torch.Tensor
    back_ratio: torch.Tensor


@torch.no_grad()
def nearest_neighbors(
    desc0: torch.Tensor | np.ndarray | None,
    desc1: torch.Tensor | np.ndarray | None,
    *,
    binary: bool = False,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> Matches:
    """Find the two nearest descriptors of image 1 for each of image 0.

    The same as `cv2.BFMatcher(cv2.NORM_L2).knnMatch(desc0, desc1, k=2)`, decided in exact
    arithmetic on the float32 values given: ties go to the lowest index on every machine. Of binary
    descriptors all distances, and so the ratios, are the numbers of bits that differ, as by
    `cv2.NORM_HAMMING`.

    Args:
        desc0: (N, D) descriptors of image 0, any real dtype (used as float32). None, which OpenCV
            gives for an image without keypoints, stands for N = 0.
        desc1: (M, D) of image 1, likewise.
        binary: descriptors are bits, eight in each number: uint8.
        block_size: rows of `desc0` per matrix product; None chooses by the size of the cache.
            It does not change the result.
        device: where to compute; None for the device of `desc0` (the CPU for an array).

    Raises:
        ValueError: not two-dimensional, unequal D, a non-finite number, or block_size < 1.
        TypeError: no numbers; binary, and not uint8.
    """
    given = {}
    for name, desc in (("desc0", desc0), ("desc1", desc1)):
        if desc is not None:
            given[name] = descriptor_tensor(name, desc)
    channels = next(iter(given.values())).shape[1] if given else 0
    desc0, desc1 = (given.get(name, torch.zeros(0, channels)) for name in ("desc0", "desc1"))
    if flag("binary", binary):
        desc0, desc1 = _bits("desc0", desc0), _bits("desc1", desc1)
    where = desc0.device if device is None else computing_device("device", device)
    desc0, desc1 = (desc.to(device=where, dtype=torch.float32) for desc in (desc0, desc1))
    if desc0.shape[1] != desc1.shape[1]:
        raise ValueError(
            f"desc1: found {desc1.shape[1]} channels, wanted {desc0.shape[1]} as in desc0"
        )
    if block_size is not None:
        block_size = whole("block_size", block_size, 1)
    # Products must be true float32, whatever autocast region this is called in.
    with torch.autocast(desc0.device.type, enabled=False):
        if len(desc0) and len(desc1) and native.serves(desc0):
            index, distance, mutual, back = _compiled_search(desc0, desc1, block_size)
        else:
            index, distance, mutual, back = _search(desc0, desc1, block_size)
    if binary:  # between rows of 0 and 1 the squared distance is how many differ
        distance, back = distance.square().round(), back.square()
    distance, second_distance = distance
    ratio = torch.where(
        torch.isfinite(second_distance) & (second_distance > 0), distance / second_distance, 1.0
    )
    # The rounding of `back` must not say otherwise than the flags, which are exact.
    back_ratio = torch.where(mutual, back.clamp(max=1.0), back.clamp(1.0, LARGEST_RATIO))
    return Matches(
        index[0], distance, second_distance, ratio, mutual, index[1], back_ratio.float()
    )


def _bits(name: str, desc: torch.Tensor) -> torch.Tensor:
    """(N, D) bytes as (N, 8 D) of 0 and 1; nothing of any type for no descriptors."""
    if desc.numel() and desc.dtype != torch.uint8:
        kind = str(desc.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: found {kind}, wanted uint8 for binary descriptors")
    bits = np.unpackbits(desc.cpu().numpy().astype(np.uint8), axis=-1)
    return torch.from_numpy(bits).to(desc.device)


def descriptor_tensor(name: str, desc) -> torch.Tensor:
    """(N, D) descriptors of any real type, as a tensor of it.

    Raises:
        TypeError: no numbers. ValueError: another shape.
    """
    if isinstance(desc, torch.Tensor):
        desc = dense_tensor(name, desc).detach()
        if desc.is_complex():
            raise TypeError(f"{name}: found {desc.dtype}, wanted real numbers")
    else:
        desc = lent_tensor(name, number_array(name, desc))
    if desc.ndim != 2:
        raise ValueError(f"{name}: found shape {tuple(desc.shape)}, wanted (N, D)")
    return desc


def _refuse_unless(finite: bool, name: str) -> None:
    if not finite:
        raise ValueError(f"{name}: found NaN or inf, wanted finite descriptors")


def _compiled_search(a, b, block_size: int | None):
    """As `_search`, by the compiled loops."""
    a, b = a.contiguous(), b.contiguous()
    seen = descriptors.survey((a, b))
    for name, longest in zip(("desc0", "desc1"), seen.longest):
        _refuse_unless(longest < float("inf"), name)

    def scan(a, b):
        return torch.stack(_scan(a, b, block_size)[:2]).numpy()

    index, squared, mutual, back = nearest_compiled.two_nearest(a, b, seen, scan)
    # NumPy's root: torch shares this one between threads, which then wait for more for some
    # milliseconds, and keep the processors from ours.
    distance = np.sqrt(squared).astype(np.float32)
    return tuple(torch.from_numpy(array) for array in (index, distance, mutual, back))


def _search(a, b, block_size: int | None):
    """The two nearest rows of `b` for each row of `a` (2, N), −1 for none; their distances, inf for
    none; mutual flags (N,); ratios the other way round (N,), before rounding is put right."""
    for name, x in (("desc0", a), ("desc1", b)):
        _refuse_unless(
            not x.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(x))).all()), name
        )
    columns = _ColumnMinima(len(b), a)
    index, second, value, error = _scan(a, b, block_size, columns)
    # Whom the nearest has as its own nearest matters only where it could be oneself.
    claims = torch.nonzero(value <= columns.value[index] + 2 * error)[:, 0] if len(b) else index[:0]
    claimed = index[claims].unique()
    back, certain = columns.resolve(a, b, claimed, error)
    if not certain.all():
        back[~certain] = _scan(b[claimed[~certain]], a, block_size)[0]
    mutual = torch.zeros_like(index, dtype=torch.bool)
    mutual[claims] = back[torch.searchsorted(claimed, index[claims])] == claims
    distance = torch.stack([_distances(a, b, i, error) for i in (index, second)])
    back_ratio = torch.ones_like(value)
    if len(a) and len(b):
        other = torch.where(mutual, columns.runner_up(a, b, index, error), columns.value[index])
        value, other = value.clamp(min=0), other.clamp(min=0)
        back_ratio = torch.where(
            torch.isfinite(other) & (other > 0), (value / other).sqrt(), 1.0
        )
    return torch.stack([index, second]), distance, mutual, back_ratio


def _scan(a, b, block_size: int | None, columns: "_ColumnMinima | None" = None):
    """Nearest and second nearest row of `b` for each row of `a`, -1 for none.

    Also returns the computed squared distance to the nearest and the bound on its error.
    """
    n, m = len(a), len(b)
    nearest = a.new_full((2, n), -1, dtype=torch.int64)
    value = a.new_full((n,), torch.inf)
    if n == 0 or m == 0:
        return *nearest, value, 0.0
    left, right, error = _factors(a, b)
    value = value.to(left.dtype)
    if block_size is None:
        block_size = _BLOCK_ENTRIES.get(a.device.type, _BLOCK_ENTRIES["cpu"]) // len(right)
    block_size = min(max(_GROUP, block_size // _GROUP * _GROUP), len(left))
    # Memory is reused: fresh pages for every block would cost more than the minima.
    # Rows lie an odd number of cache lines apart: at powers of two they would share few sets.
    buffer = left.new_empty((block_size, len(right) + 16))[:, : len(right)]
    minima = left.new_empty((block_size, len(right) // _GROUP))
    for start in range(0, len(left), block_size):
        # Entry (i, j) is the squared distance of a[start + i] and b[j]; inf in the padding.
        factor = left[start : start + block_size]
        block = torch.mm(factor, right.T, out=buffer[: len(factor)])
        if columns is not None:
            columns.update(block, start)
        rows = slice(start, min(start + block_size, n))
        nearest[:, rows], value[rows] = _two_nearest(
            block[: n - start], a[rows], b, error, out=minima[: n - start]
        )
    if m < 2:
        nearest[1] = -1
    return *nearest, value, error


def _factors(a, b):
    """Matrices whose product is the squared distances, and a bound on the error of an entry.

    Their rows are padded to multiples by descriptors that are infinitely far away.

    |a - b|^2 = [-2a, |a|^2, 1] . [b, 1, |b|^2]
    """
    norm_a, norm_b = a.double().square_().sum(1), b.double().square_().sum(1)
    scale = float(norm_a.max() + norm_b.max())
    # The bound below takes true float32 products, and numbers far from its limits.
    double = torch.get_float32_matmul_precision() != "highest" or not 1e-30 < scale < 1e30
    dtype = torch.float64 if double else torch.float32
    one_a, one_b = torch.ones_like(a[:, :1]), torch.ones_like(b[:, :1])
    left = torch.cat([-2 * a.to(dtype), norm_a[:, None].to(dtype), one_a.to(dtype)], 1)
    right = torch.cat([b.to(dtype), one_b.to(dtype), norm_b[:, None].to(dtype)], 1)
    left, right = _padded(left, _GROUP, -2), _padded(right, _GROUP * _LANES, -1)
    if not double and scale < 2**24 and _integers(a) and _integers(b):
        return left, right, 0.0  # every partial sum is an integer that float32 holds exactly
    # A sum of k products has a relative error of at most about k u in any order of summation, and
    # the absolute values of the products add up to at most twice the squared norms.
    terms = left.shape[1] + 2
    return left, right, 2 * terms * torch.finfo(dtype).eps / 2 * scale


def _integers(x: torch.Tensor) -> bool:
    return bool((x == x.round()).all())


def _padded(factor: torch.Tensor, multiple: int, norm_column: int) -> torch.Tensor:
    """Rows up to a multiple of a number, the new ones infinitely far from everything."""
    padding = factor.new_zeros((-len(factor) % multiple, factor.shape[1]))
    padding[:, -2:] = 1
    padding[:, norm_column] = torch.inf
    return torch.cat([factor, padding])


def _two_nearest(block, a, b, error: float, out):
    """(2, n) indices of the two smallest entries of each row, truly ordered; the smallest entry."""
    groups = block.shape[1] // _GROUP
    minima = torch.amin(block.unflatten(1, (_GROUP, groups)), 1, out=out)
    group_values, chosen = minima.topk(3, dim=1, largest=False)
    steps = torch.arange(_GROUP, device=block.device) * groups
    members = (chosen[:, :2, None] + steps).flatten(1)
    values, where = block.gather(1, members).topk(3, dim=1, largest=False)
    nearest = members.gather(1, where[:, :2]).T
    third = torch.minimum(values[:, 2], group_values[:, 2])

    # Entries further apart than two errors are in their true order. Exactly that far, which is 0
    # for integers, may still be a tie, to be given to the lowest index.
    open_rows = (values[:, 1] - values[:, 0] <= 2 * error) | (third - values[:, 1] <= 2 * error)
    open_rows = torch.nonzero(open_rows)[:, 0]
    if len(open_rows):
        rival = block[open_rows] <= values[open_rows, 1:2] + 2 * error
        row, candidate = torch.nonzero(rival).unbind(1)
        if error > 0:
            exact = _squared_differences(a, open_rows[row], b, candidate, error)
        else:
            exact = block[open_rows[row], candidate]
        # By row, then distance, then index, by which candidates come sorted.
        order = exact.argsort(stable=True)
        order = order[row[order].argsort(stable=True)]
        first = torch.searchsorted(row, torch.arange(len(open_rows), device=row.device))
        nearest[:, open_rows] = candidate[order[torch.stack([first, first + 1])]]
    return nearest, values[:, 0]


class _ColumnMinima:
    """The smallest entry of each column over blocks of rows, to the group of rows it lies in."""

    def __init__(self, columns: int, like: torch.Tensor):
        self.value = like.new_full((columns,), torch.inf)
        self.second = self.value.clone()  # smallest entry of any other group
        self.base = like.new_zeros((columns,), dtype=torch.int64)  # first row of the group
        self.step = self.base.clone()  # between its rows
        self._minima: torch.Tensor | None = None

    def update(self, block: torch.Tensor, start: int) -> None:
        step = len(block) // _GROUP
        if self._minima is None:
            self._minima = block.new_empty((step, block.shape[1]))
        minima = self._minima[:step]
        torch.amin(block.unflatten(0, (_GROUP, step)), 0, out=minima)
        minima = minima[:, : len(self.value)]
        value, group = minima.min(0)
        second = minima.scatter_(0, group[None], torch.inf).amin(0)
        better = value < self.value
        rest = torch.minimum(torch.where(better, self.value, value), self.second)
        self.second = torch.where(better, torch.minimum(self.value, second), rest)
        self.value = torch.where(better, value, self.value)
        self.base = torch.where(better, group + start, self.base)
        self.step = torch.where(better, step, self.step)

    def resolve(self, a, b, columns: torch.Tensor, error: float):
        """Nearest row of `a` for the given rows of `b`, and whether that is certain."""
        rows, exact = self._group(a, b, columns, error)
        nearest = exact.argmin(0, keepdim=True)
        certain = self.second[columns] - self.value[columns] > 2 * error
        return rows.gather(0, nearest)[0], certain

    def runner_up(self, a, b, columns: torch.Tensor, error: float) -> torch.Tensor:
        """The second smallest entry of each of the given columns; inf where there is none."""
        wanted, place = columns.unique(return_inverse=True)
        _, exact = self._group(a, b, wanted, error)
        in_group = exact.topk(2, dim=0, largest=False).values[1].to(self.second)
        return torch.minimum(in_group, self.second[wanted])[place]

    def _group(self, a, b, columns: torch.Tensor, error: float):
        """Rows (_GROUP, C) among which the nearest of the given columns is, and their entries."""
        rank = torch.arange(_GROUP, device=columns.device)[:, None]
        rows = self.base[columns] + self.step[columns] * rank
        padding = rows >= len(a)
        pairs = (rows.masked_fill(padding, 0).flatten(), columns.repeat(_GROUP))
        exact = _squared_differences(a, pairs[0], b, pairs[1], error).view_as(rows)
        return rows, exact.masked_fill(padding, torch.inf)


def _squared_differences(a, i, b, j, error: float) -> torch.Tensor:
    """|a[i] - b[j]|^2 in float64; in float32 for integers (error 0), for which that is exact."""
    dtype = torch.float64 if error > 0 else torch.float32
    parts = [
        (a[i_].to(dtype) - b[j_].to(dtype)).square_().sum(1)
        for i_, j_ in zip(i.split(_CHUNK), j.split(_CHUNK))
    ]
    return torch.cat(parts)


def _distances(a, b, index, error: float) -> torch.Tensor:
    """Euclidean distances of rows of `a` to the given rows of `b`, inf where the index is -1."""
    distance = a.new_full((len(a),), torch.inf)
    rows = torch.nonzero(index >= 0)[:, 0]
    squared = _squared_differences(a, rows, b, index[rows], error)
    # The root in float64 rounds to the nearest float32 for either.
    distance[rows] = squared.double().sqrt().float()
    return distance
