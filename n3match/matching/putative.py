"""Putative matches: every keypoint of image 0 with its nearest neighbour in image 1, and with its
second nearest where a filter looks at these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from n3match.arguments import finite_array, flag, index_array, positive, real_array, sequence
from n3match.arguments import found as found_as
from n3match.matching.nearest import (
    LARGEST_RATIO,
    Matches,
    descriptor_tensor,
    nearest_neighbors,
)
from n3match.matching.side_info import NEUTRAL, check_names, side_info_columns

Descriptors = torch.Tensor | np.ndarray | None

# Columns of side information that depend on all keypoints of image 0.
_OF_ALL = frozenset({"back_ratio", "distance"})


@dataclass(frozen=True)
class PutativeMatches:
    """Row i joins a keypoint of image 0 to its nearest neighbour in image 1; the last rows may join
    some to their second nearest, see `putative_matches`.

    Attributes:
        points0, points1: (N, 2) float64, positions in the frame of the keypoints given (pixels).
        ratio: (N,) float32 in [0, 1], nearest / second-nearest distance, 1 where no second exists;
            of a second nearest its own / the nearest's, in [1, 2].
        mutual: (N,) bool, nearest in both directions.
        index0, index1: (N,) int64 into the keypoints given.
        distance: (N,) float32, descriptor distance.
        back_ratio: (N,) float32 in [0, 2], the ratio the other way round, see
            `nearest_neighbors`; None where it isn't known.
        apart: (N,) float32, distance from the nearest to the second nearest neighbour *in the
            image*: in pixels as the keypoints given; inf where there is no second. None where it
            isn't known.
        binary: whether distances are Hamming's, of binary descriptors.
        near_mutual: (N,) bool, each of the two is among the other's *two* nearest; None where only
            the nearest were asked for. Where they weren't, rows follow those of the nearest that
            join a keypoint to its second nearest, see `putative_matches`.
    """

    points0: np.ndarray
    points1: np.ndarray
    ratio: np.ndarray
    mutual: np.ndarray
    index0: np.ndarray
    index1: np.ndarray
    distance: np.ndarray
    back_ratio: np.ndarray | None = None
    apart: np.ndarray | None = None
    binary: bool = False
    near_mutual: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points0)

    def nearest(self) -> PutativeMatches:
        """Those of the nearest neighbours alone, the first rows; itself where it has no others."""
        if self.near_mutual is None:
            return self
        count = len(np.unique(self.index0))
        rows: dict[str, Any] = {
            name: rows[:count] for name, rows in vars(self).items() if isinstance(rows, np.ndarray)
        }
        return replace(self, **rows | {"near_mutual": None})

    def side_info(
        self, names: Sequence[str], focal1: float | None, *, binary: bool = False,
        second_nearest: bool = False,
    ) -> np.ndarray | None:
        """(N, S) what a filter wants to know of each match; None where it asks for nothing.

        Args:
            names: the filter's `side_info`.
            focal1: focal length of image 1 in pixels; None where it isn't known: then neither is
                the column `apart`.
            binary: whether the filter learnt from binary descriptors. Ratios of Hamming distances
                are spread otherwise than those of others: what the filter would misread isn't told.
            second_nearest: the filter looks at second nearest neighbours, too: the column `mutual`
                is then `near_mutual`, where that is known.

        Raises:
            ValueError, TypeError: a name that is no column, a focal length that isn't positive.
        """
        if focal1 is not None:
            focal1 = positive("focal1", focal1)
        apart = None if focal1 is None else self.apart
        mutual = self.mutual
        if flag("second_nearest", second_nearest) and self.near_mutual is not None:
            mutual = self.near_mutual
        if flag("binary", binary) != self.binary:
            unknown = np.full(len(self), NEUTRAL["ratio"])
            return side_info_columns(
                names, unknown, mutual, apart=apart, focal1=focal1 or 1.0
            )
        return side_info_columns(
            names, self.ratio, mutual, back_ratio=self.back_ratio, distance=self.distance,
            apart=apart, focal1=focal1 or 1.0,
        )

    def side_info_of(
        self, names: Sequence[str], index0: np.ndarray, index1: np.ndarray, focal1: float | None,
        *, binary: bool = False,
    ) -> np.ndarray | None:
        """The same of M matches made elsewhere, of keypoints that were all matched here.

        A match to another keypoint than the nearest says nothing in favour of itself: its row is
        that of one of which nothing is known.

        Args:
            names, focal1, binary: as of `side_info`.
            index0, index1: (M,) keypoints of image 0 and image 1.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        nearest = self.nearest()
        columns = nearest.side_info(names, focal1, binary=binary)
        index0, index1 = index_array("index0", index0), index_array("index1", index1)
        if len(index0) != len(index1):
            raise ValueError(
                f"index0 and index1 must have one length, got {len(index0)} and {len(index1)}"
            )
        if columns is None:
            return None
        unknown = [NEUTRAL[name] for name in names]
        columns = np.concatenate([columns, [unknown]])
        row = np.searchsorted(nearest.index0, index0)
        found = row < len(nearest)
        found[found] = (nearest.index0[row[found]] == index0[found]) & (
            nearest.index1[row[found]] == index1[found]
        )
        return columns[np.where(found, row, -1)]


def side_info_of_matches(
    names: Sequence[str],
    index0: np.ndarray,
    index1: np.ndarray,
    keypoints0: np.ndarray,
    desc0: torch.Tensor | np.ndarray,
    keypoints1: np.ndarray,
    desc1: torch.Tensor | np.ndarray,
    focal1: float | None,
) -> np.ndarray | None:
    """(M, S) what a filter wants to know of matches made elsewhere, from the descriptors.

    Args:
        names, focal1: as of `PutativeMatches.side_info`.
        index0, index1: (M,) rows of the keypoints that are matched.
        keypoints0, desc0, keypoints1, desc1: of all keypoints, as of `putative_matches`.

    Returns:
        None where the filter asks for nothing. Else as `PutativeMatches.side_info_of`; but where no
        two matches share a keypoint of image 1 the matcher has made them mutual already, and all
        are taken to be.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    check_names(names)
    keypoints0, keypoints1 = (
        finite_array(name, keypoints, 2, 2, "(N, 2)")
        for name, keypoints in (("keypoints0", keypoints0), ("keypoints1", keypoints1))
    )
    index0 = index_array("index0", index0, len(keypoints0))
    index1 = index_array("index1", index1, len(keypoints1))
    if len(index0) != len(index1):
        raise ValueError(
            f"index0 and index1 must have one length, got {len(index0)} and {len(index1)}"
        )
    for name, desc, keypoints in (("desc0", desc0, keypoints0), ("desc1", desc1, keypoints1)):
        if len(sequence(name, desc, "descriptors")) != len(keypoints):
            raise ValueError(f"{name}: found {len(desc)} rows for {len(keypoints)} keypoints")
    if not len(names):
        return None
    made_mutual = len(np.unique(index1)) == len(index1)
    if made_mutual and _OF_ALL.isdisjoint(names):
        # The other keypoints of image 0 tell nothing more, and needn't be searched for.
        kept, index0 = np.unique(index0, return_inverse=True)
        keypoints0, desc0 = keypoints0[kept], descriptor_tensor("desc0", desc0)[kept]
    found = putative_matches(keypoints0, desc0, keypoints1, desc1)
    columns = found.side_info_of(names, index0, index1, focal1)
    if columns is not None and made_mutual and "mutual" in names:
        columns[:, names.index("mutual")] = 1.0
    return columns


def putative_matches(
    keypoints0: np.ndarray,
    desc0: Descriptors,
    keypoints1: np.ndarray,
    desc1: Descriptors,
    *,
    binary: bool = False,
    second_nearest: bool = False,
    device: str | torch.device | None = None,
) -> PutativeMatches:
    """Match each keypoint of image 0 to its nearest in image 1, without any ratio test.

    Where scenes repeat themselves, or light changes, the right match is often the second nearest
    neighbour; of those that are among the two nearest both ways a filter can tell it.

    Args:
        keypoints0, keypoints1: (N0, 2) and (N1, 2) positions in pixels.
        desc0, desc1: (N0, D) and (N1, D) descriptors, or None for none at all.
        binary: descriptors are bits, eight in each uint8, see `nearest_neighbors`.
        second_nearest: second nearest neighbours are matches as well, where each of the two is
            among the other's two nearest: rows behind those of the nearest. Their ratio lies in
            [1, 2]: distance / that of the nearest.
        device: where the distances are computed; None for that of the descriptors.

    Returns:
        N0 matches in the order of keypoints0, then those of second nearest neighbours, in the same
        order; none at all when N1 = 0.

    Raises:
        ValueError: a shape that does not fit, or non-finite numbers.
    """
    binary = flag("binary", binary)
    found = nearest_neighbors(desc0, desc1, binary=binary, device=device)
    keypoints0 = _checked_keypoints("keypoints0", keypoints0, len(found.index))
    keypoints1 = _checked_keypoints("keypoints1", keypoints1, 0 if desc1 is None else len(desc1))
    index0 = np.arange(len(keypoints0) if len(keypoints1) else 0)
    index1 = found.index.cpu().numpy()[index0]
    second = found.second_index.cpu().numpy()[index0]
    nearest = PutativeMatches(
        points0=keypoints0[index0],
        points1=keypoints1[index1],
        ratio=found.ratio.cpu().numpy()[index0],
        mutual=found.mutual.cpu().numpy()[index0],
        index0=index0,
        index1=index1,
        distance=found.distance.cpu().numpy()[index0],
        back_ratio=found.back_ratio.cpu().numpy()[index0],
        apart=distance_apart(keypoints1, index1, second),
        binary=binary,
    )
    if not flag("second_nearest", second_nearest):
        return nearest
    back = nearest_neighbors(desc1, desc0, binary=binary, device=device)
    return with_second(nearest, TwoNearest.of(found), TwoNearest.of(back), keypoints1)


@dataclass(frozen=True)
class TwoNearest:
    """The two nearest of each keypoint in the other image, −1 and inf where there is none; (N,)."""

    index: np.ndarray
    second_index: np.ndarray
    distance: np.ndarray
    second_distance: np.ndarray

    @classmethod
    def of(cls, matches: Matches) -> TwoNearest:
        return cls(*(getattr(matches, field.name).cpu().numpy() for field in fields(cls)))


def with_second(
    nearest: PutativeMatches, found: TwoNearest, back: TwoNearest, keypoints1: np.ndarray
) -> PutativeMatches:
    """The rows of second nearest neighbours behind those of the nearest, see `putative_matches`.

    Args:
        nearest: of every keypoint of image 0 that has one.
        found, back: from image 0 to image 1, and from image 1 to image 0.
        keypoints1: (N1, 2).
    """

    def is_near(index0: np.ndarray, index1: np.ndarray) -> np.ndarray:
        return (back.index[index1] == index0) | (back.second_index[index1] == index0)

    index1 = found.second_index[nearest.index0]
    row = np.flatnonzero(index1 >= 0)
    row = row[is_near(nearest.index0[row], index1[row])]
    index0, index1 = nearest.index0[row], index1[row]
    distance = found.second_distance[index0]
    # To the nearest *other* keypoint of image 0.
    is_best = back.index[index1] == index0
    other = np.where(is_best, back.second_distance[index1], back.distance[index1])
    second = PutativeMatches(
        points0=nearest.points0[row],
        points1=keypoints1[index1],
        ratio=_ratio_to(distance, nearest.distance[row]),
        mutual=np.zeros(len(row), dtype=bool),
        index0=index0,
        index1=index1,
        distance=distance,
        back_ratio=_ratio_to(distance, other),
        apart=None if nearest.apart is None else nearest.apart[row],
        near_mutual=np.ones(len(row), dtype=bool),
    )
    near = is_near(nearest.index0, nearest.index1)
    rows: dict[str, Any] = {
        name: np.concatenate([value, getattr(second, name)])
        for name, value in vars(replace(nearest, near_mutual=near)).items()
        if isinstance(value, np.ndarray)
    }
    return replace(nearest, **rows)


def _ratio_to(distance: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(M,) float32 in [0, LARGEST_RATIO]; 1 where there is no other, and where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.isfinite(other) & ((other > 0) | (distance > 0)), distance / other, 1)
    return np.minimum(ratio, LARGEST_RATIO).astype(np.float32)


def one_to_one(index0: np.ndarray, index1: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Which matches are kept: logit above 0, and no keypoint of either image in two of them.

    Of those that share a keypoint the one with the largest logit stays, of equal ones the first.
    COLMAP takes a keypoint for one point in space, and a pair in which it is two for a mistake.

    Args:
        index0, index1: (M,) keypoints that are matched.
        logits: (M,) of the filter; NaN is never kept.

    Returns:
        (M,) bool.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    logits = real_array("logits", logits)
    if logits.ndim != 1:
        raise ValueError(f"logits must have shape (M,), got {found_as(logits)}")
    index0, index1 = index_array("index0", index0), index_array("index1", index1)
    if not len(index0) == len(index1) == len(logits):
        raise ValueError(
            "index0, index1 and logits must have one length, got "
            f"{len(index0)}, {len(index1)} and {len(logits)}"
        )
    kept = np.zeros(len(logits), dtype=bool)
    order = np.argsort(-logits, kind="stable")
    order = order[logits[order] > 0]
    ends = [index[order] for index in (index0, index1)]
    if all(len(np.unique(index)) == len(index) for index in ends):
        kept[order] = True
        return kept
    taken: tuple[set[int], set[int]] = set(), set()
    for row, end0, end1 in zip(order.tolist(), *(index.tolist() for index in ends)):
        if end0 not in taken[0] and end1 not in taken[1]:
            kept[row] = True
            taken[0].add(end0)
            taken[1].add(end1)
    return kept


def exclusive_logits(index0: np.ndarray, index1: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Logits of matches of which no two that share a keypoint can be right: those above 0 are
    `one_to_one`.

    Of those that aren't, the odds are o / (1 + o'), o' those of the likeliest match that has one of
    their keypoints: one of the two is right, or neither. All others stay.

    Args:
        index0, index1, logits: (M,) as of `one_to_one`.

    Returns:
        (M,) float64.

    Raises:
        ValueError, TypeError: as `one_to_one`.
    """
    kept = one_to_one(index0, index1, logits)
    found = np.array(real_array("logits", logits), dtype=np.float64)
    lost = (found > 0) & ~kept
    rival = np.zeros(lost.sum())
    for index in (index_array("index0", index0), index_array("index1", index1)):
        best = dict(zip(index[kept].tolist(), found[kept].tolist()))
        rival = np.maximum(rival, [best.get(i, 0.0) for i in index[lost].tolist()])
    found[lost] -= np.logaddexp(0.0, rival)
    return found


def distance_apart(keypoints1: np.ndarray, index1: np.ndarray, second1: np.ndarray) -> np.ndarray:
    """(N,) float32 pixels from the nearest to the second nearest neighbour in image 1.

    Args:
        keypoints1: (N1, 2) pixels.
        index1, second1: (N,) rows of them; second1 −1 where there is none: the answer is inf there.
    """
    apart = np.full(len(index1), np.inf, np.float32)
    known = second1 >= 0
    apart[known] = np.linalg.norm(keypoints1[second1[known]] - keypoints1[index1[known]], axis=1)
    return apart


def _checked_keypoints(name: str, keypoints: np.ndarray, count: int) -> np.ndarray:
    keypoints = real_array(name, keypoints)
    if keypoints.ndim != 2 or keypoints.shape[1] != 2:
        raise ValueError(f"{name}: found shape {keypoints.shape}, wanted (N, 2)")
    if len(keypoints) != count:
        raise ValueError(f"{name}: found {len(keypoints)} rows for {count} descriptors")
    if not np.isfinite(keypoints).all():
        raise ValueError(f"{name}: found NaN or inf, wanted finite positions")
    return keypoints
