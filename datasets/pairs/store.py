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
    px0s px1s     (N, 2)    float32  keypoints as detected, pixels, distortion not removed; of
                                     lenses that OpenCV's coefficients can't describe (fisheye) the
                                     pixels of an ideal lens with the same K, distortion zero
    shapes0       (N, 2)    float32  OpenCV keypoint size (diameter, px), angle (degrees); shapes1
    index0s       (N,)      int32    rows among the keypoints of image 0, -1: not known; index1s
    distances     (N,)      float32  descriptor distance of the match
    K0s K1s       (3, 3)    float64
    dist0s dist1s (D,)      float64  distortion, OpenCV's order
    sizes         (2, 2)    int32    width, height of image 0 and of image 1
  only of pairs whose descriptors were matched here (not in stores of earlier versions):
    back_ratios   (N,)      float32  ratio the other way round, in [0, 2]
    aparts        (N,)      float32  pixels from the nearest to the second nearest in image 1; inf
                                     where there is no second
  only of pairs whose second nearest neighbours were matched, too (likewise):
    near_mutuals  (N,)      uint8    each is among the other's two nearest
    second/<group>/<i>               M matches more, of keypoints to their second nearest, that are
                                     among the two nearest both ways: groups xs, ys, ratios (in
                                     [1, 2]), px0s, px1s, shapes0, shapes1, index0s, index1s,
                                     distances, back_ratios, aparts, as above
    pairs/scene, pairs/name0, pairs/name1: (P,) strings;  pairs/num_shared: (P,) int32,
                                     3-D points that both images see (0 where not known)
    Arrays from 1 kB on are chunked and compressed (gzip); N is each pair's own.
    left_out      (Q,) strings       pairs left out on purpose, and why
    problems      (Q,) strings       what could not be read or used, and why
    attributes    schema_version, settings (JSON text of how it was made), source, licence
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from n3match.files.hdf5 import (
    attribute,
    check_plain,
    count_members,
    kind_of,
    member,
    open_hdf5,
    read_array,
    read_texts,
)
from n3match.matching import FEATURES

SCHEMA_VERSION = 1

# group -> (shape, dtype); "N" is the number of matches of the pair, "D" any length
CORE_GROUPS = {
    "xs": ((1, "N", 4), "f4"),
    "ys": (("N", 1), "f4"),
    "Rs": ((3, 3), "f8"),
    "ts": ((3, 1), "f8"),
    "ratios": (("N",), "f4"),
    "mutuals": (("N",), "u1"),
}
CAMERA_GROUPS = {
    **dict.fromkeys(("cx1s", "cy1s", "cx2s", "cy2s"), ((1,), "f4")),
    **dict.fromkeys(("f1s", "f2s"), ((1, 2), "f4")),
}
EXTRA_GROUPS = {
    **dict.fromkeys(("px0s", "px1s", "shapes0", "shapes1"), (("N", 2), "f4")),
    **dict.fromkeys(("index0s", "index1s"), (("N",), "i4")),
    "distances": (("N",), "f4"),
    **dict.fromkeys(("K0s", "K1s"), ((3, 3), "f8")),
    **dict.fromkeys(("dist0s", "dist1s"), (("D",), "f8")),
    "sizes": ((2, 2), "i4"),
}
# Of some pairs only: a group may lack some of them, or all.
OPTIONAL_GROUPS = {
    **dict.fromkeys(("back_ratios", "aparts"), (("N",), "f4")), "near_mutuals": (("N",), "u1")
}
# Fields of a record that are stored as they are.
FIELD_GROUPS = {
    "points0": "px0s", "points1": "px1s", "R": "Rs", "ratio": "ratios",
    "descriptor_distance": "distances", "index0": "index0s", "index1": "index1s",
    "sizes_angles0": "shapes0", "sizes_angles1": "shapes1", "K0": "K0s", "K1": "K1s",
    "distortion0": "dist0s", "distortion1": "dist1s",
}
OPTIONAL_FIELD_GROUPS = {
    "back_ratio": "back_ratios", "apart": "aparts", "near_mutual": "near_mutuals"
}
# What differs from match to match; of second nearest neighbours there is this alone.
SECOND = "second"
ROW_FIELDS = {
    "xs": "xs", "distances_squared": "ys", "points0": "px0s", "points1": "px1s",
    "ratio": "ratios", "descriptor_distance": "distances", "index0": "index0s",
    "index1": "index1s", "sizes_angles0": "shapes0", "sizes_angles1": "shapes1",
    "back_ratio": "back_ratios", "apart": "aparts",
}
_ROWS = (*ROW_FIELDS, "mutual", "near_mutual")
_LAYOUTS = CORE_GROUPS | EXTRA_GROUPS | OPTIONAL_GROUPS
SECOND_GROUPS = {group: _LAYOUTS[group] for group in ROW_FIELDS.values()}
_FINITE = ("xs", "Rs", "ts")
_TABLE = ("scene", "name0", "name1", "num_shared")


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
        sizes_angles0, sizes_angles1: (N, 2) OpenCV keypoint size (px) and angle (degrees).
        K0, K1: (3, 3); distortion0, distortion1: (D,) in OpenCV's order.
        size0, size1: (width, height) in pixels.
        back_ratio, apart: (N,), see `matching.PutativeMatches`; None where not known.
        near_mutual: (N,) bool, each is among the other's two nearest; None where not known.
        second: M matches more of the same pair, of keypoints to their second nearest, which are
            near_mutual all; None where they weren't sought.
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
    sizes_angles0: np.ndarray
    sizes_angles1: np.ndarray
    K0: np.ndarray
    K1: np.ndarray
    distortion0: np.ndarray
    distortion1: np.ndarray
    size0: tuple[int, int]
    size1: tuple[int, int]
    back_ratio: np.ndarray | None = None
    apart: np.ndarray | None = None
    near_mutual: np.ndarray | None = None
    second: "PairRecord | None" = None

    def with_second(self) -> "PairRecord":
        """All N + M matches, those of second nearest neighbours last; itself where there are none.
        """
        if self.second is None:
            return self
        rows = {
            name: np.concatenate([getattr(self, name), getattr(self.second, name)])
            for name in _ROWS
        }
        return replace(self, **rows, second=None)

    def split(self, count: int) -> "PairRecord":
        """The other way: the matches behind the first `count` become `second`.

        Args:
            count: N, of N + M.
        """
        first, second = (
            replace(self, **{name: getattr(self, name)[rows] for name in _ROWS})
            for rows in (slice(count), slice(count, None))
        )
        return replace(first, second=second)


def open_store(path: str | Path) -> h5py.File:
    """Open a store, or an OANet dump, for reading, checking its outline.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not HDF5, truncated, another schema version, or a group is missing or has
            another number of pairs.
    """
    path = Path(path)
    file = open_hdf5(path, missing="no such pair store")
    try:
        _check_outline(path, file)
    except Exception:
        file.close()
        raise
    return file


def stored_feature(kind: str) -> str:
    """What a store's settings call one of `n3match.matching.FEATURES`."""
    return "opencv-sift-root" if kind == "sift" else f"opencv-{kind}"


def read_settings(file: h5py.File) -> dict[str, Any]:
    """How a store was made; empty where it doesn't say."""
    try:
        found = json.loads(attribute(file, "settings") or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_feature(file: h5py.File) -> str | None:
    """Of which of `n3match.matching.FEATURES` a store's matches are; None where it doesn't say."""
    found = read_settings(file).get("feature")
    return next((kind for kind in FEATURES if stored_feature(kind) == found), None)


@dataclass(frozen=True)
class StoreReport:
    """What is missing from a store: `left_out` on purpose, `problems` for want of usable data."""

    left_out: list[str]
    problems: list[str]


def read_report(path: str | Path) -> StoreReport:
    """What was left out when a store was made; nothing for stores that don't say.

    Args:
        path: of the store.

    Raises:
        FileNotFoundError, ValueError: see `open_store`.
    """
    with open_store(path) as file:
        found = (member(file, name) for name in ("left_out", "problems"))
        return StoreReport(*([] if dataset is None else read_texts(dataset) for dataset in found))


def has_extras(file: h5py.File) -> bool:
    """Whether the store has pixels, cameras and names, which an OANet dump lacks."""
    return member(file, "pairs") is not None


def has_second(path: str | Path) -> bool:
    """Whether a store has second nearest neighbours of any pair, which those of earlier versions
    and OANet dumps lack.

    Raises:
        FileNotFoundError, ValueError: see `open_store`.
    """
    with open_store(path) as file:
        group = member(file, f"{SECOND}/xs")
        return isinstance(group, h5py.Group) and count_members(group) > 0


def read_core(file: h5py.File, index: int) -> dict[str, np.ndarray]:
    """The arrays of one pair that any layout has: xs, ys, Rs, ts, ratios, mutuals.

    Raises:
        ValueError: a field of another shape or type than the layout says; the message names the
            file and the field.
    """
    return _read(file, index, CORE_GROUPS)


def read_cameras(file: h5py.File, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """K0 and K1 (3, 3) of one pair, pixels; None where the file has none."""
    if member(file, "K0s") is not None:
        found = _read(file, index, {k: EXTRA_GROUPS[k] for k in ("K0s", "K1s")})
        return found["K0s"], found["K1s"]
    if any(member(file, group) is None for group in CAMERA_GROUPS):
        return None
    found = {group: read_array(_dataset(file, group, index)).ravel() for group in CAMERA_GROUPS}
    for group, values in found.items():
        sizes = (1, 2) if group.startswith("f") else (1,)
        if values.size not in sizes:
            raise _malformed(file, group, index, f"{values.size} numbers", f"{sizes}")
    return tuple(
        np.array([[f[0], 0, cx[0]], [0, f[-1], cy[0]], [0, 0, 1]], dtype=np.float64)
        for f, cx, cy in ((found[f"f{i}s"], found[f"cx{i}s"], found[f"cy{i}s"]) for i in (1, 2))
    )


def read_sizes_angles(file: h5py.File, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Keypoint size and angle (N, 2) of each match in both images; None where the file has none."""
    if any(member(file, group) is None for group in ("shapes0", "shapes1")):
        return None
    layout = {"xs": CORE_GROUPS["xs"], **{k: EXTRA_GROUPS[k] for k in ("shapes0", "shapes1")}}
    found = _read(file, index, layout)
    return found["shapes0"], found["shapes1"]


def read_candidates(file: h5py.File, index: int) -> dict[str, np.ndarray | None]:
    """What only some pairs have of their matches' candidates: back_ratio, distance, apart and
    near_mutual, (N,) each; None where the file has none."""
    kinds = {"distances": EXTRA_GROUPS["distances"], **OPTIONAL_GROUPS}
    layout = {g: kind for g, kind in kinds.items() if member(file, f"{g}/{index}") is not None}
    found = _read(file, index, {"xs": CORE_GROUPS["xs"], **layout}) if layout else {}
    fields = {**OPTIONAL_FIELD_GROUPS, "distance": "distances"}
    candidates = {field: found.get(group) for field, group in fields.items()}
    near = candidates["near_mutual"]
    return {**candidates, "near_mutual": None if near is None else near.astype(bool)}


def read_second(file: h5py.File, index: int) -> dict[str, np.ndarray] | None:
    """What one pair has of second nearest neighbours, (M, …) by field of `ROW_FIELDS`; None where
    the file has none, or lacks the same groups of the nearest ones."""
    groups = (f"{SECOND}/xs", "distances", *OPTIONAL_GROUPS)
    if any(member(file, f"{group}/{index}") is None for group in groups):
        return None
    found = _read(file[SECOND], index, SECOND_GROUPS)
    found |= {"xs": found["xs"][0], "ys": found["ys"][:, 0]}
    return {field: found[group] for field, group in ROW_FIELDS.items()}


def read_record(file: h5py.File, index: int) -> PairRecord:
    """Everything about one pair.

    Args:
        file: of `open_store`, with extras.
        index: number of the pair, from 0.

    Raises:
        ValueError: the file lacks the extras (an OANet dump), or a field is malformed.
    """
    if not has_extras(file):
        raise ValueError(f"{file.filename}: has no pixels, cameras and names (an OANet dump?)")
    found = _read(file, index, CORE_GROUPS | EXTRA_GROUPS)
    pairs, candidates = file["pairs"], read_candidates(file, index)
    record = PairRecord(
        **{name: _text(pairs[name], index) for name in ("scene", "name0", "name1")},
        num_shared=int(_entry(pairs["num_shared"], index)),
        xs=found["xs"][0],
        distances_squared=found["ys"][:, 0],
        t=found["ts"][:, 0],
        mutual=found["mutuals"].astype(bool),
        **{field: found[group] for field, group in FIELD_GROUPS.items()},
        size0=tuple(found["sizes"][0].tolist()),
        size1=tuple(found["sizes"][1].tolist()),
        **{field: candidates[field] for field in OPTIONAL_FIELD_GROUPS},
    )
    second = read_second(file, index)
    if second is None:
        return record
    count = len(second["xs"])
    flags = {"mutual": np.zeros(count, bool), "near_mutual": np.ones(count, bool)}
    return replace(record, second=replace(record, **second, **flags))


def _check_outline(path: Path, file: h5py.File) -> None:
    version = attribute(file, "schema_version")
    if version is not None and not (np.ndim(version) == 0 and version == SCHEMA_VERSION):
        raise ValueError(f"{path}: has schema version {version}, wanted {SCHEMA_VERSION}")
    table = member(file, "pairs")
    wanted = [*CORE_GROUPS, *(EXTRA_GROUPS if table is not None else ())]
    pairs = None
    for group in wanted:
        found = member(file, group)
        if not isinstance(found, h5py.Group):
            raise ValueError(f"{path}: has no group {group!r}, wanted {', '.join(wanted)}")
        count = count_members(found)
        pairs = count if pairs is None else pairs
        if count != pairs:
            raise ValueError(f"{path}: {group} has {count} pairs where xs has {pairs}")
    for name in _TABLE if table is not None else ():
        column = member(table, name) if isinstance(table, h5py.Group) else None
        if not isinstance(column, h5py.Dataset) or column.shape != (pairs,):
            raise ValueError(f"{path}: pairs/{name}: wanted one entry for each pair in xs")
        check_plain(column)
        is_text = h5py.check_string_dtype(column.dtype) is not None
        if not is_text if name != "num_shared" else column.dtype.kind not in "iu":
            raise ValueError(f"{path}: pairs/{name}: found type {column.dtype}")


def _text(column: h5py.Dataset, index: int) -> str:
    try:
        return str(column.asstr()[index])
    except (OSError, RuntimeError, UnicodeError, ValueError) as error:
        raise ValueError(f"{column.file.filename}: {column.name}: damaged ({error})") from error


def _entry(column: h5py.Dataset, index: int) -> int:
    try:
        return int(column[index])
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{column.file.filename}: {column.name}: damaged ({error})") from error


def _dataset(file: h5py.Group, group: str, index: int) -> h5py.Dataset:
    dataset = member(file, f"{group}/{index}")
    if not isinstance(dataset, h5py.Dataset):
        raise _malformed(file, group, index, "no dataset", "one")
    if kind_of(dataset) not in "fiub":
        raise _malformed(file, group, index, f"type {dataset.dtype}", "numbers")
    return dataset


def shape_fits(found: tuple[int, ...], wanted: tuple, num_matches: int) -> bool:
    """Whether a shape is the layout's for a pair of N matches; "D" stands for any length."""
    sizes = tuple(num_matches if size == "N" else size for size in wanted)
    return len(found) == len(sizes) and all(s in ("D", f) for f, s in zip(found, sizes))


def _read(file: h5py.Group, index: int, layout: dict) -> dict[str, np.ndarray]:
    num_matches = None
    found = {}
    for group, (wanted, dtype) in layout.items():
        dataset = _dataset(file, group, index)
        shape = dataset.shape
        # Some dumps keep ratios and flags as (N, 1).
        if len(wanted) == 1 and len(shape) == 2 and shape[1] == 1:
            shape = shape[:1]
        if group == "xs" and len(shape) == 3:
            num_matches = shape[1]
        if not shape_fits(shape, wanted, num_matches):
            with_n = "" if num_matches is None else f" with N = {num_matches} as in xs"
            raise _malformed(file, group, index, f"shape {shape}", f"{wanted}{with_n}")
        values = read_array(dataset)
        found[group] = values.reshape(shape).astype(dtype, copy=False)
        if group in _FINITE and not np.isfinite(found[group]).all():
            raise _malformed(file, group, index, "NaN or inf", "finite numbers")
    return found


def _malformed(file: h5py.Group, group: str, index: int, found: str, wanted: str) -> ValueError:
    name = f"{file.name}/{group}/{index}".lstrip("/")
    return ValueError(f"{file.file.filename}: {name}: found {found}, wanted {wanted}")
