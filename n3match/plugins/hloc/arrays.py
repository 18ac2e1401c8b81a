"""The arrays of one image and of one pair, checked on reading."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from n3match.arguments import (
    finite_array,
    flag,
    index_array,
    instance,
    number_array,
    sequence,
    whole,
)
from n3match.files.hdf5 import copy_plain, kind_of, member, read_array
from n3match.geometry.checks import check_size

_MOST = 10_000_000  # keypoints of an image; more is a damaged file
_LARGEST_SIDE = 2**20  # pixels


@dataclass(frozen=True, eq=False)
class HlocFeatures:
    """Keypoints of one image.

    Attributes:
        keypoints: (N, 2) float64 pixels of the original image; integers are pixel centres, as
            everywhere here (hloc adds COLMAP's half pixel when it fills a database).
        size: (width, height) of the original image; None where the file doesn't say.
        descriptors: (N, D) float32, or None.
        sizes_angles: (N, 2) float64 size and angle in degrees, or None.
    """

    keypoints: np.ndarray
    size: tuple[int, int] | None
    descriptors: np.ndarray | None
    sizes_angles: np.ndarray | None

    def __len__(self) -> int:
        return len(self.keypoints)


def read_features(features: h5py.File, name: str, *, descriptors: bool = True) -> HlocFeatures:
    """The group of an image.

    Args:
        features: opened for reading.
        name: of the image.
        descriptors: read them too, where there are any.

    Raises:
        ValueError: no such image, an array of the wrong shape or kind, NaN; names file and array.
    """
    instance("features", features, h5py.Group)
    group = member(features, instance("name", name, str))
    if not isinstance(group, h5py.Group) or member(group, "keypoints") is None:
        raise ValueError(f"{features.filename}: lacks the keypoints of {name}")
    keypoints = _numbers(group, "keypoints", 2)
    count = len(keypoints)
    if keypoints.shape[1] != 2:
        raise _error(group, "keypoints", f"found shape {keypoints.shape}, wanted (N, 2)")
    size = None
    if member(group, "image_size") is not None:
        size = tuple(int(v) for v in _numbers(group, "image_size", 1, most=16))
        if len(size) != 2 or not 1 <= min(size) <= max(size) <= _LARGEST_SIDE:
            raise _error(group, "image_size", f"found {size}, wanted (width, height)")
    found = None
    if flag("descriptors", descriptors) and member(group, "descriptors") is not None:
        found = np.ascontiguousarray(_numbers(group, "descriptors", 2, np.float32).T)
        if len(found) != count:
            shape = (found.shape[1], count)
            raise _error(group, "descriptors", f"found shape {found.T.shape}, wanted {shape}")
    sizes_angles = None
    if all(member(group, name) is not None for name in ("scales", "oris")):
        columns = [_numbers(group, key, 1) for key in ("scales", "oris")]
        if any(len(column) != count for column in columns):
            raise _error(group, "scales", f"and oris: wanted {count} each, one per keypoint")
        # A negative angle means "unknown" to the filter; here it is one like another.
        sizes_angles = np.stack([columns[0], columns[1] % 360.0], axis=1)
    return HlocFeatures(keypoints.astype(np.float64), size, found, sizes_angles)


def read_matches(
    matches: h5py.File, group: str, count0: int, count1: int
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) and (M,) int64: keypoints of image 0 and of image 1 that a pair's group joins.

    Args:
        matches: opened for reading.
        group: of the pair.
        count0, count1: numbers of keypoints of its images.

    Raises:
        ValueError: another number of keypoints, an index past them; names file and pair.
    """
    instance("matches", matches, h5py.Group)
    count0, count1 = whole("count0", count0, 0), whole("count1", count1, 0)
    found = _pair_group(matches, group)
    data = _numbers(found, "matches0", 1)
    if len(data) != count0:
        raise _error(
            found, "matches0",
            f"found {len(data)} entries, but image 0 has {count0} keypoints: made with others",
        )
    index0 = np.flatnonzero(data >= 0)
    index1 = data[index0].astype(np.int64)
    if len(index1) and index1.max() >= count1:
        raise _error(
            found, "matches0",
            f"an index of {index1.max()}, but image 1 has {count1} keypoints",
        )
    return index0, index1


def write_matches(
    source: h5py.File, target: h5py.File, group: str, kept0: np.ndarray, probability: np.ndarray
) -> None:
    """Copy a pair's group with the matches of some keypoints alone, and their probabilities.

    Args:
        source, target: the matches read and the file to write.
        group: of the pair.
        kept0: (K,) keypoints of image 0 whose matches stay; all others become −1, with
            probability 0.
        probability: (K,) in [0, 1], hloc's `matching_scores0`.
    """
    instance("source", source, h5py.Group)
    instance("target", target, h5py.Group)
    found = _pair_group(source, group)
    matches0 = _numbers(found, "matches0", 1)
    kept0 = index_array("kept0", kept0, len(matches0))
    probability = finite_array("probability", probability, 1, None, "(K,)")
    if len(kept0) != len(probability):
        raise ValueError(
            f"kept0 and probability must have one length, got {len(kept0)} and {len(probability)}"
        )
    out = target.require_group(group)
    # Those of the other direction would speak of matches that are gone.
    gone = ("matches0", "matching_scores0", "matches1", "matching_scores1")
    copy_plain(found, out, but=gone)
    kept = np.full_like(matches0, -1)
    kept[kept0] = matches0[kept0]
    old = member(found, "matching_scores0")
    is_floating = isinstance(old, h5py.Dataset) and kind_of(old) == "f"
    new = np.zeros(len(matches0), old.dtype if is_floating else np.float16)
    new[kept0] = probability
    out["matches0"], out["matching_scores0"] = kept, new


def add_features(
    file: h5py.File,
    name: str,
    keypoints: np.ndarray,
    sizes_angles: np.ndarray,
    responses: np.ndarray,
    descriptors: np.ndarray,
    size: tuple[int, int],
) -> None:
    """Write the group of an image.

    Args:
        file: to write.
        name: of the image.
        keypoints: (N, 2) pixels of the original image; integers are pixel centres.
        sizes_angles: (N, 2) size and angle in degrees.
        responses: (N,) of the detector.
        descriptors: (N, D).
        size: (width, height) of the original image.

    Raises:
        ValueError, TypeError: naming the argument; a name that the file has already.
    """
    instance("file", file, h5py.Group)
    keypoints = finite_array("keypoints", keypoints, 2, 2, "(N, 2)")
    rows = {
        "sizes_angles": finite_array("sizes_angles", sizes_angles, 2, 2, "(N, 2)"),
        "responses": finite_array("responses", responses, 1, None, "(N,)"),
        "descriptors": finite_array("descriptors", descriptors, 2, None, "(N, D)"),
    }
    for argument, array in rows.items():
        if len(array) != len(keypoints):
            raise ValueError(
                f"{argument} must have a row for each of {len(keypoints)} keypoints, got "
                f"{len(array)}"
            )
    width, height = check_size("size", size)
    if max(width, height) > _LARGEST_SIDE:
        raise ValueError(f"size must be at most {_LARGEST_SIDE} pixels a side, got {size}"[:300])
    group = _new_group(file, "name", name)
    group["keypoints"] = keypoints.astype(np.float32)
    group["scales"], group["oris"] = rows["sizes_angles"].astype(np.float32).T
    group["scores"] = rows["responses"].astype(np.float32)
    group["descriptors"] = np.ascontiguousarray(rows["descriptors"].T, dtype=np.float32)
    group["image_size"] = np.array([width, height], dtype=np.int64)


def add_matches(
    file: h5py.File,
    names: tuple[str, str],
    count0: int,
    matches: np.ndarray,
    probability: np.ndarray,
) -> None:
    """Write the group of a pair.

    Args:
        file: to write.
        names: of the images.
        count0: keypoints of the first.
        matches: (K, 2) rows of their keypoints, none of the first twice.
        probability: (K,) in [0, 1], hloc's `matching_scores0`.

    Raises:
        ValueError, TypeError: naming the argument; a pair that the file has already.
    """
    instance("file", file, h5py.Group)
    if len(sequence("names", names, "two names")) != 2:
        raise ValueError(f"names must be two, got {len(names)}")
    count0 = whole("count0", count0, 0, _MOST)
    probability = finite_array("probability", probability, 1, None, "(K,)")
    matches = number_array("matches", matches)
    if matches.shape != (len(probability), 2) or (matches.size and matches.dtype.kind not in "iu"):
        raise ValueError(
            f"matches must be whole numbers of shape (K, 2) with K = {len(probability)} as "
            f"probability, got {matches.dtype} {matches.shape}"
        )
    matches = matches.astype(np.int64)
    index_array("matches", matches[:, 0], count0)
    index_array("matches", matches[:, 1], _MOST)
    joined = "/".join(instance("names", name, str).replace("/", "-") for name in names)
    group = _new_group(file, "names", joined)
    fits = not len(matches) or matches[:, 1].max() <= np.iinfo(np.int16).max
    matches0 = np.full(count0, -1, np.int16 if fits else np.int32)  # hloc's own are int16
    scores = np.zeros(count0, np.float16)
    matches0[matches[:, 0]], scores[matches[:, 0]] = matches[:, 1], probability
    group["matches0"], group["matching_scores0"] = matches0, scores


def _pair_group(matches: h5py.Group, group: str) -> h5py.Group:
    found = member(matches, instance("group", group, str))
    if not isinstance(found, h5py.Group) or found == matches:
        raise ValueError(f"{matches.file.filename}: has no group {group!r}"[:500])
    return found


def _new_group(file: h5py.Group, argument: str, name: str) -> h5py.Group:
    parts = instance(argument, name, str).split("/")
    fits = all(part not in ("", ".", "..") for part in parts) and "\0" not in name
    try:
        name.encode()
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise ValueError(f"{argument}: {name!r} can't be the name of a group"[:500])
    if member(file, name) is not None:
        raise ValueError(f"{argument}: there is {name!r} already"[:500])
    return file.create_group(name)


def _numbers(
    group: h5py.Group, name: str, dimensions: int, kind=None, *, most: int = _MOST
) -> np.ndarray:
    """A dataset of finite numbers, as `kind`, or for None: integers as they are, else float64."""
    data = member(group, name)
    if not isinstance(data, h5py.Dataset) or kind_of(data) not in "iuf":
        raise _error(group, name, "found no numbers, wanted a dataset of them")
    if data.ndim != dimensions or max(data.shape) > most:
        wanted = f"{dimensions} dimensions of at most {most}"
        raise _error(group, name, f"found shape {data.shape}, wanted {wanted}")
    values = read_array(data)
    if kind is not None:
        values = values.astype(kind)
    elif values.dtype.kind == "f":
        values = values.astype(np.float64)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _error(group, name, "holds NaN or infinite numbers")
    return values


def _error(group: h5py.Group, name: str, what: str) -> ValueError:
    return ValueError(f"{group.file.filename}: {group.name.strip('/')}/{name}: {what}")
