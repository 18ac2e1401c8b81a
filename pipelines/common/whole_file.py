"""Files that are there in full or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(path: str | os.PathLike) -> Path:
    """`path`, where a file can be written there: asked before the work that fills it.

    Raises:
        OSError: its folder is missing or not writable, or `path` is a folder itself.
    """
    path = Path(path)
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, wanted the name of a file to write")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder} to write into")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: the folder {folder} is not writable")
    return path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at the end, or removed on an error.

    Raises:
        OSError: as `check_target`, or it can't be written in full (no space left), naming it.
    """
    path = check_target(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # writing tells no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
