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
    read_second,
    read_sizes_angles,
)
from n3match.files.hdf5 import read_array, read_texts
from n3match.matching import keypoint_change, side_info_columns
from n3match.matching.side_info import SIDE_INFO
from n3match.nn.config import MOST_WITH_SECOND


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
        second_nearest: pairs are as filters see them that look at second nearest neighbours: where
            the store has these, and the pair no more than `MOST_WITH_SECOND` nearest ones, they
            come behind the others, and the column `mutual` is 1 for all that are among the two
            nearest both ways.

    Raises:
        FileNotFoundError, ValueError: see `store.open_store`.
    """

    def __init__(
        self, paths: str | Path | Sequence[str | Path], *, second_nearest: bool = False
    ):
        self._second_nearest = second_nearest
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
        x, ys, side_info, change = self._matches(file, row, core, focal)
        R = torch.from_numpy(core["Rs"])
        t = torch.from_numpy(t / length)
        return {
            "x": torch.from_numpy(x),
            "side_info": torch.from_numpy(side_info.astype(np.float32)),
            "keypoint_change": torch.from_numpy(change.astype(np.float32)),
            "ys": torch.from_numpy(ys),
            "R": R,
            "t": t,
            "E": torch.linalg.cross(t[:, None], R, dim=0),
            "focal": torch.tensor(focal, dtype=torch.float32),
            "index": torch.tensor(index),
        }

    def _matches(
        self, file: h5py.File, row: int, core: dict[str, np.ndarray], focal: list[float]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """x, ys, side information and keypoint change of a pair's matches."""
        known = read_candidates(file, row)
        near_mutual = known.pop("near_mutual")
        known |= {"ratio": core["ratios"], "mutual": core["mutuals"]}
        points = {"x": core["xs"][0], "ys": core["ys"][:, 0]}
        shapes = read_sizes_angles(file, row)
        few = len(points["x"]) <= MOST_WITH_SECOND
        second = read_second(file, row) if self._second_nearest and few else None
        if second is not None:
            more = {
                "x": second["xs"], "ys": second["distances_squared"], "ratio": second["ratio"],
                "mutual": np.ones(len(second["xs"])), "back_ratio": second["back_ratio"],
                "distance": second["descriptor_distance"], "apart": second["apart"],
            }
            known["mutual"] = near_mutual
            known, points = (
                {name: np.concatenate([rows, more[name]]) for name, rows in some.items()}
                for some in (known, points)
            )
            if shapes is not None:
                sides = (second["sizes_angles0"], second["sizes_angles1"])
                shapes = tuple(np.concatenate([a, b]) for a, b in zip(shapes, sides))
        if shapes is None or not np.isfinite(focal).all():
            change = np.zeros((len(points["x"]), 3))
        else:
            change = keypoint_change(*shapes, *focal)
        side_info = side_info_columns(SIDE_INFO, focal1=focal[1], **known)
        return points["x"], points["ys"], side_info, change

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
