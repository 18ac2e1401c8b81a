"""HDF5 stores of matched image pairs with known pose: the training and test sets.

Layout (schema version 1), a superset of the OANet dumps so that code for those reads it too.
P pairs, numbered "0" ... "P-1"; N matches in a pair; side 0 and 1 are called 1 and 2 in the names
that come from OANet.

    xs/<i>        (1, N, 4) float32  x0, y0, x1, y1: calibrated, undistorted
    ys/<i>        (N, 1)    float32  squared symmetric epipolar distance, calibrated units
    Rs/<i>        (3, 3)    float64  x1 ~ R x0 + t
    ts/<i>        (3, 1)    float64  unit norm
    ratios/<i>    (N,)      float32  nearest / second-nearest descriptor distance, in [0, 1]
    mutuals/<i>   (N,)      uint8    nearest in both directions
    cx1s cy1s     (1,)      float32  principal point of image 0, pixels; cx2s cy2s of image 1
    f1s f2s       (1, 2)    float32  focal lengths (fx, fy), pixels
  not in the OANet dumps:
    px0s px1s     (N, 2)    float32  keypoints as detected, pixels, distortion not removed
    shapes0       (N, 2)    float32  OpenCV keypoint size (diameter, px), angle (degrees); shapes1
    index0s       (N,)      int32    rows among the keypoints of image 0; index1s
    distances     (N,)      float32  descriptor distance of the match
    K0s K1s       (3, 3)    float64
    dist0s dist1s (D,)      float64  distortion, OpenCV's order
    sizes         (2, 2)    int32    width, height of image 0 and of image 1
    pairs/scene, pairs/name0, pairs/name1: (P,) strings;  pairs/num_shared: (P,) int32,
                                     3-D points that both images see (0 where not known)
    attributes    schema_version, settings (JSON text of how it was made), source, licence
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

SCHEMA_VERSION = 1

# group -> (shape, dtype); "N" is the number of matches of the pair, "D" any length
_CORE = {
    "xs": ((1, "N", 4), "f4"),
    "ys": (("N", 1), "f4"),
    "Rs": ((3, 3), "f8"),
    "ts": ((3, 1), "f8"),
    "ratios": (("N",), "f4"),
    "mutuals": (("N",), "u1"),
}
_CAMERA = {
    "cx1s": ((1,), "f4"),
    "cy1s": ((1,), "f4"),
    "cx2s": ((1,), "f4"),
    "cy2s": ((1,), "f4"),
    "f1s": ((1, 2), "f4"),
    "f2s": ((1, 2), "f4"),
}
_EXTRA = {
    "px0s": (("N", 2), "f4"),
    "px1s": (("N", 2), "f4"),
    "shapes0": (("N", 2), "f4"),
    "shapes1": (("N", 2), "f4"),
    "index0s": (("N",), "i4"),
    "index1s": (("N",), "i4"),
    "distances": (("N",), "f4"),
    "K0s": ((3, 3), "f8"),
    "K1s": ((3, 3), "f8"),
    "dist0s": (("D",), "f8"),
    "dist1s": (("D",), "f8"),
    "sizes": ((2, 2), "i4"),
}


@dataclass(frozen=True)
class PairRecord:
    """One image pair with its putative matches (N of them) and its true relative pose.

    Attributes:
        scene, name0, name1: where it comes from.
        num_shared: number of 3-D points that both images see; 0 where not known.
        points0, points1: (N, 2) keypoints in pixels as detected.
        xs: (N, 4) calibrated x0, y0, x1, y1.
        distances_squared: (N,) squared symmetric epipolar distance, calibrated units.
        R: (3, 3), t: (3,) unit: x1 ~ R x0 + t.
        ratio: (N,) in [0, 1]; mutual: (N,) bool; descriptor_distance: (N,).
        index0, index1: (N,) rows among each image's keypoints.
        shapes0, shapes1: (N, 2) OpenCV keypoint size (px) and angle (degrees).
        K0, K1: (3, 3); distortion0, distortion1: (D,) in OpenCV's order.
        size0, size1: (width, height) in pixels.
    """

    scene: str
    name0: str
    name1: str
    num_shared: int
    points0: np.ndarray
    points1: np.ndarray
    xs: np.ndarray
    distances_squared: np.ndarray
    R: np.ndarray
    t: np.ndarray
    ratio: np.ndarray
    mutual: np.ndarray
    descriptor_distance: np.ndarray
    index0: np.ndarray
    index1: np.ndarray
    shapes0: np.ndarray
    shapes1: np.ndarray
    K0: np.ndarray
    K1: np.ndarray
    distortion0: np.ndarray
    distortion1: np.ndarray
    size0: tuple[int, int]
    size1: tuple[int, int]


class PairStoreWriter:
    """Writes a store in parts, so that a run killed at any moment goes on where it was.

    HDF5 files can be left unreadable when a writer dies, so no file that counts is ever open for
    writing: each part is a small store of its own in `<path>.parts/`, renamed into place when
    complete, and `finish` joins the parts into `path` in the same way. Parts are readable stores.

    Args:
        path: the store to make.
        settings: how the pairs are made, JSON-able; a resumed run must have the same.
        source, licence: free text kept in the file.

    Raises:
        ValueError: `path` or its parts exist and were made with other settings.
    """

    def __init__(self, path: str | Path, settings: dict, source: str = "", licence: str = ""):
        self.path = Path(path)
        self.parts_dir = self.path.with_name(self.path.name + ".parts")
        self._attrs = {
            "schema_version": SCHEMA_VERSION,
            "settings": json.dumps(settings, sort_keys=True),
            "source": source,
            "licence": licence,
        }
        if self.path.exists():
            self._check_settings(self.path)
        for part in sorted(self.parts_dir.glob("*.h5")):
            self._check_settings(part)

    @property
    def finished(self) -> bool:
        return self.path.exists()

    def part_path(self, name: str) -> Path:
        return self.parts_dir / f"{name}.h5"

    def has_part(self, name: str) -> bool:
        return self.part_path(name).exists()

    def write_part(self, name: str, records: Iterable[PairRecord]) -> None:
        """Write the pairs of one part; it exists afterwards, or not at all."""
        self.parts_dir.mkdir(parents=True, exist_ok=True)
        with _replacing(self.part_path(name)) as temporary, h5py.File(temporary, "w") as file:
            _write_records(file, list(records))
            file.attrs.update(self._attrs)

    def finish(self, part_names: Iterable[str]) -> Path:
        """Join the parts, in the order given, into the store; then remove them."""
        if not self.finished:
            parts = [self.part_path(name) for name in part_names]
            with _replacing(self.path) as temporary, h5py.File(temporary, "w") as file:
                _join(file, parts)
                file.attrs.update(self._attrs)
        shutil.rmtree(self.parts_dir, ignore_errors=True)
        return self.path

    def _check_settings(self, path: Path) -> None:
        with open_store(path) as file:
            found = file.attrs.get("settings")
        if found != self._attrs["settings"]:
            raise ValueError(
                f"{path}: made with settings {found}, now asked for {self._attrs['settings']}; "
                "give another path or remove it"
            )


def open_store(path: str | Path) -> h5py.File:
    """Open a store, or an OANet dump, for reading, checking its outline.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not HDF5, truncated, another schema version, or a group is missing or has
            another number of pairs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pair store")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({error})") from error
    try:
        _check_outline(path, file)
    except Exception:
        file.close()
        raise
    return file


def has_extras(file: h5py.File) -> bool:
    """Whether the store has pixels, cameras and names, which an OANet dump lacks."""
    return "pairs" in file


def read_core(file: h5py.File, index: int) -> dict[str, np.ndarray]:
    """The arrays of one pair that any layout has: xs, ys, Rs, ts, ratios, mutuals.

    Raises:
        ValueError: a field of another shape or type than the layout says; the message names the
            file and the field.
    """
    return _read(file, index, _CORE)


def read_cameras(file: h5py.File, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """K0 and K1 (3, 3) of one pair, pixels; None where the file has none."""
    if "K0s" in file:
        found = _read(file, index, {k: _EXTRA[k] for k in ("K0s", "K1s")})
        return found["K0s"], found["K1s"]
    if any(group not in file for group in _CAMERA):
        return None
    found = {group: _dataset(file, group, index)[()].ravel() for group in _CAMERA}
    return tuple(
        np.array([[f[0], 0, cx[0]], [0, f[-1], cy[0]], [0, 0, 1]], dtype=np.float64)
        for f, cx, cy in (
            (found[f"f{i}s"], found[f"cx{i}s"], found[f"cy{i}s"]) for i in (1, 2)
        )
    )


def read_record(file: h5py.File, index: int) -> PairRecord:
    """Everything about one pair.

    Raises:
        ValueError: the file lacks the extras (an OANet dump), or a field is malformed.
    """
    if not has_extras(file):
        raise ValueError(f"{file.filename}: has no pixels, cameras and names (an OANet dump?)")
    core, extra = _read(file, index, _CORE), _read(file, index, _EXTRA)
    num = core["xs"].shape[1]
    for group in ("px0s", "px1s", "shapes0", "shapes1", "index0s", "index1s", "distances"):
        if len(extra[group]) != num:
            raise _malformed(file, group, index, f"{len(extra[group])} rows", f"{num} as in xs")
    pairs = file["pairs"]
    return PairRecord(
        scene=pairs["scene"].asstr()[index],
        name0=pairs["name0"].asstr()[index],
        name1=pairs["name1"].asstr()[index],
        num_shared=int(pairs["num_shared"][index]),
        points0=extra["px0s"],
        points1=extra["px1s"],
        xs=core["xs"][0],
        distances_squared=core["ys"][:, 0],
        R=core["Rs"],
        t=core["ts"][:, 0],
        ratio=core["ratios"],
        mutual=core["mutuals"].astype(bool),
        descriptor_distance=extra["distances"],
        index0=extra["index0s"],
        index1=extra["index1s"],
        shapes0=extra["shapes0"],
        shapes1=extra["shapes1"],
        K0=extra["K0s"],
        K1=extra["K1s"],
        distortion0=extra["dist0s"],
        distortion1=extra["dist1s"],
        size0=tuple(extra["sizes"][0].tolist()),
        size1=tuple(extra["sizes"][1].tolist()),
    )


@contextlib.contextmanager
def _replacing(path: Path):
    """A temporary path beside `path` that takes its place when the block ends well."""
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_records(file: h5py.File, records: list[PairRecord]) -> None:
    layout = {**_CORE, **_CAMERA, **_EXTRA}
    for group in layout:
        file.create_group(group)
    for index, record in enumerate(records):
        for group, values in _to_groups(record).items():
            file[group].create_dataset(str(index), data=np.asarray(values, layout[group][1]))
    _write_table(
        file,
        {name: [getattr(r, name) for r in records] for name in ("scene", "name0", "name1")},
        [r.num_shared for r in records],
    )


def _write_table(file: h5py.File, names: dict[str, list[str]], num_shared: list[int]) -> None:
    table = file.create_group("pairs")
    for name, values in names.items():
        table.create_dataset(name, data=values, shape=len(values), dtype=h5py.string_dtype())
    table.create_dataset("num_shared", data=np.asarray(num_shared, np.int32))


def _to_groups(record: PairRecord) -> dict[str, np.ndarray]:
    K0, K1 = record.K0, record.K1
    return {
        "xs": record.xs[None],
        "ys": record.distances_squared[:, None],
        "Rs": record.R,
        "ts": record.t[:, None],
        "ratios": record.ratio,
        "mutuals": record.mutual,
        "cx1s": K0[0, 2:],
        "cy1s": K0[1, 2:],
        "cx2s": K1[0, 2:],
        "cy2s": K1[1, 2:],
        "f1s": [[K0[0, 0], K0[1, 1]]],
        "f2s": [[K1[0, 0], K1[1, 1]]],
        "px0s": record.points0,
        "px1s": record.points1,
        "shapes0": record.shapes0,
        "shapes1": record.shapes1,
        "index0s": record.index0,
        "index1s": record.index1,
        "distances": record.descriptor_distance,
        "K0s": K0,
        "K1s": K1,
        "dist0s": record.distortion0,
        "dist1s": record.distortion1,
        "sizes": [record.size0, record.size1],
    }


def _join(file: h5py.File, parts: list[Path]) -> None:
    names: dict[str, list[str]] = {"scene": [], "name0": [], "name1": []}
    num_shared: list[int] = []
    groups = [file.create_group(group) for group in (*_CORE, *_CAMERA, *_EXTRA)]
    for path in parts:
        with open_store(path) as part:
            offset = len(num_shared)
            for group in groups:
                source = part[group.name]
                for index in range(len(source)):
                    part.copy(source[str(index)], group, name=str(offset + index))
            for name, values in names.items():
                values.extend(part["pairs"][name].asstr()[:])
            num_shared.extend(part["pairs"]["num_shared"][:].tolist())
    _write_table(file, names, num_shared)


def _check_outline(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("schema_version")
    if version is not None and version != SCHEMA_VERSION:
        raise ValueError(f"{path}: has schema version {version}, wanted {SCHEMA_VERSION}")
    wanted = [*_CORE, *(_EXTRA if "pairs" in file else ())]
    for group in wanted:
        if not isinstance(file.get(group), h5py.Group):
            raise ValueError(f"{path}: has no group {group!r}, wanted {', '.join(wanted)}")
        if len(file[group]) != len(file["xs"]):
            raise ValueError(
                f"{path}: {group} has {len(file[group])} pairs where xs has {len(file['xs'])}"
            )


def _dataset(file: h5py.File, group: str, index: int) -> h5py.Dataset:
    dataset = file[group].get(str(index))
    if not isinstance(dataset, h5py.Dataset):
        raise _malformed(file, group, index, "no dataset", "one")
    return dataset


def _read(file: h5py.File, index: int, layout: dict) -> dict[str, np.ndarray]:
    found = {}
    lengths = {}
    for group, (shape, dtype) in layout.items():
        dataset = _dataset(file, group, index)
        # OANet's own dumps have (N, 1) where others have (N,), (1, 2) or (2,): sizes decide.
        if dataset.dtype.kind not in "fiub":
            raise _malformed(file, group, index, f"type {dataset.dtype}", "numbers")
        wanted = tuple(lengths.get(s, s) for s in shape)
        actual = dataset.shape
        if len(wanted) == 1 and len(actual) == 2 and actual[1] == 1:
            actual = actual[:1]
        if len(actual) != len(wanted) or any(
            isinstance(w, int) and w != a for w, a in zip(wanted, actual)
        ):
            raise _malformed(file, group, index, f"shape {dataset.shape}", f"{wanted}")
        if "N" in shape and "N" not in lengths:
            lengths["N"] = actual[shape.index("N")]
        found[group] = dataset[()].reshape(actual).astype(dtype, copy=False)
    return found


def _malformed(file: h5py.File, group: str, index: int, found: str, wanted: str) -> ValueError:
    return ValueError(f"{file.filename}: {group}/{index}: found {found}, wanted {wanted}")
