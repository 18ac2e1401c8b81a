"""A COLMAP database (SQLite), without COLMAP: keypoints, cameras and matches read, results written.

Tables: https://colmap.github.io/database.html. Positions come out with pixel centres at integers,
half a pixel below COLMAP's; indices of matches are as stored. A pair's number is
id1 · 2147483647 + id2; its matches are of image id1 (first column) and id2.
"""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from n3match.arguments import whole
from n3match.plugins.colmap.model import ColmapCamera, UnsupportedCamera, camera_from_raw
from n3match.plugins.colmap.model_files import CAMERA_MODELS, RawCamera

_TABLES = {"cameras", "images", "keypoints", "matches", "two_view_geometries"}
_MAX_IMAGES = 2147483647
_WAIT_SECONDS = 3.0
_LARGEST_VALUE = 1 << 29  # bytes: the descriptors of four million keypoints
# COLMAP's numbers for what a two-view geometry is.
DEGENERATE, CALIBRATED, UNCALIBRATED, PANORAMIC, PLANAR_OR_PANORAMIC = 1, 2, 3, 5, 6


@dataclass(frozen=True, eq=False)
class DatabaseKeypoints:
    """Keypoints of one image.

    Attributes:
        points: (N, 2) float64, pixel centres at integers.
        sizes_angles: (N, 2) float64 scale in pixels and angle in degrees, or None.
    """

    points: np.ndarray
    sizes_angles: np.ndarray | None


@dataclass(frozen=True, eq=False)
class PairResult:
    """What is to be written for a pair, all about image id1 to id2 of its number.

    Attributes:
        before: checksum of the matches that this result is from.
        matches: (K, 2) uint32 kept.
        geometry: of them; None to leave a pair without, for COLMAP to verify.
        probability: that the pair is real, see `Verdict.pair_probability`; NaN where nobody asked.
        left_out: kept matches that are not among `matches`, because that is too small.
    """

    before: int
    matches: np.ndarray
    geometry: TwoViewGeometry | None
    probability: float = math.nan
    left_out: int = 0


@dataclass(frozen=True, eq=False)
class TwoViewGeometry:
    """A row of `two_view_geometries`.

    Attributes:
        config: DEGENERATE, CALIBRATED, UNCALIBRATED, PANORAMIC or PLANAR_OR_PANORAMIC.
        inliers: (I, 2) uint32.
        E, F, H: (3, 3) float64 or None; F and H in COLMAP's pixels without distortion.
        qvec, tvec: (4,) w, x, y, z and (3,) with x2 ~ R x1 + t, or None.
    """

    config: int
    inliers: np.ndarray
    E: np.ndarray | None = None
    F: np.ndarray | None = None
    H: np.ndarray | None = None
    qvec: np.ndarray | None = None
    tvec: np.ndarray | None = None


class ColmapDatabase:
    """An open database; a context manager.

    Args:
        path: of the database, which must exist.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a COLMAP database, damaged, or locked by another program; every method may
            say so. The message names the file.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such database")
        self.path = path
        self._connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            self._distrust()
            found = {
                name for (name,) in self._all("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
        except ValueError:
            self.close()
            raise
        missing = sorted(_TABLES - found)
        if missing:
            self.close()
            raise ValueError(f"{path}: not a COLMAP database: lacks tables {', '.join(missing)}")

    def _distrust(self) -> None:
        """A schema can hold programs (views, triggers, columns that are worked out): they call
        nothing but SQLite's own harmless functions, and those that would write are not there."""
        self._all("PRAGMA trusted_schema = OFF")
        self._all("PRAGMA cell_size_check = ON")
        if hasattr(self._connection, "setlimit"):  # from Python 3.11 on
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
        programs = self._all("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        # Of a column that is worked out, however it is spelt, `hidden` is 2 or 3.
        programs += self._all(
            "SELECT t.name FROM sqlite_master t, pragma_table_xinfo(t.name) c "
            "WHERE t.type = 'table' AND c.hidden > 1"
        )
        if programs:
            raise ValueError(
                f"{self.path}: not a COLMAP database: {programs[0][0]!r} in it is a program"
            )

    def __enter__(self) -> ColmapDatabase:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database; nothing can be read from it any more."""
        self._connection.close()

    def check_writable(self) -> None:
        """Raises ValueError where another program holds the database."""
        self._all("BEGIN IMMEDIATE")
        self._all("ROLLBACK")

    def cameras(self) -> dict[int, ColmapCamera]:
        """All cameras by their ids, with pixel centres at integers, but for unsupported ones."""
        return {key: camera for key, camera in self._cameras() if not isinstance(camera, str)}

    def unsupported_cameras(self) -> dict[int, str]:
        """Why a camera, by its id, is not among `cameras`: panoramas, and models unknown here."""
        return {key: camera for key, camera in self._cameras() if isinstance(camera, str)}

    def _cameras(self) -> Iterator[tuple[int, ColmapCamera | str]]:
        names = {number: name for name, (number, _) in CAMERA_MODELS.items()}
        for key, model, width, height, blob, prior in self._all(
            "SELECT camera_id, model, width, height, params, prior_focal_length FROM cameras"
        ):
            self._check_whole(f"camera {key}", key, model, width, height)
            name = names.get(model)
            params = tuple(self._array(blob, "<f8", f"camera {key}").tolist())
            if name is None or len(params) != CAMERA_MODELS[name][1]:
                yield key, (
                    f"{self.path}: camera {key}: model {name or model} with {len(params)} "
                    f"parameters, known are {', '.join(CAMERA_MODELS)}"
                )
                continue
            try:
                camera = camera_from_raw(self.path, RawCamera(key, name, width, height, params))
            except UnsupportedCamera as error:
                yield key, str(error)
            else:
                yield key, replace(camera, guessed=not prior)

    def images(self) -> dict[int, tuple[str, int]]:
        """(name, camera id) by image id."""
        rows = self._all("SELECT image_id, name, camera_id FROM images")
        for key, name, camera in rows:
            self._check_whole(f"image {key}", key, camera)
            if not isinstance(name, str) or not name:
                raise ValueError(f"{self.path}: image {key}: has the name {name!r}"[:500])
        return {key: (name, camera) for key, name, camera in rows}

    def keypoints(self, image_id: int) -> DatabaseKeypoints:
        """The keypoints of an image.

        Args:
            image_id: of the image.

        Raises:
            ValueError: the database has none of this image, or malformed ones.
        """
        where = f"keypoints of image {image_id}"
        table = self._table("keypoints", "image_id", image_id, "<f4", where)
        if table is None:
            raise ValueError(f"{self.path}: lacks the {where}")
        table = table.astype(np.float64)
        columns = table.shape[1]
        if not len(table):
            return DatabaseKeypoints(np.zeros((0, 2)), None)
        if columns not in (2, 4, 6) or not np.isfinite(table).all():
            raise ValueError(f"{self.path}: {where}: wanted (N, 2), (N, 4) or (N, 6) numbers")
        sizes_angles = None
        if columns == 4:
            sizes_angles = np.stack([table[:, 2], np.degrees(table[:, 3]) % 360.0], axis=1)
        elif columns == 6:  # a11, a12, a21, a22 of the affine shape
            a11, a12, a21, a22 = table[:, 2:].T
            scale = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2
            angle = np.degrees(np.arctan2(a21, a11)) % 360.0
            sizes_angles = np.stack([scale, angle], axis=1)
        return DatabaseKeypoints(table[:, :2] - 0.5, sizes_angles)

    def descriptors(self, image_id: int) -> np.ndarray | None:
        """(N, 128) float32 where they are SIFT's (bytes), else None.

        Args:
            image_id: of the image.
        """
        if not self._all("SELECT 1 FROM sqlite_master WHERE name = 'descriptors'"):
            return None
        where = f"descriptors of image {image_id}"
        try:
            found = self._table("descriptors", "image_id", image_id, "u1", where)
        except ValueError:
            return None  # of another kind than bytes
        return None if found is None or found.shape[1] != 128 else found.astype(np.float32)

    def pairs(self) -> list[int]:
        """Numbers of the pairs with matches."""
        found = [key for (key,) in self._all("SELECT pair_id FROM matches ORDER BY pair_id")]
        self._check_whole("matches", *found)
        if found and min(found) < 0:
            raise ValueError(f"{self.path}: matches: found the pair {min(found)}")
        return found

    def matches(self, pair_id: int) -> np.ndarray:
        """(M, 2) uint32 rows of keypoints of image id1 and image id2.

        Args:
            pair_id: the pair's number, see `pair_number`.

        Raises:
            ValueError: the database has none of this pair, or malformed ones.
        """
        where = f"matches of pair {pair_ids(pair_id)}"
        found = self._table("matches", "pair_id", pair_id, "<u4", where)
        if found is None:
            raise ValueError(f"{self.path}: lacks the {where}")
        if len(found) and found.shape[1] != 2:
            raise ValueError(f"{self.path}: {where}: found {found.shape[1]} columns, wanted 2")
        return found.reshape(-1, 2)

    def write(self, results: Iterable[tuple[int, PairResult]]) -> int:
        """Write all results in one transaction; those written before are left as they are.

        Args:
            results: number and result of each pair.

        Returns:
            The number of pairs written.

        Raises:
            ValueError: a pair has matches that its result is not from.
        """
        self._all("BEGIN IMMEDIATE")
        try:
            written = sum(self._write(pair_id, result) for pair_id, result in results)
            self._all("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise
        return written

    def copy_to(self, path: Path) -> None:
        """A copy as one file, whatever the journal mode of this one.

        Args:
            path: of the copy.

        Raises:
            ValueError: it can't be written.
        """
        target = sqlite3.connect(path)
        try:
            self._connection.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise ValueError(f"{self.path}: can't be copied to {path} ({error})") from error
        finally:
            target.close()

    def _write(self, pair_id: int, result: PairResult) -> bool:
        now = checksum(self.matches(pair_id))
        if now != result.before:
            if now == checksum(result.matches):
                return False
            raise ValueError(
                f"{self.path}: the matches of pair {pair_ids(pair_id)} were changed meanwhile; "
                "run the command again"
            )
        matches, geometry = result.matches, result.geometry
        self._all(
            "UPDATE matches SET rows = ?, cols = 2, data = ? WHERE pair_id = ?",
            (len(matches), matches.astype("<u4").tobytes(), pair_id),
        )
        self._all("DELETE FROM two_view_geometries WHERE pair_id = ?", (pair_id,))
        if geometry is not None:
            self._insert_geometry(pair_id, geometry)
        return True

    def _insert_geometry(self, pair_id: int, geometry: TwoViewGeometry) -> None:
        row = {
            "pair_id": pair_id,
            "rows": len(geometry.inliers),
            "cols": 2,
            "data": geometry.inliers.astype("<u4").tobytes(),
            "config": geometry.config,
        }
        for name in ("E", "F", "H", "qvec", "tvec"):  # row by row, float64
            value = getattr(geometry, name)
            row[name] = None if value is None else value.astype("<f8").tobytes()
        # Databases of older versions lack qvec and tvec.
        known = {column[1] for column in self._all("PRAGMA table_info(two_view_geometries)")}
        self._insert("two_view_geometries", **{k: v for k, v in row.items() if k in known})

    def _insert(self, table: str, **row: object) -> None:
        marks = ", ".join("?" * len(row))
        self._all(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row.values())

    def _table(self, table: str, key: str, value: int, kind: str, where: str):
        rows = self._all(f"SELECT rows, cols, data FROM {table} WHERE {key} = ?", (value,))
        if not rows:
            return None
        count, columns, blob = rows[0]
        self._check_whole(where, count, columns)
        array = self._array(blob, kind, where)
        if count < 0 or columns < 0 or len(array) != count * columns:
            raise ValueError(
                f"{self.path}: {where}: {len(array)} numbers for {count} x {columns}"
            )
        return array.reshape(count, columns)

    def _check_whole(self, where: str, *values: object) -> None:
        """SQLite keeps any value in any column."""
        for value in values:
            if not isinstance(value, int):
                shown = repr(value)[:100]
                raise ValueError(f"{self.path}: {where}: found {shown}, wanted a whole number")

    def _array(self, blob: bytes | None, kind: str, where: str) -> np.ndarray:
        blob = blob or b""
        if not isinstance(blob, bytes) or len(blob) % np.dtype(kind).itemsize:
            raise ValueError(f"{self.path}: {where}: damaged")
        return np.frombuffer(blob, kind)

    def _all(self, statement: str, values: Iterable = ()) -> list[tuple]:
        try:
            return self._connection.execute(statement, tuple(values)).fetchall()
        except (sqlite3.DataError, OverflowError, UnicodeError) as error:
            raise ValueError(f"{self.path}: damaged ({error})") from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise ValueError(
                    f"{self.path}: locked by another program (is COLMAP at work on it?)"
                ) from error
            raise ValueError(f"{self.path}: {error}") from error
        except (sqlite3.Error, MemoryError) as error:
            raise ValueError(f"{self.path}: not a readable SQLite database ({error})") from error


def pair_ids(pair_id: int) -> tuple[int, int]:
    """Image ids (id1, id2) of a pair's number.

    Args:
        pair_id: the number.
    """
    pair_id = whole("pair_id", pair_id, 0)
    id2 = pair_id % _MAX_IMAGES
    return (pair_id - id2) // _MAX_IMAGES, id2


def pair_number(id1: int, id2: int) -> int:
    """The number of a pair, for id1 < id2 (COLMAP swaps others).

    Args:
        id1, id2: image ids.
    """
    id1, id2 = whole("id1", id1, 0, _MAX_IMAGES - 1), whole("id2", id2, 0, _MAX_IMAGES - 1)
    return id1 * _MAX_IMAGES + id2


def checksum(matches: np.ndarray) -> int:
    """A number that tells whether matches are still those that were read.

    Args:
        matches: (M, 2) uint32 of one pair.

    Returns:
        CRC-32 of their bytes.
    """
    return zlib.crc32(np.ascontiguousarray(matches, dtype="<u4").tobytes())
