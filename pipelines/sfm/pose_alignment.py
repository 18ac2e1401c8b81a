"""Camera poses of a reconstruction against given ones, after a similarity transformation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Pose = tuple[np.ndarray, np.ndarray]  # R (3, 3), t (3,): x_camera = R X + t


@dataclass(frozen=True)
class PoseErrors:
    """Of the cameras in both sets, (N,) each, in the order of their names.

    Attributes:
        rotation: degrees.
        position: distance of the centres as a share of the largest between two given ones.
    """

    rotation: np.ndarray
    position: np.ndarray


def pose_errors(found: dict[str, Pose], given: dict[str, Pose]) -> PoseErrors | None:
    """Errors of found poses, by image name, or None for fewer than three common cameras.

    The similarity is from centres and rotations together: centres alone leave a turn open where
    they lie on a line, as those of a walk past a building do.
    """
    names = sorted(found.keys() & given.keys())
    if len(names) < 3:
        return None
    centres = np.array([_centre(found[name]) for name in names])
    wanted = np.array([_centre(given[name]) for name in names])
    relative = np.mean([given[name][0].T @ found[name][0] for name in names], axis=0)
    scale, A, b = similarity(centres, wanted, relative)
    all_given = np.array([_centre(pose) for pose in given.values()])
    extent = np.linalg.norm(all_given[:, None] - all_given[None], axis=-1).max()
    position = np.linalg.norm(scale * centres @ A.T + b - wanted, axis=1) / extent
    turns = np.array([found[name][0] @ A.T @ given[name][0].T for name in names])
    cosine = (np.trace(turns, axis1=1, axis2=2) - 1) / 2
    return PoseErrors(np.degrees(np.arccos(np.clip(cosine, -1, 1))), position)


def similarity(
    source: np.ndarray, target: np.ndarray, turn: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """s, A, b with target ≈ s A source + b and A ≈ turn, in least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, with the chordal distance of A and `turn` added to that of the points, which are
    taken in units of their spread.

    Args:
        source, target: (N, 3) points.
        turn: (3, 3) mean of what each camera says of A, (3, 3) rotation matrices.
    """
    mean0, mean1 = source.mean(axis=0), target.mean(axis=0)
    centred0, centred1 = source - mean0, target - mean1
    spread0, spread1 = np.linalg.norm(centred0), np.linalg.norm(centred1)
    U, _, Vt = np.linalg.svd(centred1.T @ centred0 / max(spread0 * spread1, 1e-300) + turn)
    A = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt)) or 1.0]) @ Vt
    scale = float((centred1 * (centred0 @ A.T)).sum() / max(spread0**2, 1e-300))
    return scale, A, mean1 - scale * A @ mean0


def _centre(pose: Pose) -> np.ndarray:
    R, t = pose
    return -R.T @ t
