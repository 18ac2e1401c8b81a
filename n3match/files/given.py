"""Files of others: regular ones alone are read, up to a size, and names in them lead nowhere else.

A pipe would be waited for, and a device read without end.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path, PureWindowsPath
from typing import Any

#: Bytes of a file that is read into memory as a whole, and of a text.
LARGEST, LARGEST_TEXT = 1 << 30, 1 << 28


def check_regular(path: str | os.PathLike, most: int = LARGEST) -> Path:
    """The path of a file with bytes in it, not of a folder, a pipe or a device.

    Args:
        path: of the file, or a link to it.
        most: bytes that it may have.

    Raises:
        FileNotFoundError: no such file. ValueError: something else, or larger; names it.
    """
    given = Path(path)
    try:
        found = given.stat()
    except ValueError as error:  # a name that no file can have
        raise FileNotFoundError(f"{str(path)!r}: no such file") from error
    except OSError as error:
        raise FileNotFoundError(f"{path}: no such file ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise ValueError(f"{path}: is {kind}, wanted a file")
    if found.st_size > most:
        raise ValueError(f"{path}: holds {found.st_size} bytes, wanted at most {most}")
    return given


def read_bytes(path: str | os.PathLike, most: int = LARGEST) -> bytes:
    """What a file holds.

    Raises:
        FileNotFoundError, ValueError: see `check_regular`. OSError: it can't be read.
    """
    return check_regular(path, most).read_bytes()


def read_text(path: str | os.PathLike, most: int = LARGEST_TEXT) -> str:
    """What a text file holds.

    Raises:
        ValueError: not in UTF-8; and as `read_bytes`.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8") from error


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The entries of a JSON object.

    Args:
        text: of a file. where: what is said to be damaged.

    Raises:
        ValueError: no JSON, or no object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({' '.join(str(error).split())})"[:500]) from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: holds a {type(found).__name__}, wanted a JSON object")
    return found


def inside(folder: Path, name: str, where: object) -> Path:
    """The path of a name that a file gives, in a folder.

    Args:
        folder: that it is relative to.
        name: as the file has it.
        where: the file, for the message.

    Raises:
        ValueError: the name leads out of the folder, or no file can have it.
    """
    # Windows' rules are the stricter ones: they have drives and two kinds of slashes.
    path = PureWindowsPath(name)
    if ".." in path.parts or path.anchor or "\0" in name or not name:
        raise ValueError(f"{where}: the name {name[:200]!r} leads out of the folder {folder}")
    return folder / name
