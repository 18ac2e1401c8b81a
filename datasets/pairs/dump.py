"""Pairs of an OANet-style dump (one HDF5 file, no photographs) as records of a pair store."""

import math
from pathlib import Path

import h5py
import numpy as np

from n3match.datasets.pairs.sample import essential_matrix, squared_epipolar_distances
from n3match.datasets.pairs.store import (
    CAMERA_GROUPS,
    PairRecord,
    has_extras,
    open_store,
    read_cameras,
    read_core,
    read_record,
)
from n3match.datasets.scenes.source import checked_intrinsics, checked_pose
from n3match.files.hdf5 import member


def is_pair_dump(path: Path) -> bool:
    """Whether it is a file named as HDF5, or one that is HDF5."""
    return path.is_file() and (path.suffix in (".h5", ".hdf5") or h5py.is_hdf5(path))


def count_dump(path: Path) -> int:
    """Number of pairs.

    Raises:
        FileNotFoundError, ValueError: see `open_store`; a dump without intrinsics.
    """
    with open_store(path) as file:
        if not has_extras(file):
            for group in CAMERA_GROUPS:
                if not isinstance(member(file, group), h5py.Group):
                    raise ValueError(f"{path}: has no group {group!r}, wanted the intrinsics")
        return len(file["xs"])


def read_dump_record(file: h5py.File, index: int, scene: str) -> PairRecord:
    """One pair of an open dump, its labels worked out from its pose.

    What a dump does not have is filled in so that it can be told: pixels are those of an ideal
    lens (K x), index0 and index1 are -1, descriptor distances NaN, sizes and angles (0, -1)
    ("unknown"), names the number of the pair; the image size is taken to be symmetric about the
    principal point. A pair store of ours comes back with what it has.

    Raises:
        ValueError: malformed, not finite, or with a pose or intrinsics that are none; names the
            file and the field.
    """
    if has_extras(file):
        return read_record(file, index)
    core = read_core(file, index)
    R, t = checked_pose(core["Rs"], core["ts"], f"{file.filename}: Rs/{index}, ts/{index}")
    length = float(np.linalg.norm(t))
    if length == 0:
        raise ValueError(f"{file.filename}: ts/{index}: found a zero vector, wanted a direction")
    K0, K1 = (
        checked_intrinsics(K, f"{file.filename}: f{i}s/{index}")
        for i, K in zip((1, 2), read_cameras(file, index))
    )
    x = core["xs"][0].astype(np.float64)
    ratio = core["ratios"]
    if not (np.isfinite(ratio).all() and (ratio >= 0).all() and (ratio <= 1).all()):
        raise ValueError(f"{file.filename}: ratios/{index}: found numbers outside [0, 1]")
    points0, points1 = (x[:, i : i + 2] @ K[:2, :2].T + K[:2, 2] for i, K in ((0, K0), (2, K1)))
    unknown = np.full(len(x), -1)
    no_sizes_angles = np.tile(np.float32([0, -1]), (len(x), 1))
    return PairRecord(
        scene=scene,
        name0=f"{index}-0",
        name1=f"{index}-1",
        num_shared=0,
        points0=points0,
        points1=points1,
        xs=x,
        distances_squared=squared_epipolar_distances(x, essential_matrix(R, t)),
        R=R,
        t=t / length,
        ratio=ratio,
        mutual=core["mutuals"] > 0,
        descriptor_distance=np.full(len(x), np.nan),
        index0=unknown,
        index1=unknown,
        sizes_angles0=no_sizes_angles,
        sizes_angles1=no_sizes_angles,
        K0=K0,
        K1=K1,
        distortion0=np.zeros(4),
        distortion1=np.zeros(4),
        size0=_assumed_size(K0),
        size1=_assumed_size(K1),
    )


def _assumed_size(K: np.ndarray) -> tuple[int, int]:
    return tuple(max(1, math.ceil(2 * centre + 1)) for centre in K[:2, 2])
