"""Cameras, poses and covisibility from a COLMAP reconstruction, without COLMAP.

COLMAP puts the centre of the first pixel at (0.5, 0.5); here, as in OpenCV, it is at (0, 0):
principal points are moved by -0.5 on reading.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from n3match.arguments import instance, whole
from n3match.plugins.colmap.model_files import (
    RawCamera,
    RawImage,
    read_cameras_binary,
    read_cameras_text,
    read_images_binary,
    read_images_text,
    read_points_binary,
    read_points_text,
)

_TWO_FOCAL_LENGTHS = {
    "PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "FOV", "DIVISION", "FISHEYE",
    "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "EUCM",
}  # fmt: skip
_LENS = {
    "OPENCV_FISHEYE": "equidistant",
    "RADIAL_FISHEYE": "equidistant",
    "SIMPLE_RADIAL_FISHEYE": "equidistant",
    "FISHEYE": "equidistant",
    "SIMPLE_FISHEYE": "equidistant",
    "FOV": "fov",
    "DIVISION": "division",
    "SIMPLE_DIVISION": "division",
    "THIN_PRISM_FISHEYE": "thin_prism",
    "RAD_TAN_THIN_PRISM_FISHEYE": "fisheye624",
    "EUCM": "eucm",
}
# Fewest coefficients of a lens: those that a simpler model of COLMAP lacks are zero.
_COEFFICIENTS = {"opencv": 4, "equidistant": 4}
_MAX_SIDE = 2**20  # pixels; more is not a photograph but a damaged file


class UnsupportedCamera(ValueError):
    """A camera whose rays don't fit on a plane in front of it: a panorama's; or an unknown one."""


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics of one camera.

    Attributes:
        width, height: image size in pixels.
        K: (3, 3) float64, pixel centres at integers.
        distortion: (4,) or (8,) float64, OpenCV's k1, k2, p1, p2[, k3, k4, k5, k6], or the
            coefficients of another lens.
        lens: see `n3match.geometry.camera`.
        guessed: nobody measured the focal length (COLMAP's `prior_focal_length` is 0).
    """

    width: int
    height: int
    K: np.ndarray
    distortion: np.ndarray
    lens: str = "opencv"
    guessed: bool = False


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
    """`cameras` and `images`, by their ids in the reconstruction.

    Attributes:
        unsupported: why an image, by its name, is not among them: its camera's model.
    """

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]
    unsupported: dict[str, str] = field(default_factory=dict)

    def camera_of(self, image_id: int) -> ColmapCamera:
        """The camera of an image.

        Args:
            image_id: key into `images`.
        """
        return self.cameras[self.images[image_id].camera_id]


def has_colmap_model(path: str | Path) -> bool:
    """Whether the folder has `cameras` and `images` as .bin or as .txt.

    Args:
        path: of the folder.
    """
    return _suffix(Path(path)) is not None


def read_colmap_model(path: str | Path) -> ColmapModel:
    """Read `cameras` and `images` of a reconstruction, the .bin files where both kinds exist.

    Covisibility needs only the point ids in `images`; `points3D` is not read.

    Args:
        path: the folder of the model.

    Raises:
        FileNotFoundError: the folder has no model.
        ValueError: truncated or foreign file, unknown camera model, image of an unknown
            camera; the message names the file and the field.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix is None:
        raise FileNotFoundError(f"{path}: has no cameras and images as .bin or .txt")
    cameras_path, images_path = path / f"cameras{suffix}", path / f"images{suffix}"
    if suffix == ".bin":
        cameras, images = read_cameras_binary(cameras_path), read_images_binary(images_path)
    else:
        cameras, images = read_cameras_text(cameras_path), read_images_text(images_path)
    known = {camera.camera_id for camera in cameras}
    for image in images:
        if image.camera_id not in known:
            raise ValueError(
                f"{images_path}: image {image.name!r} has camera {image.camera_id}, "
                f"which {cameras_path.name} lacks"
            )
    usable, unsupported = {}, {}
    for camera in cameras:
        try:
            usable[camera.camera_id] = camera_from_raw(cameras_path, camera)
        except UnsupportedCamera as error:
            unsupported[camera.camera_id] = str(error)
    return ColmapModel(
        usable,
        {i.image_id: _image(images_path, i) for i in images if i.camera_id in usable},
        {i.name: unsupported[i.camera_id] for i in images if i.camera_id in unsupported},
    )


def read_colmap_points(path: str | Path) -> dict[int, np.ndarray]:
    """Positions (3,) of the 3-D points by id; empty where the folder has no `points3D`.

    Args:
        path: the folder of the model.

    Raises:
        ValueError: truncated or foreign file, positions that are not finite.
    """
    path = Path(path)
    for name, read in (("points3D.bin", read_points_binary), ("points3D.txt", read_points_text)):
        if (path / name).is_file():
            points = {key: np.array(xyz) for key, xyz in read(path / name).items()}
            if points and not np.isfinite(np.stack(list(points.values()))).all():
                raise ValueError(f"{path / name}: found NaN or inf, wanted finite positions")
            return points
    return {}


def relative_pose(image0: ColmapImage, image1: ColmapImage) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3) and t (3,) with x1 ~ R x0 + t; t in the units of the reconstruction.

    Args:
        image0, image1: of one reconstruction.
    """
    instance("image0", image0, ColmapImage)
    instance("image1", image1, ColmapImage)
    R = image1.R @ image0.R.T
    return R, image1.t - R @ image0.t


def covisible_pairs(model: ColmapModel, min_shared: int = 20) -> list[tuple[int, int, int]]:
    """Pairs of image ids that see common 3-D points, ordered by the images' names.

    Args:
        model: the reconstruction.
        min_shared: least number of common 3-D points.

    Returns:
        (id0, id1, number of shared points) with name0 < name1 and at least `min_shared` points.
    """
    instance("model", model, ColmapModel)
    min_shared = whole("min_shared", min_shared)
    names = {image_id: image.name for image_id, image in model.images.items()}
    seen_by: dict[int, list[int]] = {}
    for image_id in sorted(model.images, key=names.__getitem__):
        for point in model.images[image_id].point_ids.tolist():
            seen_by.setdefault(point, []).append(image_id)
    shared = Counter(pair for images in seen_by.values() for pair in combinations(images, 2))
    pairs = [(a, b, count) for (a, b), count in shared.items() if count >= min_shared]
    return sorted(pairs, key=lambda pair: (names[pair[0]], names[pair[1]]))


def _suffix(path: Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((path / f"{stem}{suffix}").is_file() for stem in ("cameras", "images")):
            return suffix
    return None


def camera_from_raw(path: Path, raw: RawCamera) -> ColmapCamera:
    """A camera as COLMAP stores it, in our convention.

    Args:
        path: of the file that it is from, for messages.

    Raises:
        UnsupportedCamera: a panorama. ValueError: parameters that are not finite, a focal length
            of 0 or less, a size of no image.
    """
    if raw.model == "EQUIRECTANGULAR":
        raise UnsupportedCamera(
            f"{path}: camera {raw.camera_id} is EQUIRECTANGULAR, a panorama: it sees behind itself"
        )
    lens = _LENS.get(raw.model, "opencv")
    if raw.model in _TWO_FOCAL_LENGTHS:
        (fx, fy, cx, cy), coefficients = raw.params[:4], raw.params[4:]
    else:
        (fx, cx, cy), coefficients = raw.params[:3], raw.params[3:]
        fy = fx
    if not (np.isfinite(raw.params).all() and fx > 0 and fy > 0):
        raise ValueError(f"{path}: camera {raw.camera_id} has parameters {raw.params}")
    if not (0 < raw.width < _MAX_SIDE and 0 < raw.height < _MAX_SIDE):
        raise ValueError(f"{path}: camera {raw.camera_id} has size {raw.width} x {raw.height}")
    length = max(_COEFFICIENTS.get(lens, 1), len(coefficients))
    distortion = np.zeros(length)
    distortion[: len(coefficients)] = coefficients
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    return ColmapCamera(raw.width, raw.height, K, distortion, lens)


def colmap_parameters(camera: ColmapCamera) -> tuple[str, tuple[float, ...]]:
    """Name and parameters of the simplest of COLMAP's models that is this camera.

    Without a lens that is SIMPLE_RADIAL, COLMAP's own choice, whose k its mapper can refine.

    Args:
        camera: of pixels whose centres are at integers.
    """
    instance("camera", camera, ColmapCamera)
    (fx, _, cx), (_, fy, cy), _ = camera.K.tolist()
    k = camera.distortion.tolist()
    if camera.lens == "opencv" and fx == fy and not any(k[1:]):
        return "SIMPLE_RADIAL", (fx, cx + 0.5, cy + 0.5, k[0])
    model = {
        "opencv": "OPENCV" if len(k) == 4 else "FULL_OPENCV", "equidistant": "OPENCV_FISHEYE",
        "fov": "FOV", "division": "DIVISION", "thin_prism": "THIN_PRISM_FISHEYE",
        "fisheye624": "RAD_TAN_THIN_PRISM_FISHEYE", "eucm": "EUCM",
    }[camera.lens]
    return model, (fx, fy, cx + 0.5, cy + 0.5, *k)


def _image(path: Path, raw: RawImage) -> ColmapImage:
    pose = np.array(raw.pose)
    norm = np.linalg.norm(pose[:4])
    if not (np.isfinite(pose).all() and 0.99 < norm < 1.01):
        raise ValueError(f"{path}: image {raw.name!r}: pose {raw.pose} has no unit quaternion")
    return ColmapImage(
        name=raw.name,
        camera_id=raw.camera_id,
        R=_rotation(pose[:4] / norm),
        t=pose[4:],
        point_ids=np.unique(raw.point_ids[raw.point_ids >= 0]),
    )


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    w, v = quaternion[0], quaternion[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
