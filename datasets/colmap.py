"""Read COLMAP reconstructions (cameras, poses, covisibility) without COLMAP.

Formats: https://colmap.github.io/format.html (binary). COLMAP puts the centre of the first pixel at
(0.5, 0.5); here, as in OpenCV, it is at (0, 0): principal points are moved by -0.5 on reading.
"""

import struct
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

# model id -> (name, number of parameters)
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
}


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics of one camera.

    Attributes:
        width, height: image size in pixels.
        K: (3, 3) float64, pixel centres at integers.
        distortion: (4,) float64, OpenCV's k1, k2, p1, p2.
    """

    width: int
    height: int
    K: np.ndarray
    distortion: np.ndarray


@dataclass(frozen=True)
class ColmapImage:
    """Pose of one photograph: x_camera = R X_world + t.

    Attributes:
        name: file name relative to the images' folder.
        camera_id: key into `ColmapModel.cameras`.
        R: (3, 3) float64; t: (3,) float64 in the units of the reconstruction.
        point_ids: (P,) int64, sorted ids of the distinct 3-D points seen.
    """

    name: str
    camera_id: int
    R: np.ndarray
    t: np.ndarray
    point_ids: np.ndarray


@dataclass(frozen=True)
class ColmapModel:
    """`cameras` and `images`, by their ids in the reconstruction."""

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]

    def camera_of(self, image_id: int) -> ColmapCamera:
        return self.cameras[self.images[image_id].camera_id]


class _Reader:
    """Little-endian fields from a file held in memory; names file and field when it ends early."""

    def __init__(self, path: Path):
        self.path, self.data, self.offset = path, path.read_bytes(), 0

    def take(self, fmt: str, field: str) -> tuple:
        size = struct.calcsize("<" + fmt)
        self._need(size, field)
        values = struct.unpack_from("<" + fmt, self.data, self.offset)
        self.offset += size
        return values

    def array(self, dtype: np.dtype, count: int, field: str) -> np.ndarray:
        self._need(count * dtype.itemsize, field)
        values = np.frombuffer(self.data, dtype, count, self.offset)
        self.offset += count * dtype.itemsize
        return values

    def name(self, field: str) -> str:
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            raise ValueError(f"{self.path}: ends inside {field}")
        value = self.data[self.offset : end]
        self.offset = end + 1
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: {field} is not UTF-8") from error

    def finish(self) -> None:
        if self.offset != len(self.data):
            extra = len(self.data) - self.offset
            raise ValueError(f"{self.path}: {extra} bytes left over after the last entry")

    def _need(self, size: int, field: str) -> None:
        if self.offset + size > len(self.data):
            raise ValueError(f"{self.path}: ends inside {field} (truncated, or another format)")


def read_colmap_model(path: str | Path) -> ColmapModel:
    """Read `cameras.bin` and `images.bin` of a reconstruction.

    Covisibility needs only the point ids in `images.bin`; `points3D.bin` is not read.

    Args:
        path: the folder of the model.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: truncated or foreign file, unsupported camera model, image of unknown camera.
    """
    path = Path(path)
    cameras = _read_cameras(path / "cameras.bin")
    images = _read_images(path / "images.bin")
    for image in images.values():
        if image.camera_id not in cameras:
            raise ValueError(f"{path}: image {image.name!r} has unknown camera {image.camera_id}")
    return ColmapModel(cameras, images)


def relative_pose(image0: ColmapImage, image1: ColmapImage) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3) and t (3,) with x1 ~ R x0 + t; t in the units of the reconstruction."""
    R = image1.R @ image0.R.T
    return R, image1.t - R @ image0.t


def covisible_pairs(model: ColmapModel, min_shared: int = 20) -> list[tuple[int, int, int]]:
    """Pairs of image ids that see common 3-D points, ordered by the images' names.

    Returns:
        (id0, id1, number of shared points) with name0 < name1 and at least `min_shared` points.
    """
    by_point: dict[int, list[int]] = {}
    for image_id in sorted(model.images, key=lambda i: model.images[i].name):
        for point in model.images[image_id].point_ids.tolist():
            by_point.setdefault(point, []).append(image_id)
    shared = Counter(pair for seen in by_point.values() for pair in combinations(seen, 2))
    names = {i: image.name for i, image in model.images.items()}
    pairs = [(a, b, count) for (a, b), count in shared.items() if count >= min_shared]
    return sorted(pairs, key=lambda p: (names[p[0]], names[p[1]]))


def _read_cameras(path: Path) -> dict[int, ColmapCamera]:
    reader = _Reader(path)
    cameras = {}
    (count,) = reader.take("Q", "the number of cameras")
    for i in range(count):
        field = f"camera {i}"
        camera_id, model, width, height = reader.take("iiQQ", field)
        if model not in _MODELS:
            names = ", ".join(name for name, _ in _MODELS.values())
            raise ValueError(f"{path}: {field} has model id {model}; supported are {names}")
        name, size = _MODELS[model]
        params = reader.take(f"{size}d", field)
        cameras[camera_id] = _camera(name, width, height, params)
    reader.finish()
    return cameras


def _camera(name: str, width: int, height: int, params: tuple[float, ...]) -> ColmapCamera:
    if name in ("PINHOLE", "OPENCV"):
        (fx, fy, cx, cy), rest = params[:4], params[4:]
    else:
        fx, cx, cy = params[:3]
        fy, rest = fx, params[3:]
    distortion = np.zeros(4)
    distortion[: len(rest)] = rest
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    return ColmapCamera(int(width), int(height), K, distortion)


def _read_images(path: Path) -> dict[int, ColmapImage]:
    reader = _Reader(path)
    observation = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
    images = {}
    (count,) = reader.take("Q", "the number of images")
    for i in range(count):
        field = f"image {i}"
        image_id, *pose, camera_id = reader.take("i7di", field)
        name = reader.name(f"the name of {field}")
        (num_points,) = reader.take("Q", field)
        points = reader.array(observation, num_points, f"the points of {field}")["point"]
        quaternion = np.array(pose[:4])
        norm = np.linalg.norm(quaternion)
        if not (np.isfinite(pose).all() and 0.99 < norm < 1.01):
            raise ValueError(f"{path}: the pose of {field} is not a unit quaternion and a vector")
        images[image_id] = ColmapImage(
            name=name,
            camera_id=camera_id,
            R=_rotation(quaternion / norm),
            t=np.array(pose[4:]),
            point_ids=np.unique(points[points >= 0]),
        )
    reader.finish()
    return images


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    w, v = quaternion[0], quaternion[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
