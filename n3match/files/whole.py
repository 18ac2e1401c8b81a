"""Files that are there in full or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_target(path: str | os.PathLike, suffix: str = "") -> Path:
    """`path`, where a file can be written there: asked before the work that fills it.

    Args:
        path: of the file.
        suffix: what its name has to end in, in small or large letters; "": anything.

    Raises:
        ValueError: another ending. OSError: its folder is missing or not writable, or `path` is a
            folder itself, a pipe or a device.
    """
    given, path = os.fspath(path), Path(path)
    if suffix and path.suffix.lower() != suffix:
        raise ValueError(f"{given}: wanted a name that ends in {suffix}")
    folder = path.parent
    if os.path.isdir(path) or given.endswith(os.sep):
        raise IsADirectoryError(f"{given}: is a folder, wanted the name of a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        # The rename would put a file in its place.
        raise OSError(f"{given}: is a pipe or a device, wanted the name of a file to write")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{given}: there is no folder {folder} to write into")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{given}: the folder {folder} is not writable")
    return path


@contextmanager
def whole_file(path: str | os.PathLike, temporary_folder: Path | None = None) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at the end, or removed on an error.

    The name is this process's own: one left by a process that was killed, or is just being killed,
    is never taken for it.

    Args:
        path: of the file.
        temporary_folder: for the temporary name, on the same disk; None: that of `path`.

    Raises:
        OSError: as `check_target`, or it can't be written in full (no space left), naming it.
    """
    path = check_target(path)
    temporary = (temporary_folder or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.unlink(missing_ok=True)
        # Made here, anew: in a folder that others write to, the name may be their link.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # writing tells no name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Makes the folder and writes the file: afterwards it holds all of `content`, or what it held.

    Text is written as UTF-8 with its line ends as they are.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
