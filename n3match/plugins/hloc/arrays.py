"""The arrays of one image and of one pair, checked on reading."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

_MOST = 10_000_000  # keypoints of an image; more is a damaged file


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
    group = features.get(name)
    if not isinstance(group, h5py.Group) or "keypoints" not in group:
        raise ValueError(f"{features.filename}: lacks the keypoints of {name}")
    keypoints = _numbers(group, "keypoints", 2)
    count = len(keypoints)
    if keypoints.shape[1] != 2:
        raise _error(group, "keypoints", f"found shape {keypoints.shape}, wanted (N, 2)")
    size = None
    if "image_size" in group:
        size = tuple(int(v) for v in _numbers(group, "image_size", 1))
        if len(size) != 2 or min(size) < 1:
            raise _error(group, "image_size", f"found {size}, wanted (width, height)")
    found = None
    if descriptors and "descriptors" in group:
        found = np.ascontiguousarray(_numbers(group, "descriptors", 2, np.float32).T)
        if len(found) != count:
            shape = (found.shape[1], count)
            raise _error(group, "descriptors", f"found shape {found.T.shape}, wanted {shape}")
    sizes_angles = None
    if "scales" in group and "oris" in group:
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
    data = _numbers(matches[group], "matches0", 1)
    if len(data) != count0:
        raise _error(
            matches[group], "matches0",
            f"found {len(data)} entries, but image 0 has {count0} keypoints: made with others",
        )
    index0 = np.flatnonzero(data >= 0)
    index1 = data[index0].astype(np.int64)
    if len(index1) and index1.max() >= count1:
        raise _error(
            matches[group], "matches0",
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
    found = source[group]
    out = target.require_group(group)
    for key, value in found.attrs.items():
        out.attrs[key] = value
    for key in found:
        # Those of the other direction would speak of matches that are gone.
        if key not in ("matches0", "matching_scores0", "matches1", "matching_scores1"):
            found.copy(key, out)
    matches0 = found["matches0"][()]
    kept = np.full_like(matches0, -1)
    kept[kept0] = matches0[kept0]
    old = found.get("matching_scores0")
    new = np.zeros(len(matches0), np.float16 if old is None else old.dtype)
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
    """
    group = file.create_group(name)
    group["keypoints"] = keypoints.astype(np.float32)
    group["scales"], group["oris"] = sizes_angles.astype(np.float32).T
    group["scores"] = responses.astype(np.float32)
    group["descriptors"] = np.ascontiguousarray(descriptors.T, dtype=np.float32)
    group["image_size"] = np.array(size)


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
    """
    group = file.create_group("/".join(name.replace("/", "-") for name in names))
    fits = not len(matches) or matches[:, 1].max() <= np.iinfo(np.int16).max
    matches0 = np.full(count0, -1, np.int16 if fits else np.int32)  # hloc's own are int16
    scores = np.zeros(count0, np.float16)
    matches0[matches[:, 0]], scores[matches[:, 0]] = matches[:, 1], probability
    group["matches0"], group["matching_scores0"] = matches0, scores


def _numbers(group: h5py.Group, name: str, dimensions: int, kind=None) -> np.ndarray:
    """A dataset of finite numbers, as `kind`, or for None: integers as they are, else float64."""
    data = group.get(name)
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf":
        raise _error(group, name, "found no numbers, wanted a dataset of them")
    if data.ndim != dimensions or max(data.shape) > _MOST:
        wanted = f"{dimensions} dimensions of at most {_MOST}"
        raise _error(group, name, f"found shape {data.shape}, wanted {wanted}")
    try:
        values = data[()]
    except OSError as error:
        raise _error(group, name, f"damaged ({error})") from error
    if kind is not None:
        values = values.astype(kind)
    elif values.dtype.kind == "f":
        values = values.astype(np.float64)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _error(group, name, "holds NaN or infinite numbers")
    return values


def _error(group: h5py.Group, name: str, what: str) -> ValueError:
    return ValueError(f"{group.file.filename}: {group.name.strip('/')}/{name}: {what}")
