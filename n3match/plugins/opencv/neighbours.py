"""Nearest neighbours of descriptors as OpenCV finds them, with what the filter wants to know."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_HAMMING = (cv2.NORM_HAMMING, cv2.NORM_HAMMING2)


@dataclass(frozen=True)
class Neighbours:
    """For each of N query descriptors its nearest train descriptors.

    Attributes:
        rows: N tuples of up to k `cv2.DMatch`, nearest first; empty where the mask allows none.
        nearest: (N,) int64 train index of the first of each row, −1 where it is empty.
        ratio: (N,) distance to the nearest / to the second nearest; 1 where there is no second,
            and for binary descriptors: their ratios are spread otherwise than those of the
            real-valued ones that filters are trained on.
        mutual: (N,) bool, nearest in both directions.
    """

    rows: tuple[tuple[cv2.DMatch, ...], ...]
    nearest: np.ndarray
    ratio: np.ndarray
    mutual: np.ndarray


def find_neighbours(
    query: np.ndarray | None,
    train: np.ndarray | None,
    *,
    k: int = 2,
    norm: int | None = None,
    mask: np.ndarray | None = None,
) -> Neighbours:
    """The k nearest train descriptors of each query descriptor, by `cv2.BFMatcher`.

    Args:
        query, train: (N, D), (M, D); None, which OpenCV gives for an image without keypoints,
            stands for none at all.
        k: at least 1.
        norm: e.g. `cv2.NORM_L2`; None: Hamming for uint8 descriptors (ORB, AKAZE, BRISK), else L2.
        mask: (N, M) uint8, zero where a match isn't allowed; None: all are.

    Raises:
        ValueError: shapes or types that don't fit, naming the argument.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    query = _checked("queryDescriptors", query)
    train = _checked("trainDescriptors", train)
    if query is None or train is None:
        count = 0 if query is None else len(query)
        return Neighbours(((),) * count, np.full(count, -1), np.ones(count), np.zeros(count, bool))
    if query.shape[1] != train.shape[1] or query.dtype != train.dtype:
        raise ValueError(
            f"trainDescriptors: found {train.shape[1]} channels of {train.dtype}, wanted "
            f"{query.shape[1]} of {query.dtype} as in queryDescriptors"
        )
    if norm is None:
        norm = cv2.NORM_HAMMING if query.dtype == np.uint8 else cv2.NORM_L2
    binary = norm in _HAMMING
    if binary and query.dtype != np.uint8:
        raise ValueError(f"queryDescriptors: found {query.dtype}, wanted uint8 for Hamming norms")
    if mask is not None:
        mask = np.ascontiguousarray(mask, dtype=np.uint8)
        if mask.shape != (len(query), len(train)):
            raise ValueError(
                f"mask must have shape (N, M) = {(len(query), len(train))}, got {mask.shape}"
            )
    matcher = cv2.BFMatcher(norm)
    rows = tuple(tuple(row) for row in matcher.knnMatch(query, train, max(k, 2), mask))
    nearest = np.array([row[0].trainIdx if row else -1 for row in rows], dtype=np.int64)
    back = matcher.knnMatch(train, query, 1, None if mask is None else mask.T.copy())
    nearest_back = np.array([row[0].trainIdx if row else -1 for row in back], dtype=np.int64)
    mutual = (nearest >= 0) & (nearest_back[nearest] == np.arange(len(query)))
    ratio = np.ones(len(query))
    if not binary:
        ratio = np.array([_ratio(row) for row in rows])
    return Neighbours(tuple(row[:k] for row in rows), nearest, ratio, mutual)


def _ratio(row: tuple[cv2.DMatch, ...]) -> float:
    if len(row) < 2 or row[1].distance <= 0:
        return 1.0
    return row[0].distance / row[1].distance


def _checked(name: str, descriptors: object) -> np.ndarray | None:
    if descriptors is None:
        return None
    array = np.asarray(descriptors)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {array.shape}")
    if not len(array):
        return None
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
    return np.ascontiguousarray(array)
