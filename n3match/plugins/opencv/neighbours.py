"""Nearest neighbours of descriptors as OpenCV finds them, with what the filter wants to know."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from n3match.arguments import number_array, whole
from n3match.matching.putative import (
    PutativeMatches,
    TwoNearest,
    distance_apart,
    with_second,
)

_HAMMING = (cv2.NORM_HAMMING, cv2.NORM_HAMMING2)


@dataclass(frozen=True)
class Neighbours:
    """For each of N query descriptors its nearest train descriptors.

    Attributes:
        rows: N tuples of up to k `cv2.DMatch`, nearest first; empty where the mask allows none.
        mutual: (N,) bool, nearest in both directions.
        ratio, back_ratio: (N,) as of `PutativeMatches`.
        binary: whether distances are Hamming's.
        forward: the first two of each row. backward: the same of each of M train descriptors.
    """

    rows: tuple[tuple[cv2.DMatch, ...], ...]
    mutual: np.ndarray
    ratio: np.ndarray
    back_ratio: np.ndarray
    binary: bool
    forward: TwoNearest
    backward: TwoNearest

    def putative(
        self, points1: np.ndarray, points2: np.ndarray, *, second_nearest: bool = False
    ) -> PutativeMatches:
        """Each query descriptor with its nearest, where it has one.

        Args:
            points1, points2: (N, 2) and (M, 2) pixels of the query and train descriptors.
            second_nearest: as in `n3match.matching.putative_matches`.
        """
        forward = self.forward
        index1 = np.flatnonzero(forward.index >= 0)
        index2 = forward.index[index1]
        found = PutativeMatches(
            points0=points1[index1],
            points1=points2[index2],
            ratio=self.ratio[index1],
            mutual=self.mutual[index1],
            index0=index1,
            index1=index2,
            distance=forward.distance[index1],
            back_ratio=self.back_ratio[index1],
            apart=distance_apart(points2, index2, forward.second_index[index1]),
            binary=self.binary,
        )
        return with_second(found, forward, self.backward, points2) if second_nearest else found


def find_neighbours(
    query: np.ndarray | None,
    train: np.ndarray | None,
    *,
    k: int = 2,
    norm: int | None = None,
    mask: np.ndarray | None = None,
    names: tuple[str, str] = ("queryDescriptors", "trainDescriptors"),
) -> Neighbours:
    """The k nearest train descriptors of each query descriptor, by `cv2.BFMatcher`.

    Args:
        query, train: (N, D), (M, D); None, which OpenCV gives for an image without keypoints,
            stands for none at all.
        k: at least 1.
        norm: e.g. `cv2.NORM_L2`; None: Hamming for uint8 descriptors (ORB, AKAZE, BRISK), else L2.
        mask: (N, M) uint8, zero where a match isn't allowed; None: all are.
        names: of query and train, in messages.

    Raises:
        ValueError: shapes or types that don't fit, naming the argument.
    """
    k = whole("k", k, 1, 2**31 - 1)
    query, train = _checked(names[0], query), _checked(names[1], train)
    if query is None or train is None:
        count = 0 if query is None else len(query)
        return _described(((),) * count, (), 1, binary=False)
    if query.shape[1] != train.shape[1] or query.dtype != train.dtype:
        raise ValueError(
            f"{names[1]}: found {train.shape[1]} channels of {train.dtype}, wanted "
            f"{query.shape[1]} of {query.dtype} as in {names[0]}"
        )
    if norm is None:
        norm = cv2.NORM_HAMMING if query.dtype == np.uint8 else cv2.NORM_L2
    binary = norm in _HAMMING
    if binary and query.dtype != np.uint8:
        raise ValueError(f"{names[0]}: found {query.dtype}, wanted uint8 for Hamming norms")
    if mask is not None:
        mask = np.ascontiguousarray(number_array("mask", mask) != 0, dtype=np.uint8)
        if mask.shape != (len(query), len(train)):
            raise ValueError(
                f"mask must have shape (N, M) = {(len(query), len(train))}, got {mask.shape}"
            )
    matcher = cv2.BFMatcher(norm)
    rows = tuple(tuple(row) for row in matcher.knnMatch(query, train, max(k, 2), mask))
    back = matcher.knnMatch(train, query, 2, None if mask is None else mask.T.copy())
    return _described(rows, back, k, binary)


def _described(rows, back, k: int, binary: bool) -> Neighbours:
    """From rows of two or more in both directions."""
    forward, backward = _two_nearest(rows), _two_nearest(back)
    query, known = np.arange(len(rows)), np.flatnonzero(forward.index >= 0)
    mutual = np.zeros(len(rows), dtype=bool)
    mutual[known] = backward.index[forward.index[known]] == query[known]
    back_ratio = np.ones(len(rows))
    # How near the nearest *other* descriptor of the query image is to the same one.
    there, is_mutual = forward.index[known], mutual[known]
    other = np.where(is_mutual, backward.second_distance[there], backward.distance[there])
    found = ratio_of(forward.distance[known], other)
    back_ratio[known] = np.where(is_mutual, found.clip(max=1.0), found.clip(1.0, 2.0))
    ratio = ratio_of(forward.distance, forward.second_distance)
    kept = tuple(row[:k] for row in rows)
    return Neighbours(kept, mutual, ratio, back_ratio, binary, forward, backward)


def _two_nearest(rows) -> TwoNearest:
    (index, distance), (second_index, second_distance) = (_column(rows, i) for i in (0, 1))
    return TwoNearest(index, second_index, distance, second_distance)


def _column(rows, place: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) index and distance of the match at one place of each row, −1 and inf for none."""
    found = [
        (row[place].trainIdx, row[place].distance) if len(row) > place else (-1, np.inf)
        for row in rows
    ]
    index, distance = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return index.astype(np.int64), distance


def ratio_of(distance: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) one distance / another; 1 where there is no other (inf), or it is no distance away."""
    told = np.isfinite(other) & (other > 0)
    return np.where(told, distance, 1.0) / np.where(told, other, 1.0)


def _checked(name: str, descriptors: object) -> np.ndarray | None:
    if descriptors is None:
        return None
    array = number_array(name, descriptors)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {array.shape}")
    if not len(array):
        return None
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
    return np.ascontiguousarray(array)
