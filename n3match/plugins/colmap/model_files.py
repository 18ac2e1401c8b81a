"""Parse the files of a COLMAP model, binary or text.

Formats: https://colmap.github.io/format.html. Nothing is interpreted here: numbers come out as
COLMAP stores them.
"""

import itertools
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n3match.files.given import check_regular

# name -> (id in binary files, number of parameters): the models of COLMAP 4.2
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16),
    "SIMPLE_DIVISION": (12, 4),
    "DIVISION": (13, 5),
    "SIMPLE_FISHEYE": (14, 3),
    "FISHEYE": (15, 4),
    "EUCM": (16, 6),
    "EQUIRECTANGULAR": (17, 2),
}
_NAMES = {model_id: name for name, (model_id, _) in CAMERA_MODELS.items()}
_LARGEST = 1 << 34  # bytes; reconstructions of ten thousand photographs have some gigabytes
# Characters: of a line, which may have all points of an image, and of an image's name.
_LONGEST_LINE, _LONGEST_NAME = 1 << 26, 1 << 16
_TRACK_BYTES = 8  # image and point, int32 each: not kept
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


@dataclass(frozen=True)
class RawCamera:
    camera_id: int
    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class RawImage:
    """`pose` is qw, qx, qy, qz, tx, ty, tz; `point_ids` (P,) int64 has -1 for untriangulated."""

    image_id: int
    pose: tuple[float, ...]
    camera_id: int
    name: str
    point_ids: np.ndarray


def read_cameras_binary(path: Path) -> list[RawCamera]:
    """`cameras.bin`; ValueError names file and field where it ends early or is foreign."""
    with _BinaryReader(path) as reader:
        cameras = []
        for i in range(reader.take("Q", "the number of cameras")[0]):
            field = f"camera {i}"
            camera_id, model_id, width, height = reader.take("iiQQ", field)
            model = _NAMES.get(model_id, f"id {model_id}")
            _check_model(path, field, model)
            params = reader.take(f"{CAMERA_MODELS[model][1]}d", field)
            cameras.append(RawCamera(camera_id, model, width, height, params))
        reader.finish()
    return cameras


def read_images_binary(path: Path) -> list[RawImage]:
    """`images.bin`; ValueError names file and field where it ends early or is foreign."""
    with _BinaryReader(path) as reader:
        images = []
        for i in range(reader.take("Q", "the number of images")[0]):
            field = f"image {i}"
            image_id, *pose, camera_id = reader.take("i7di", field)
            name = reader.name(f"the name of {field}")
            (count,) = reader.take("Q", field)
            points = reader.array(_OBSERVATION, count, f"the points of {field}")["point"]
            images.append(RawImage(image_id, tuple(pose), camera_id, name, points.astype(np.int64)))
        reader.finish()
    return images


def read_points_binary(path: Path) -> dict[int, tuple[float, float, float]]:
    """Positions by id from `points3D.bin`; ValueError as the other readers."""
    with _BinaryReader(path) as reader:
        points = {}
        for i in range(reader.take("Q", "the number of points")[0]):
            point_id, *xyz, _, _, _, _, track = reader.take("Q3d3BdQ", f"point {i}")
            reader.skip(track * _TRACK_BYTES, f"the track of point {i}")
            points[point_id] = tuple(xyz)
        reader.finish()
    return points


def read_points_text(path: Path) -> dict[int, tuple[float, float, float]]:
    """Positions by id from `points3D.txt`: lines ID X Y Z R G B ERROR TRACK."""
    points = {}
    for number, line in _lines(path):
        words = line.split(maxsplit=4)
        if words and len(words) < 5:
            raise ValueError(
                f"{path}: line {number}: found {line[:200]!r}, wanted ID X Y Z ..."
            )
        if words:
            (point_id,) = _numbers(path, f"line {number}", words[:1], int)
            points[point_id] = _numbers(path, f"line {number}", words[1:4], float)
    return points


def read_cameras_text(path: Path) -> list[RawCamera]:
    """`cameras.txt`: a line each with CAMERA_ID MODEL WIDTH HEIGHT PARAMS."""
    cameras = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        field = f"line {number}"
        words = line.split()
        if len(words) < 4:
            raise ValueError(
                f"{path}: {field}: found {line[:200]!r}, wanted ID MODEL WIDTH HEIGHT ..."
            )
        _check_model(path, field, words[1])
        camera_id, width, height = _numbers(path, field, [words[0], *words[2:4]], int)
        params = _numbers(path, field, words[4:], float)
        wanted = CAMERA_MODELS[words[1]][1]
        if len(params) != wanted:
            raise ValueError(f"{path}: {field}: found {len(params)} parameters, wanted {wanted}")
        cameras.append(RawCamera(camera_id, words[1], width, height, params))
    return cameras


def read_images_text(path: Path) -> list[RawImage]:
    """`images.txt`: two lines each, ID Q(4) T(3) CAMERA_ID NAME and triples X Y POINT3D_ID."""
    lines = list(_lines(path))
    # A blank line can be an image without points, but not the first of its two.
    while lines and not lines[-1][1].strip() and len(lines) % 2:
        lines.pop()
    images = []
    for (number, line), (_, points) in zip(lines[::2], [*lines[1::2], (0, "")]):
        field = f"line {number}"
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(
                f"{path}: {field}: found {line[:200]!r}, wanted ID Q(4) T(3) CAMERA NAME"
            )
        image_id, camera_id = _numbers(path, field, [words[0], words[8]], int)
        pose = _numbers(path, field, words[1:8], float)
        observations = points.split()
        if len(observations) % 3:
            raise ValueError(f"{path}: line {number + 1}: wanted triples X Y POINT3D_ID")
        ids = _numbers(path, f"line {number + 1}", observations[2::3], int)
        name = words[9].rstrip()
        images.append(RawImage(image_id, pose, camera_id, name, np.array(ids, dtype=np.int64)))
    return images


class _BinaryReader:
    """Little-endian fields of a file; says which field the file ends in. A context."""

    def __init__(self, path: Path):
        self.path = check_regular(path, _LARGEST)
        self.left = self.path.stat().st_size
        self.file = self.path.open("rb")

    def __enter__(self) -> "_BinaryReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def take(self, layout: str, field: str) -> tuple:
        return struct.unpack("<" + layout, self._read(struct.calcsize("<" + layout), field))

    def array(self, dtype: np.dtype, count: int, field: str) -> np.ndarray:
        return np.frombuffer(self._read(count * dtype.itemsize, field), dtype, count)

    def skip(self, size: int, field: str) -> None:
        if size > self.left:
            raise ValueError(f"{self.path}: ends inside {field} (truncated, or another format)")
        self.file.seek(size, os.SEEK_CUR)
        self.left -= size

    def name(self, field: str) -> str:
        found = bytearray()
        while (byte := self._read(1, field)) != b"\0":
            found += byte
            if len(found) > _LONGEST_NAME:
                raise ValueError(f"{self.path}: {field} is longer than {_LONGEST_NAME} bytes")
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: {field} is not UTF-8") from error

    def finish(self) -> None:
        if self.left:
            raise ValueError(f"{self.path}: {self.left} bytes left over after the last entry")

    def _read(self, size: int, field: str) -> bytes:
        # Compared before anything is read: a count may be of more than there is memory for.
        found = self.file.read(size) if size <= self.left else b""
        if len(found) < size:
            raise ValueError(f"{self.path}: ends inside {field} (truncated, or another format)")
        self.left -= size
        return found


def _lines(path: Path):
    """Numbered lines without comments."""
    with check_regular(path, _LARGEST).open(encoding="utf-8") as file:
        for number in itertools.count(1):
            try:
                line = file.readline(_LONGEST_LINE + 1)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: not a text file in UTF-8") from error
            if len(line) > _LONGEST_LINE:
                raise ValueError(
                    f"{path}: line {number} is longer than {_LONGEST_LINE} characters"
                )
            if not line:
                return
            if not line.startswith("#"):
                yield number, line.rstrip("\n")


def _numbers(path: Path, field: str, words: list[str], kind: type) -> tuple:
    try:
        found = tuple(kind(word) for word in words)
        if kind is int and found:
            np.array([min(found), max(found)], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {field}: found {error}, wanted {kind.__name__}s") from error
    return found


def _check_model(path: Path, field: str, model: str) -> None:
    if model not in CAMERA_MODELS:
        wanted = ", ".join(CAMERA_MODELS)
        raise ValueError(f"{path}: {field} has camera model {model}, supported are {wanted}")
