"""HDF5 files that are written: a full disk is an error with a name, and nothing worse."""

from __future__ import annotations

import io
import os

import h5py


class NewHdf5(h5py.File):
    """An empty HDF5 file to be filled, that may meet the end of the disk.

    HDF5 itself doesn't survive that: it can't close a file that it can't write, tries again, and
    ends the process with a segmentation fault. So it isn't told: from the first write that fails
    what it writes is held in memory until it has closed the file, and then the error is raised.

    Args:
        path: of the file.
        options: for `h5py.File`.

    Raises:
        OSError: by `check` and `close`, where a write has failed; it names no file, see
            `whole_file`.
    """

    def __init__(self, path: str | os.PathLike, **options):
        self._disk = _Disk(io.FileIO(path, "w+"))
        super().__init__(self._disk, "w", **options)

    def check(self) -> None:
        """To be asked now and then where much is written: raises the error of a write so far."""
        error = self._disk.error
        if error is not None:
            raise OSError(error.errno, error.strerror)

    def close(self) -> None:
        """Writes what is left; closed once, it is closed."""
        if self._disk.closed:
            return
        try:
            super().close()
        finally:
            self._disk.close()
        self.check()


class _Disk(io.RawIOBase):
    """A file whose writes don't fail: what can't be written is held.

    Args:
        file: unbuffered, empty.

    Attributes:
        error: of the first write that failed.
    """

    def __init__(self, file: io.FileIO):
        self.error: OSError | None = None
        self._file = file
        self._at = self._end = 0
        self._held: list[tuple[int, bytes]] = []  # places and what comes there, later ones last

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def write(self, data) -> int:
        with memoryview(data).cast("B") as view:
            length = len(view)
            try:
                if self.error is None:
                    self._write(view)
            except OSError as error:
                self.error = error
            if self.error is not None:
                self._held.append((self._at, bytes(view)))
        self._at += length
        self._end = max(self._end, self._at)
        return length

    def _write(self, view: memoryview) -> None:
        self._file.seek(self._at)
        done = 0
        while done < len(view):  # less is written, first, where the space ends
            done += self._file.write(view[done:])

    def readinto(self, buffer) -> int:
        with memoryview(buffer).cast("B") as view:
            view[:] = bytes(len(view))
            self._file.seek(self._at)
            done = 0
            while part := self._file.readinto(view[done:]):
                done += part
            for start, data in self._held:
                low, high = max(start, self._at), min(start + len(data), self._at + len(view))
                if low < high:
                    view[low - self._at : high - self._at] = data[low - start : high - start]
            self._at += len(view)
            return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        try:
            if self.error is None:
                self._file.truncate(self._end)
        except OSError as error:
            self.error = error
        return self._end

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
