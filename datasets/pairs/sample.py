"""The sample of one image pair as the datasets hand it round, and its labels (numpy).

A sample is a dict of float32 arrays: ``x`` (N, 4) calibrated coordinates (x0, y0, x1, y1),
``side_info`` (N, 5) all columns of ``n3match.matching.side_info`` (neutral where not known),
``keypoint_change`` (N, 3) how the keypoint turns and changes its size
(``n3match.matching.keypoint_change``; zeros where not known), ``R`` (3, 3) and ``t`` (3,) of unit
length with x1 ~ R x0 + t, ``E`` (3, 3) = [t]x R of Frobenius norm 1 with x1ᵀ E x0 = 0, and
``distances`` (N,) squared symmetric epipolar distances.
"""

from __future__ import annotations

import numpy as np

from n3match.geometry import essential_from_pose, symmetric_epipolar_distance

#: A match is labelled true where its squared symmetric epipolar distance is below this
#: (calibrated units; Yi et al., CVPR 2018).
TRUE_MATCH_DISTANCE = 1e-4


def essential_matrix(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """``E = [t]x R`` (3, 3) float64 of Frobenius norm 1, for x1 ~ R x0 + t and t not zero."""
    E = essential_from_pose(np.asarray(R, np.float64), np.asarray(t, np.float64))
    return E / np.linalg.norm(E)


def squared_epipolar_distances(x: np.ndarray, E: np.ndarray) -> np.ndarray:
    """`symmetric_epipolar_distance`, squared, of calibrated matches x (N, 4) and E (3, 3) of any
    scale, worked out in float64: (N,) float32, in calibrated units."""
    x, E = np.asarray(x, np.float64), np.asarray(E, np.float64)
    return symmetric_epipolar_distance(x[:, :2], x[:, 2:], E).astype(np.float32)


def make_sample(
    x: np.ndarray,
    side_info: np.ndarray,
    keypoint_change: np.ndarray,
    R: np.ndarray,
    t: np.ndarray,
) -> dict:
    """The sample dict described at the top of this file, with E and the distances worked out."""
    t = np.asarray(t, np.float64)
    t = t / np.linalg.norm(t)
    E = essential_matrix(R, t)
    x = np.ascontiguousarray(x, np.float32)
    return {
        "x": x,
        "side_info": np.ascontiguousarray(side_info, np.float32),
        "keypoint_change": np.ascontiguousarray(keypoint_change, np.float32),
        "R": np.asarray(R, np.float32),
        "t": t.astype(np.float32),
        "E": E.astype(np.float32),
        "distances": squared_epipolar_distances(x, E),
    }
