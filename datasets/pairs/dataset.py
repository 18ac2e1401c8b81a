"""A torch dataset over one or several pair stores."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from n3match.datasets.pairs.store import (
    PairRecord,
    has_extras,
    open_store,
    read_cameras,
    read_candidates,
    read_core,
    read_record,
    read_sizes_angles,
)
from n3match.files.hdf5 import read_array, read_texts
from n3match.matching import keypoint_change, side_info_columns
from n3match.matching.side_info import SIDE_INFO


class PairDataset(torch.utils.data.Dataset):
    """Image pairs of one or several stores (or OANet dumps), one after the other.

    Item i is a dictionary of tensors (N matches):
        x: (N, 4) float32, calibrated x0, y0, x1, y1
        side_info: (N, 5) float32, all columns of `n3match.matching.side_info`; neutral where the
            store doesn't have them
        keypoint_change: (N, 3) float32, see `n3match.matching.keypoint_change`; zeros where the
            store has no keypoint sizes and angles, or no cameras
        ys: (N,) float32, squared symmetric epipolar distance, calibrated units
        R: (3, 3), t: (3,) unit norm, E = [t]x R: (3, 3), all float64
        focal: (2,) float32, mean focal length of each camera in pixels; NaN where not known
        index: () int64, i
    `record(i)` gives everything (pixels, names, cameras), where the store has it.

    Files are opened on first use in each process, so that loader workers can share the object.

    Args:
        paths: a store, or several.

    Raises:
        FileNotFoundError, ValueError: see `store.open_store`.
    """

    def __init__(self, paths: str | Path | Sequence[str | Path]):
        self.paths = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        self._files: dict[Path, h5py.File] = {}
        self._where: list[tuple[Path, int]] = []
        self.scenes: list[str] = []
        self.num_shared: list[int] = []
        for path in self.paths:
            with open_store(path) as file:
                count = len(file["xs"])
                self._where += [(path, i) for i in range(count)]
                if has_extras(file):
                    self.scenes += read_texts(file["pairs/scene"])
                    self.num_shared += read_array(file["pairs/num_shared"]).tolist()
                else:
                    self.scenes += [""] * count
                    self.num_shared += [0] * count

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        file, row = self._locate(index)
        core, cameras = read_core(file, row), read_cameras(file, row)
        t = core["ts"][:, 0]
        length = np.linalg.norm(t)
        if length == 0:
            raise ValueError(f"{file.filename}: ts/{row}: found a zero vector, wanted a direction")
        focal = [np.nan] * 2 if cameras is None else [(K[0, 0] + K[1, 1]) / 2 for K in cameras]
        R = torch.from_numpy(core["Rs"])
        t = torch.from_numpy(t / length)
        return {
            "x": torch.from_numpy(core["xs"][0]),
            "side_info": torch.from_numpy(
                side_info_columns(
                    SIDE_INFO, core["ratios"], core["mutuals"],
                    **read_candidates(file, row), focal1=focal[1],
                ).astype(np.float32)
            ),
            "keypoint_change": torch.from_numpy(
                self._keypoint_change(file, row, len(core["ys"]), focal)
            ),
            "ys": torch.from_numpy(core["ys"][:, 0]),
            "R": R,
            "t": t,
            "E": torch.linalg.cross(t[:, None], R, dim=0),
            "focal": torch.tensor(focal, dtype=torch.float32),
            "index": torch.tensor(index),
        }

    @staticmethod
    def _keypoint_change(file: h5py.File, row: int, count: int, focal: list[float]) -> np.ndarray:
        sizes_angles = read_sizes_angles(file, row)
        if sizes_angles is None or not np.isfinite(focal).all():
            return np.zeros((count, 3), np.float32)
        return keypoint_change(*sizes_angles, *focal).astype(np.float32)

    def record(self, index: int) -> PairRecord:
        """Everything about a pair, pixels and names among it.

        Args:
            index: of the pair, from 0.

        Raises:
            ValueError: the pair is of an OANet dump, which has no pixels.
        """
        return read_record(*self._locate(index))

    def close(self) -> None:
        """Closes the files; they are opened again when they are needed."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}}

    def _locate(self, index: int) -> tuple[h5py.File, int]:
        path, row = self._where[index]
        if path not in self._files:
            self._files[path] = open_store(path)
        return self._files[path], row
