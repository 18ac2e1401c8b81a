"""Putative matches: every keypoint of image 0 with its nearest neighbour in image 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from n3match.arguments import finite_array, flag, index_array, positive, real_array, sequence
from n3match.matching.nearest import descriptor_tensor, nearest_neighbors
from n3match.matching.side_info import NEUTRAL, check_names, side_info_columns

Descriptors = torch.Tensor | np.ndarray | None

# Columns of side information that depend on all keypoints of image 0.
_OF_ALL = frozenset({"back_ratio", "distance"})


@dataclass(frozen=True)
class PutativeMatches:
    """Row i joins a keypoint of image 0 to its nearest neighbour in image 1.

    Attributes:
        points0, points1: (N, 2) float64, positions in the frame of the keypoints given (pixels).
        ratio: (N,) float32 in [0, 1], nearest / second-nearest distance, 1 where no second exists.
        mutual: (N,) bool, nearest in both directions.
        index0, index1: (N,) int64 into the keypoints given.
        distance: (N,) float32, descriptor distance.
        back_ratio: (N,) float32 in [0, 2], the ratio the other way round, see
            `nearest_neighbors`; None where it isn't known.
        apart: (N,) float32, distance from the nearest to the second nearest neighbour *in the
            image*: in pixels as the keypoints given; inf where there is no second. None where it
            isn't known.
        binary: whether distances are Hamming's, of binary descriptors.
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

    def __len__(self) -> int:
        return len(self.points0)

    def side_info(
        self, names: Sequence[str], focal1: float | None, *, binary: bool = False
    ) -> np.ndarray | None:
        """(N, S) what a filter wants to know of each match; None where it asks for nothing.

        Args:
            names: the filter's `side_info`.
            focal1: focal length of image 1 in pixels; None where it isn't known: then neither is
                the column `apart`.
            binary: whether the filter learnt from binary descriptors. Ratios of Hamming distances
                are spread otherwise than those of others: what the filter would misread isn't told.

        Raises:
            ValueError, TypeError: a name that is no column, a focal length that isn't positive.
        """
        if focal1 is not None:
            focal1 = positive("focal1", focal1)
        apart = None if focal1 is None else self.apart
        if flag("binary", binary) != self.binary:
            unknown = np.full(len(self), NEUTRAL["ratio"])
            return side_info_columns(
                names, unknown, self.mutual, apart=apart, focal1=focal1 or 1.0
            )
        return side_info_columns(
            names, self.ratio, self.mutual, back_ratio=self.back_ratio, distance=self.distance,
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
        columns = self.side_info(names, focal1, binary=binary)
        index0, index1 = index_array("index0", index0), index_array("index1", index1)
        if len(index0) != len(index1):
            raise ValueError(
                f"index0 and index1 must have one length, got {len(index0)} and {len(index1)}"
            )
        if columns is None:
            return None
        unknown = [NEUTRAL[name] for name in names]
        columns = np.concatenate([columns, [unknown]])
        row = np.searchsorted(self.index0, index0)
        found = row < len(self)
        found[found] = (self.index0[row[found]] == index0[found]) & (
            self.index1[row[found]] == index1[found]
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
    device: str | torch.device | None = None,
) -> PutativeMatches:
    """Match each keypoint of image 0 to its nearest in image 1, without any ratio test.

    Args:
        keypoints0, keypoints1: (N0, 2) and (N1, 2) positions in pixels.
        desc0, desc1: (N0, D) and (N1, D) descriptors, or None for none at all.
        binary: descriptors are bits, eight in each uint8, see `nearest_neighbors`.
        device: where the distances are computed; None for that of the descriptors.

    Returns:
        N0 matches in the order of keypoints0; none at all when N1 = 0.

    Raises:
        ValueError: a shape that does not fit, or non-finite numbers.
    """
    found = nearest_neighbors(desc0, desc1, binary=binary, device=device)
    keypoints0 = _checked_keypoints("keypoints0", keypoints0, len(found.index))
    keypoints1 = _checked_keypoints("keypoints1", keypoints1, 0 if desc1 is None else len(desc1))
    index0 = np.arange(len(keypoints0) if len(keypoints1) else 0)
    index1 = found.index.cpu().numpy()[index0]
    second = found.second_index.cpu().numpy()[index0]
    return PutativeMatches(
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
