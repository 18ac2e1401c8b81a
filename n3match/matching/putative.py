"""Putative matches: every keypoint of image 0 with its nearest neighbour in image 1."""

from dataclasses import dataclass

import numpy as np
import torch

from n3match.matching.nearest import nearest_neighbors

Descriptors = torch.Tensor | np.ndarray | None


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

    def __len__(self) -> int:
        return len(self.points0)


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
    apart = np.full(len(index0), np.inf, np.float32)
    known = second >= 0
    apart[known] = np.linalg.norm(keypoints1[second[known]] - keypoints1[index1[known]], axis=1)
    return PutativeMatches(
        points0=keypoints0[index0],
        points1=keypoints1[index1],
        ratio=found.ratio.cpu().numpy()[index0],
        mutual=found.mutual.cpu().numpy()[index0],
        index0=index0,
        index1=index1,
        distance=found.distance.cpu().numpy()[index0],
        back_ratio=found.back_ratio.cpu().numpy()[index0],
        apart=apart,
    )


def _checked_keypoints(name: str, keypoints: np.ndarray, count: int) -> np.ndarray:
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.ndim != 2 or keypoints.shape[1] != 2:
        raise ValueError(f"{name}: found shape {keypoints.shape}, wanted (N, 2)")
    if len(keypoints) != count:
        raise ValueError(f"{name}: found {len(keypoints)} rows for {count} descriptors")
    if not np.isfinite(keypoints).all():
        raise ValueError(f"{name}: found NaN or inf, wanted finite positions")
    return keypoints
