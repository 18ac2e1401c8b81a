"""Results on the way, in a file that a kill at any moment leaves usable.

A log is a header line (JSON: what the results depend on) and records: lengths of key and payload,
a checksum, key, payload. A record that was being written when the process ended is cut off when
the log is opened again; all before it count.
"""

from __future__ import annotations

import glob
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_HEAD = struct.Struct("<III")  # bytes of the key, bytes of the payload, CRC-32 of both


class ProgressLog:
    """Append results under keys, and read them again after the process was stopped.

    Attributes:
        path: of the log.
        resumed: number of results found on opening.
        discarded: whether a log was there that depends on something else, and was begun anew.
    """

    def __init__(self, path: Path, depends_on: dict):
        """
        Args:
            path: of the log; its folder exists.
            depends_on: JSON-like; results of a log with another one are thrown away.

        Raises:
            ValueError: another process has the log open. OSError: it can't be written.
        """
        self.path = path
        header = json.dumps(depends_on, sort_keys=True).encode() + b"\n"
        self._file = path.open("a+b", buffering=0)
        lock_file(self._file, path)
        self._places: dict[str, tuple[int, int]] = {}
        self._file.seek(0)
        size = os.fstat(self._file.fileno()).st_size
        same = size >= len(header) and self._file.read(len(header)) == header
        self.discarded = size > 0 and not same
        end = len(header)
        if same:
            for key, start, length in self._records(len(header), size):
                self._places[key] = (start, length)
                end = start + length
            self._file.truncate(end)
        else:
            self._file.truncate(0)
            self._file.write(header)
        self._end = end
        self.resumed = len(self._places)

    def __enter__(self) -> ProgressLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def write(self, key: str, payload: bytes) -> None:
        """Append one result; it is kept whatever happens to this process afterwards."""
        name = key.encode()
        head = _HEAD.pack(len(name), len(payload), zlib.crc32(name + payload))
        data = head + name + payload
        # Less than all is written where the disk is full, and the next call then says so.
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])
        self._places[key] = (self._end + _HEAD.size + len(name), len(payload))
        self._end += len(data)

    def read(self, key: str) -> bytes:
        """The result under a key. Raises KeyError where there is none."""
        start, length = self._places[key]
        self._file.seek(start)
        return self._file.read(length)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Close it and delete the file: the results are where they belong."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _records(self, position: int, size: int) -> Iterator[tuple[str, int, int]]:
        """(key, start of the payload, its length) of each whole record."""
        while position + _HEAD.size <= size:
            self._file.seek(position)
            key_length, length, checksum = _HEAD.unpack(self._file.read(_HEAD.size))
            start = position + _HEAD.size + key_length
            if start + length > size:
                return
            data = self._file.read(key_length + length)
            if zlib.crc32(data) != checksum:
                return
            yield data[:key_length].decode(), start, length
            position = start + length


def lock_file(file: IO, path: Path) -> None:
    """Hold a file open for this process alone, where the system has such locks.

    Raises:
        ValueError: another process holds it; `path` is named.
    """
    try:
        import fcntl
    except ImportError:
        return  # no such locks on this system
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ValueError(f"{path}: in use: another run is writing this result") from error


def part_path(out: Path) -> Path:
    """Where a run keeps what is done."""
    return out.with_name(f"{out.name}.part")


def remove_leftovers(out: Path) -> None:
    """Delete the temporary files of runs that were killed while they wrote `out`, a database's
    journal among them.

    Call it with the log of `part_path` open: no other run is at work then.
    """
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.*.tmp*"):
        leftover.unlink(missing_ok=True)
