"""Which matches to draw epipolar lines of, where all would be a tangle."""

from __future__ import annotations

import numpy as np

# Points count so much against lines: two points far apart may be on one line, drawn twice then.
_PLACE = 0.25


def spread_out(x0: np.ndarray, x1: np.ndarray, E: np.ndarray, count: int) -> np.ndarray:
    """Matches with epipolar lines, and points on them, far from each other's.

    First the match nearest to the middle of all, then always the one farthest from those chosen.

    Args:
        x0, x1: (N, 2) calibrated coordinates.
        E: (3, 3), x1ᵀ E x0 = 0.
        count: how many, at most; a match at the same place as one chosen is left out.

    Returns:
        (M,) indices in the order chosen.
    """
    if not len(x0):
        return np.zeros(0, dtype=int)
    places = np.hstack((x0, x1))
    rays0, rays1 = (np.column_stack((x, np.ones(len(x)))) for x in (x0, x1))

    def distance_to(row: int) -> np.ndarray:
        apart = np.linalg.norm(places - places[row], axis=1)
        to_lines = _from_line(E @ rays0[row], rays1) + _from_line(E.T @ rays1[row], rays0)
        return np.where(apart > 0, to_lines + _PLACE * apart, 0.0)

    chosen = [int(np.argmin(np.linalg.norm(places - places.mean(axis=0), axis=1)))]
    distance = distance_to(chosen[0])
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, distance_to(chosen[-1]))
    return np.array(chosen)


def _from_line(line: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """(N,) distances of points to a line; 0 where it is an epipole's, which is none."""
    norm = np.linalg.norm(line[:2])
    return np.abs(rays @ line) / norm if norm > 0 else np.zeros(len(rays))
