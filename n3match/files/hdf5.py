"""HDF5 files of others: nothing outside the file is opened, and no more memory taken than is told.

HDF5 can point elsewhere (external links, external storage, virtual datasets), unpacks a few bytes
to gigabytes, and loads filters from plugins. All of this is found in the headers, and refused,
before any data is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

#: Bytes of an array in memory: far more than the keypoints, descriptors or matches of anything.
LARGEST = 1 << 30
# What gzip packs at most, and what may be unpacked without a look at that.
_DENSEST, _SMALL = 1100, 1 << 20
# A chunk is unpacked as a whole, however little of it is wanted.
_LARGEST_CHUNK = 1 << 26
_TEXTS = 64  # read at a time
# Of HDF5 itself and of h5py (lzf); all others would be plugins.
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset",
            32000: "lzf"}  # fmt: skip
# What h5py makes of a damaged file, with a message of HDF5's.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


def open_hdf5(
    path: Path, missing: str = "no such file", kind: str = "a readable HDF5 file"
) -> h5py.File:
    """The file, open; `missing` is said where there is none, `kind` where it is something else.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {missing}")
    try:
        return h5py.File(path, "r")
    except _DAMAGE as error:
        raise ValueError(f"{path}: not {kind} ({_line(error)})") from error


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What lies under a name in a group; None where there is nothing.

    Args:
        group: of an open file.
        name: in the group, or the names on the way with "/" between them.

    Raises:
        ValueError: a link to elsewhere is on the way, or it is damaged; names the file.
    """
    found: h5py.Group | h5py.Dataset | None = group
    for part in _text(name).split("/"):
        if part == "":
            continue
        if part in (".", "..") or "\0" in part or not isinstance(found, h5py.Group):
            return None
        found = _direct_member(found, part)
    return found


def _direct_member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    # Its place is text for messages alone: members are many.
    try:
        link = group.get(name, getlink=True)
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            return group.get(name)
    except _DAMAGE as error:
        raise ValueError(f"{place(group, name)}: damaged ({_line(error)})") from error
    kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place"
    where = place(group, name)
    raise ValueError(f"{where}: is a link to {kind}, which isn't followed: copy the data")


def members(group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Names and what lies under them, as of `member`.

    Args:
        group: of an open file.

    Raises:
        ValueError: as there.
    """
    try:
        names = list(group)
    except (*_DAMAGE, UnicodeError) as error:
        raise ValueError(f"{place(group)}: damaged ({_line(error)})") from error
    for name in names:
        found = member(group, name)
        if found is not None:
            yield name, found


def count_members(group: h5py.Group) -> int:
    """How many there are.

    Raises:
        ValueError: damaged; names the file.
    """
    try:
        return len(group)
    except _DAMAGE as error:
        raise ValueError(f"{place(group)}: damaged ({_line(error)})") from error


def check_plain(dataset: h5py.Dataset) -> None:
    """Require a dataset that lies in its file, packed by known filters, of a size that can be.

    Args:
        dataset: of an open file.

    Raises:
        ValueError: naming the file, the dataset and what was found.
    """
    try:
        shape, item, chunks = dataset.shape, dataset.dtype.itemsize, dataset.chunks
        is_virtual, elsewhere = dataset.is_virtual, dataset.external
        stored = dataset.id.get_storage_size()
        created = dataset.id.get_create_plist()
        filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    except _DAMAGE as error:
        raise ValueError(f"{place(dataset)}: damaged ({_line(error)})") from error
    wrong = _wrong_storage(shape, item, chunks, stored)
    unknown = [number for number in filters if number not in _FILTERS]
    if unknown:
        known = ", ".join(_FILTERS.values())
        wrong = f"packed by the filter {unknown[0]}, known are {known}"
    if is_virtual or elsewhere:
        wrong = "its data lie in another file, which isn't opened"
    if wrong:
        raise ValueError(f"{place(dataset)}: {wrong}")


def _wrong_storage(
    shape: tuple[int, ...] | None, item: int, chunks: tuple[int, ...] | None, stored: int
) -> str:
    """What can't be of a dataset's sizes; "" if nothing."""
    if shape is None:
        return "holds nothing"
    size = math.prod(shape) * item
    if size > LARGEST:
        return f"{size} bytes of shape {shape}, wanted at most {LARGEST}"
    # Nothing needs to be stored of what was never written, which reads as zeros.
    if size > max(_SMALL, _DENSEST * stored):
        return f"{size} bytes of shape {shape}, of which {stored} are stored"
    if chunks is not None and math.prod(chunks) * item > max(4 * size, _LARGEST_CHUNK):
        return f"chunks of shape {chunks} for an array of {shape}"
    return ""


def read_array(dataset: h5py.Dataset) -> np.ndarray:
    """The numbers of a dataset, after `check_plain`.

    Args:
        dataset: of an open file.

    Raises:
        ValueError: as there; not numbers, or damaged.
    """
    check_plain(dataset)
    kind = kind_of(dataset)
    if kind not in "biuf":
        raise ValueError(f"{place(dataset)}: found type {dataset.dtype}, wanted numbers")
    try:
        return np.asarray(dataset[()])
    except _DAMAGE as error:
        raise ValueError(f"{place(dataset)}: damaged ({_line(error)})") from error


def read_texts(dataset: h5py.Dataset) -> list[str]:
    """The texts of a one-dimensional dataset, after `check_plain`.

    Args:
        dataset: of an open file.

    Raises:
        ValueError: as there; not text, or damaged.
    """
    check_plain(dataset)
    try:
        kind = h5py.check_string_dtype(dataset.dtype)
        if dataset.ndim != 1 or kind is None:
            found = f"{dataset.dtype} of shape {dataset.shape}"
            raise ValueError(f"found {found}, wanted a list of texts")
        # Texts of any length lie in a heap: many entries may be one and the same large text.
        left = None if kind.length is not None else dataset.file.id.get_filesize()
        texts: list[str] = []
        for start in range(0, len(dataset), _TEXTS):
            some = [str(text) for text in dataset.asstr()[start : start + _TEXTS]]
            if left is not None:
                left -= sum(map(len, some))
                if left < 0:
                    raise ValueError("found more text than the file has bytes")
            texts += some
        return texts
    except (*_DAMAGE, UnicodeError) as error:
        raise ValueError(f"{place(dataset)}: {_line(error)}") from error


def attribute(group: h5py.Group, name: str) -> object:
    """The value of an attribute; None where there is none, or it can't be read.

    Args:
        group: of an open file.
        name: of the attribute.
    """
    try:
        return group.attrs.get(name)
    except (*_DAMAGE, UnicodeError):
        return None


def copy_plain(source: h5py.Group, target: h5py.Group, but: tuple[str, ...] = ()) -> None:
    """Copies what a group holds, attributes too, into another: data alone, no links.

    Args:
        source: of a file that is read. target: of one that is written.
        but: names that are left out.

    Raises:
        ValueError: a link to elsewhere, or damage; names the file.
    """
    _copy(source, target, but, set())


def _copy(
    source: h5py.Group, target: h5py.Group, but: tuple[str, ...], seen: set[int]
) -> None:
    where = h5py.h5o.get_info(source.id).addr
    if where in seen:  # groups in a circle, or with many names, would be copied without end
        raise ValueError(f"{place(source)}: is a group that has another name too, wanted one")
    seen.add(where)
    for name, found in members(source):
        if name in but:
            continue
        if isinstance(found, h5py.Group):
            _copy(found, target.require_group(name), (), seen)
            continue
        if not isinstance(found, h5py.Dataset):
            continue
        check_plain(found)
        try:
            source.copy(found, target, name)
        except _DAMAGE as error:
            raise ValueError(f"{place(source, name)}: damaged ({_line(error)})") from error
    try:
        for key, value in source.attrs.items():
            target.attrs[key] = value
    except (*_DAMAGE, UnicodeError) as error:
        raise ValueError(f"{place(source)}: damaged attributes ({_line(error)})") from error


def place(item: h5py.Group | h5py.Dataset, name: str = "") -> str:
    """File and name, for messages.

    Args:
        item: of an open file.
        name: of something in it.
    """
    inside = "/".join(part for part in ((item.name or "").strip("/"), _text(name)) if part)
    return f"{item.file.filename}: {inside}" if inside else str(item.file.filename)


def kind_of(dataset: h5py.Dataset) -> str:
    """The kind of numbers in a dataset, as of NumPy; "": each entry is several.

    Args:
        dataset: of an open file.

    Raises:
        ValueError: a type that NumPy hasn't; names the file.
    """
    try:
        return "" if dataset.dtype.subdtype or dataset.dtype.names else dataset.dtype.kind
    except _DAMAGE as error:
        raise ValueError(f"{place(dataset)}: damaged ({_line(error)})") from error


def _text(name: str) -> str:
    """A name that h5py gives as bytes where it isn't UTF-8."""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
