"""A textured plane seen by a few cameras, written as photographs and a COLMAP model."""

import struct
from pathlib import Path

import cv2
import numpy as np

from n3match.datasets.pairs.store import PairRecord

WIDTH, HEIGHT, FOCAL = 240, 180, 260.0
NORMAL, DEPTH = np.array([0.0, 0.0, 1.0]), 4.0


def poses(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """R, t (world to camera) of cameras side by side, turned a little."""
    found = []
    for i in range(count):
        R, _ = cv2.Rodrigues(np.array([0.02 * i, -0.05 * i, 0.03 * i]))
        found.append((R, np.array([-0.25 * i, 0.05 * i, 0.04 * i])))
    return found


def camera_matrix() -> np.ndarray:
    """K in the convention of this library: the first pixel's centre is (0, 0)."""
    return np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]])


def photographs(count: int) -> list[np.ndarray]:
    """The plane z = DEPTH as each camera sees it; camera 0 has the world's frame."""
    rng = np.random.default_rng(5)
    texture = np.zeros((HEIGHT, WIDTH))
    for size in (4, 9, 20):
        coarse = rng.random((HEIGHT // size + 2, WIDTH // size + 2))
        texture += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    K = camera_matrix()
    return [
        cv2.warpPerspective(
            texture,
            K @ (R + np.outer(t, NORMAL) / DEPTH) @ np.linalg.inv(K),
            (WIDTH, HEIGHT),
            borderMode=cv2.BORDER_REFLECT,
        )
        for R, t in poses(count)
    ]


def write_scene(folder: Path, count: int = 4, model: str = "bin") -> Path:
    """`folder/images` and `folder/sparse`; images i and j share 100 - 20 |i - j| points."""
    (folder / "images").mkdir(parents=True)
    (folder / "sparse").mkdir()
    for i, image in enumerate(photographs(count)):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
    images = [
        (i + 1, quaternion(R), t, 7, f"{i}.png", [*range(20 * i, 20 * i + 100), -1])
        for i, (R, t) in enumerate(poses(count))
    ]
    # COLMAP's first pixel centre is (0.5, 0.5).
    params = (FOCAL, WIDTH / 2, HEIGHT / 2, 0.0)
    write_model(folder / "sparse", [(7, "SIMPLE_RADIAL", WIDTH, HEIGHT, params)], images, model)
    return folder


def quaternion(R: np.ndarray) -> np.ndarray:
    vector, _ = cv2.Rodrigues(R)
    angle = np.linalg.norm(vector)
    axis = vector[:, 0] / angle if angle > 0 else np.zeros(3)
    return np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * axis])


def write_model(folder: Path, cameras: list, images: list, kind: str = "bin") -> None:
    """cameras: (id, model, width, height, params); images: (id, q, t, camera, name, point ids)."""
    ids = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4}
    ids |= {"OPENCV_FISHEYE": 5, "FULL_OPENCV": 6, "EQUIRECTANGULAR": 17, "UNKNOWN": 99}
    if kind == "txt":
        lines = ["# a comment"]
        lines += [" ".join(map(str, (*camera[:4], *camera[4]))) for camera in cameras]
        (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = ["# a comment"]
        for image_id, q, t, camera, name, points in images:
            lines.append(" ".join(map(str, (image_id, *q, *t, camera, name))))
            lines.append(" ".join(f"1.5 2.5 {point}" for point in points))
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        return
    data = struct.pack("<Q", len(cameras))
    for camera_id, model, width, height, params in cameras:
        data += struct.pack("<iiQQ", camera_id, ids[model], width, height)
        data += struct.pack(f"<{len(params)}d", *params)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for image_id, q, t, camera, name, points in images:
        data += struct.pack("<i7di", image_id, *q, *t, camera) + name.encode() + b"\0"
        data += struct.pack("<Q", len(points))
        data += b"".join(struct.pack("<ddq", 1.5, 2.5, point) for point in points)
    (folder / "images.bin").write_bytes(data)


def make_record(seed: int = 0, count: int = 5, scene: str = "toy") -> PairRecord:
    """A record of random numbers in the ranges that they have."""
    rng = np.random.default_rng(seed)
    R, _ = cv2.Rodrigues(rng.normal(size=3))
    t = rng.normal(size=3)
    K = np.array([[500.0, 0, 320.5], [0, 510.0, 240.25], [0, 0, 1]])
    return PairRecord(
        scene=scene,
        name0=f"{seed}-ä.jpg",
        name1=f"{seed}/b.jpg",
        num_shared=20 + seed,
        points0=rng.random((count, 2), dtype=np.float32) * 600,
        points1=rng.random((count, 2), dtype=np.float32) * 600,
        xs=rng.random((count, 4), dtype=np.float32) - 0.5,
        distances_squared=rng.random(count, dtype=np.float32),
        R=R,
        t=t / np.linalg.norm(t),
        ratio=rng.random(count, dtype=np.float32),
        mutual=rng.random(count) < 0.5,
        descriptor_distance=rng.random(count, dtype=np.float32),
        index0=np.arange(count, dtype=np.int32),
        index1=rng.integers(0, 99, count, dtype=np.int32),
        sizes_angles0=rng.random((count, 2), dtype=np.float32),
        sizes_angles1=rng.random((count, 2), dtype=np.float32),
        K0=K,
        K1=K + np.diag([3.0, 4.0, 0]),
        distortion0=np.array([0.1, 0, 0, 0]),
        distortion1=rng.random(8),
        size0=(640, 480),
        size1=(480, 640),
    )
