"""What every reader of a data layout makes of a scene: views, and the pairs of them with a pose.

Whatever makes training pairs works from this alone and knows no layout (see formats.py).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from n3match.datasets.images import ImageFile
from n3match.files.given import read_text

# A rotation matrix may be off by what text files with six digits lose, and no more.
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told. None: what is usual for the layout.

    Attributes:
        min_shared: least number of common 3-D points of a pair, where they are counted.
        min_overlap: least share in [0, 1] of one view that the other sees, where it is known.
        image_root: folder that the names of images refer to.
        intrinsics: (3, 3) K of all images, where the layout has none.
        stored: photographs are not turned by EXIF, in layouts that are read as OpenCV does.
    """

    min_shared: int | None = None
    min_overlap: float | None = None
    image_root: Path | None = None
    intrinsics: np.ndarray | None = None
    stored: bool = False


@dataclass(frozen=True, eq=False)
class View:
    """One photograph and its camera.

    Attributes:
        name: unique in the scene; path: the file.
        K: (3, 3) float64, pixel centres at integers.
        distortion: coefficients of `lens` (see `n3match.geometry.camera`).
        size: (width, height) that the intrinsics are for; None where the layout does not say.
        stored: whether they are for the pixels as stored, not turned by EXIF, where the size
            doesn't tell which (COLMAP looks at stored pixels, OpenCV at turned ones).
    """

    name: str
    path: Path
    K: np.ndarray
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(4))
    lens: str = "opencv"
    size: tuple[int, int] | None = None
    stored: bool = True

    def is_stored_frame(self, file: ImageFile) -> bool:
        """Whether the stored pixels of the photograph are those that the camera is for.

        Args:
            file: of the photograph.
        """
        return file.is_stored_frame(self.size, self.stored)


@dataclass(frozen=True, eq=False)
class ScenePair:
    """Two views with x1 ~ R x0 + t.

    Attributes:
        view0, view1: names.
        R: (3, 3); t: (3,), not zero, any length.
        num_shared: common 3-D points; 0 where not counted.
        overlap: share of the smaller view that both see; NaN where not known.
        parallax: median angle in degrees between the rays to a common point; NaN where not known.
    """

    view0: str
    view1: str
    R: np.ndarray
    t: np.ndarray
    num_shared: int = 0
    overlap: float = math.nan
    parallax: float = math.nan

    @property
    def view_change(self) -> float:
        """Degrees: the parallax, or where it is not known the rotation between the cameras."""
        if math.isfinite(self.parallax):
            return self.parallax
        return math.degrees(math.acos(float(np.clip((np.trace(self.R) - 1) / 2, -1, 1))))

    def swapped(self) -> "ScenePair":
        """The same pair seen from view 1."""
        R = self.R.T
        return ScenePair(
            self.view1, self.view0, R, -R @ self.t, self.num_shared, self.overlap, self.parallax
        )


@dataclass(frozen=True, eq=False)
class SceneSource:
    """A scene as its reader found it.

    Attributes:
        name: of the scene.
        views: by their names.
        pairs: in the order of the names, or that of the list they come from.
        problems: what could not be used and why, a line each; names file and field.
    """

    name: str
    views: dict[str, View]
    pairs: list[ScenePair]
    problems: list[str] = field(default_factory=list)


def relative_pose_of(
    pose0: tuple[np.ndarray, np.ndarray], pose1: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """R, t with x1 ~ R x0 + t from two world-to-camera poses (R, t)."""
    R = pose1[0] @ pose0[0].T
    return R, pose1[1] - R @ pose0[1]


def median_parallax(points: np.ndarray, centre0: np.ndarray, centre1: np.ndarray) -> float:
    """Median angle (degrees) at points (N, 3) between the directions to two camera centres."""
    to0, to1 = centre0 - points, centre1 - points
    lengths = np.linalg.norm(to0, axis=1) * np.linalg.norm(to1, axis=1)
    cosine = (to0 * to1).sum(axis=1) / np.maximum(lengths, 1e-300)
    return float(np.degrees(np.median(np.arccos(np.clip(cosine, -1, 1)))))


def camera_from_world(camera_to_world: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """R, t of x_camera = R X + t from a (3 or 4, 4) camera-to-world matrix.

    Raises:
        ValueError: see `checked_pose`.
    """
    R, t = checked_pose(camera_to_world[:3, :3], camera_to_world[:3, 3], where)
    return R.T, -R.T @ t


def checked_pose(R: np.ndarray, t: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The rotation made exact and t as (3,), both float64.

    Args:
        where: file and field, for messages.

    Raises:
        ValueError: NaN or infinity, or R is no rotation.
    """
    R, t = np.asarray(R, np.float64), np.asarray(t, np.float64).ravel()
    if not (np.isfinite(R).all() and np.isfinite(t).all()):
        raise ValueError(f"{where}: found NaN or inf in a pose, wanted finite numbers")
    U, _, Vt = np.linalg.svd(R)
    nearest = U @ Vt
    if np.abs(nearest - R).max() > _ROTATION_TOLERANCE or np.linalg.det(nearest) < 0:
        raise ValueError(f"{where}: found {R.round(4).tolist()}, wanted a rotation matrix")
    return nearest, t


def checked_intrinsics(K: np.ndarray, where: str) -> np.ndarray:
    """(3, 3) float64 K.

    Raises:
        ValueError: not [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0 and all finite.
    """
    K = np.asarray(K, np.float64)
    good = K.shape == (3, 3) and np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0
    if not (good and K[1, 0] == 0 and np.array_equal(K[2], (0, 0, 1))):
        wanted = "[[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0"
        raise ValueError(f"{where}: found intrinsics {K.tolist()}, wanted {wanted}")
    return K


def read_lines(path: Path) -> list[str]:
    """Of a text file, stripped, empty ones left empty.

    Raises:
        ValueError: not a text file in UTF-8.
    """
    return [line.strip() for line in read_text(path).splitlines()]


def read_numbers(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A text file of numbers, of `shape` where it is given, else a flat array.

    Raises:
        FileNotFoundError: no such file.
        ValueError: something else than numbers, or another count; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = np.array(read_text(path).split(), dtype=np.float64)
    except ValueError as error:  # of numpy, or as above
        raise ValueError(f"{path}: not a text file of numbers ({error})") from error
    if shape is None:
        return values
    if values.size != math.prod(shape):
        wanted = " x ".join(map(str, shape))
        raise ValueError(f"{path}: found {values.size} numbers, wanted {wanted}")
    return values.reshape(shape)
