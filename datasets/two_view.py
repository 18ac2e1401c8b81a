"""The sample of one image pair as the datasets hand it round, and its labels (numpy).

A sample is a dict of float32 arrays: ``x`` (N, 4) calibrated coordinates (x0, y0, x1, y1),
``side`` (N, 5) columns of ``n3match.side_information`` (neutral where not known), ``shape`` (N, 3)
how the keypoint turns and changes its size (``n3match.matching.relative_shape``; zeros where not
known), ``R`` (3, 3) and ``t`` (3,) of unit length with x1 ~ R x0 + t, ``E`` (3, 3) = [t]x R of
Frobenius norm 1 with x1ᵀ E x0 = 0, and ``distances`` (N,) squared symmetric epipolar distances.
"""

from __future__ import annotations

import numpy as np

#: A match is labelled true where its squared symmetric epipolar distance is below this
#: (calibrated units; Yi et al., CVPR 2018).
TRUE_MATCH_DISTANCE = 1e-4


def essential_matrix(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """``E = [t]x R`` (3, 3) float64 of Frobenius norm 1, for x1 ~ R x0 + t and t not zero."""
    tx, ty, tz = (float(v) for v in t)
    cross = np.array([[0.0, -tz, ty], [tz, 0.0, -tx], [-ty, tx, 0.0]])
    E = cross @ np.asarray(R, np.float64)
    return E / np.linalg.norm(E)


def squared_epipolar_distances(x: np.ndarray, E: np.ndarray) -> np.ndarray:
    """Squared symmetric epipolar distance of each match, (N,) float32, in calibrated units.

    (x1ᵀ E x0)² (1 / ‖(E x0)₁₂‖² + 1 / ‖(Eᵀ x1)₁₂‖²), as in Yi et al. (CVPR 2018): the sum, not the
    mean, of the squared distances to the epipolar lines of the two images. A match that sits on an
    epipole has a denominator of zero there; it is kept finite by a small floor.

    Args:
        x: (N, 4) calibrated coordinates (x0, y0, x1, y1).
        E: (3, 3), any scale.
    """
    # Coordinates as rows: several times faster than products with a matrix so narrow.
    x0, y0, x1, y1 = np.ascontiguousarray(np.asarray(x).T, np.float64)
    (a, b, c), (d, e, f), (g, h, i) = np.asarray(E, np.float64)
    u1, v1 = a * x0 + b * y0 + c, d * x0 + e * y0 + f
    u0, v0 = a * x1 + d * y1 + g, b * x1 + e * y1 + h
    residual = x1 * u1 + y1 * v1 + (g * x0 + h * y0 + i)
    tiny = 1e-15
    inverse = 1 / (u1 * u1 + v1 * v1 + tiny) + 1 / (u0 * u0 + v0 * v0 + tiny)
    return (residual * residual * inverse).astype(np.float32)


def make_sample(
    x: np.ndarray, side: np.ndarray, shape: np.ndarray, R: np.ndarray, t: np.ndarray
) -> dict:
    """The sample dict described at the top of this file, with E and the distances worked out."""
    t = np.asarray(t, np.float64)
    t = t / np.linalg.norm(t)
    E = essential_matrix(R, t)
    x = np.ascontiguousarray(x, np.float32)
    return {
        "x": x,
        "side": np.ascontiguousarray(side, np.float32),
        "shape": np.ascontiguousarray(shape, np.float32),
        "R": np.asarray(R, np.float32),
        "t": t.astype(np.float32),
        "E": E.astype(np.float32),
        "distances": squared_epipolar_distances(x, E),
    }
