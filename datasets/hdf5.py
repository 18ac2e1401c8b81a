"""HDF5 files opened for reading."""

from pathlib import Path

import h5py


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
    except OSError as error:
        raise ValueError(f"{path}: not {kind} ({error})") from error
