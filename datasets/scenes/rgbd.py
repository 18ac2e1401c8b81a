"""RGB-D sequences as scenes (see source.py): colour, depth, a camera-to-world pose a frame.

Two layouts:
    7-Scenes  `<frame>.color.png|jpg`, `<frame>.depth.png` (16-bit millimetres, 0 and 65535: none),
              `<frame>.pose.txt` (4×4 camera-to-world) in one folder
    SUN3D     `image/*.jpg`, `depth/*.png` (the same with the bits turned left by three), and in
              `extrinsics/` a text file with a 3×4 camera-to-world matrix for each image, in order;
              a depth map belongs to the image that is nearest in time (names: number-microseconds)
Intrinsics: `intrinsics.txt` or `camera-intrinsics.txt` (3×3) in the folder or the one above, or
given. Depth is taken as registered to the colour image and serves only to find out which frames
see the same things, so a small error in that does no harm.
"""

from pathlib import Path

import cv2
import numpy as np

from n3match.datasets.images import ImageFile
from n3match.datasets.scenes.source import (
    ReadOptions,
    ScenePair,
    SceneSource,
    View,
    camera_from_world,
    checked_intrinsics,
    median_parallax,
    read_numbers,
    relative_pose_of,
)

MIN_OVERLAP = 0.15
#: Degrees. Tracked poses are off by about a pixel: with less parallax the direction of the
#: translation, and with it every label, is noise.
MIN_PARALLAX = 2.0
#: Of a longer sequence so many frames are taken, evenly spread: frames of a video are nearly equal.
MAX_FRAMES = 500
_GRID = (12, 16)  # rows and columns of the depth samples
_SAME_SURFACE = 0.05  # relative difference of depth
_COLOURS = (".color.png", ".color.jpg", ".color.jpeg")
_INTRINSICS = ("intrinsics.txt", "camera-intrinsics.txt")


def is_rgbd_scene(path: Path) -> bool:
    return path.is_dir() and (_is_sun3d(path) or next(path.glob("*.pose.txt"), None) is not None)


def read_rgbd_scene(path: Path, name: str, options: ReadOptions) -> SceneSource:
    """Frames, at most MAX_FRAMES, and the pairs that see the same surfaces; num_shared is 0.

    A frame without a usable pose, colour or depth image is a problem of the scene, not its end.

    Raises:
        FileNotFoundError: no intrinsics. ValueError: malformed intrinsics, or number of poses.
    """
    K = _intrinsics(path, options)
    frames = _sun3d_frames(path) if _is_sun3d(path) else _seven_scenes_frames(path)
    if len(frames) > MAX_FRAMES:
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, MAX_FRAMES).astype(int)]
    views, poses, samples, problems = {}, [], [], []
    for colour, depth, matrix, where in frames:
        try:
            if not colour.is_file():
                raise FileNotFoundError(f"{colour}: no such image")
            pose = camera_from_world(matrix() if callable(matrix) else matrix, where)
            sample = _sample_depth(depth, K, turned=_is_sun3d(path))
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        views[colour.name] = View(colour.name, colour, K, stored=options.stored)
        poses.append(pose)
        samples.append(sample)
    limit = MIN_OVERLAP if options.min_overlap is None else options.min_overlap
    return SceneSource(name, views, _pairs(list(views), poses, samples, K, limit), problems)


def _is_sun3d(path: Path) -> bool:
    return all((path / part).is_dir() for part in ("image", "depth", "extrinsics"))


def _intrinsics(path: Path, options: ReadOptions) -> np.ndarray:
    for file in (folder / name for folder in (path, path.parent) for name in _INTRINSICS):
        if options.intrinsics is None and file.is_file():
            return checked_intrinsics(read_numbers(file, (3, 3)), str(file))
    if options.intrinsics is None:
        raise FileNotFoundError(
            f"{path}: has no {' or '.join(_INTRINSICS)}; give the intrinsics "
            "(525,525,320,240 for the colour images of 7-Scenes)"
        )
    return checked_intrinsics(options.intrinsics, "intrinsics")


def _seven_scenes_frames(path: Path) -> list[tuple]:
    frames = []
    for pose in sorted(path.glob("*.pose.txt")):
        stem = pose.name.removesuffix(".pose.txt")
        colours = [path / (stem + suffix) for suffix in _COLOURS]
        colour = next((file for file in colours if file.is_file()), colours[0])
        depth = path / f"{stem}.depth.png"
        # Read where an error in one frame is the problem of that frame alone.
        frames.append((colour, depth, lambda pose=pose: read_numbers(pose, (4, 4)), str(pose)))
    return frames


def _sun3d_frames(path: Path) -> list[tuple]:
    files = sorted((path / "extrinsics").glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{path / 'extrinsics'}: has no .txt file of poses")
    poses = read_numbers(files[-1])  # the last by date is the best optimised
    images = sorted(p for p in (path / "image").iterdir() if p.suffix in (".jpg", ".png"))
    if poses.size != 12 * len(images):
        raise ValueError(
            f"{files[-1]}: found {poses.size} numbers, wanted 3 x 4 for {len(images)} images each"
        )
    depths = sorted((path / "depth").glob("*.png"))
    if not depths:
        raise FileNotFoundError(f"{path / 'depth'}: has no .png depth map")
    times = np.array([_time(depth) for depth in depths])
    return [
        (image, depths[np.abs(times - _time(image)).argmin()], pose, f"{files[-1]}: {image.name}")
        for image, pose in zip(images, poses.reshape(-1, 3, 4))
    ]


def _time(path: Path) -> int:
    digits = path.stem.split("-")[-1]
    if not digits.isdigit():
        raise ValueError(f"{path}: found no time in the name, wanted number-microseconds")
    return int(digits)


def _sample_depth(path: Path, K: np.ndarray, *, turned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Depth map (H, W) in metres, 0 where none, and (S, 3) points of a grid in the camera frame."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such depth image")
    raw = ImageFile(path).unchanged()
    if raw.dtype != np.uint16 or raw.ndim != 2:
        raise ValueError(f"{path}: not a 16-bit grey image, wanted depth in millimetres")
    if turned:
        raw = (raw >> 3) | (raw << 13)
    depth = np.where(raw == 65535, 0, raw).astype(np.float32) / 1000
    rows, columns = (np.linspace(0, n - 1, k).astype(int) for n, k in zip(depth.shape, _GRID))
    v, u = (g.ravel() for g in np.meshgrid(rows, columns, indexing="ij"))
    z = depth[v, u].astype(np.float64)
    x = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], axis=1)
    # Only what the other frames are compared with is kept: at full size a sequence fills memory.
    return cv2.resize(depth, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_NEAREST), x[z > 0]


def _pairs(names: list, poses: list, samples: list, K: np.ndarray, limit: float) -> list[ScenePair]:
    count = len(names)
    seen = np.zeros((count, count))  # share of the samples of frame i that frame j sees
    world = [(points - t) @ R for (R, t), (_, points) in zip(poses, samples)]
    for i in range(count):
        for j in range(count):
            if i != j and len(world[i]):
                seen[i, j] = _visible(world[i], *poses[j], samples[j][0], K).mean()
    pairs = []
    for i in range(count):
        for j in range(i + 1, count):
            # Of the closer view the other sees everything: the smaller share is the common part.
            overlap = min(seen[i, j], seen[j, i])
            if overlap < limit or overlap == 0:
                continue
            common = world[i][_visible(world[i], *poses[j], samples[j][0], K)]
            centres = [-poses[k][0].T @ poses[k][1] for k in (i, j)]
            parallax = median_parallax(common, *centres)
            if parallax >= MIN_PARALLAX:
                R, t = relative_pose_of(poses[i], poses[j])
                pairs.append(
                    ScenePair(names[i], names[j], R, t, overlap=overlap, parallax=parallax)
                )
    return pairs


def _visible(
    world: np.ndarray, R: np.ndarray, t: np.ndarray, depth: np.ndarray, K: np.ndarray
) -> np.ndarray:
    """(S,) bool: which points the frame sees as the surface in its (quarter-size) depth map."""
    x = world @ R.T + t
    z = np.where(x[:, 2] > 1e-3, x[:, 2], np.inf)
    u = np.rint((K[0, 0] * x[:, 0] / z + K[0, 2]) / 4)
    v = np.rint((K[1, 1] * x[:, 1] / z + K[1, 2]) / 4)
    height, width = depth.shape
    inside = np.isfinite(z) & (u >= 0) & (v >= 0) & (u < width) & (v < height)
    found = np.zeros(len(x), bool)
    measured = depth[v[inside].astype(int), u[inside].astype(int)]
    found[inside] = np.abs(measured - z[inside]) < _SAME_SURFACE * z[inside]
    return found
