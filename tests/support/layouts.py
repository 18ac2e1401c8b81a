"""The toy scene in the layouts of other projects, written without the readers' help."""

from pathlib import Path

import cv2
import h5py
import numpy as np
from toy_scene import DEPTH, FOCAL, HEIGHT, NORMAL, WIDTH, camera_matrix, photographs, poses

TOY_INTRINSICS = camera_matrix()


def world_from_camera(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = R, t
    return np.linalg.inv(matrix)


def depth_millimetres(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(H, W) uint16 depth of the toy scene's plane."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera_matrix()).T
    normal = R @ NORMAL  # in the camera's frame
    return np.rint((DEPTH + normal @ t) / (rays @ normal) * 1000).astype(np.uint16)


def write_seven_scenes(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for i, ((R, t), image) in enumerate(zip(poses(count), photographs(count))):
        stem = folder / f"frame-{i:06d}"
        cv2.imwrite(f"{stem}.color.png", image)
        cv2.imwrite(f"{stem}.depth.png", depth_millimetres(R, t))
        np.savetxt(f"{stem}.pose.txt", world_from_camera(R, t))
    np.savetxt(folder / "camera-intrinsics.txt", camera_matrix())
    return folder


def write_sun3d(folder: Path, count: int = 4) -> Path:
    for part in ("image", "depth", "extrinsics"):
        (folder / part).mkdir(parents=True)
    rows = []
    for i, ((R, t), image) in enumerate(zip(poses(count), photographs(count))):
        cv2.imwrite(str(folder / "image" / f"{i + 1:07d}-{33333 * i:012d}.png"), image)
        depth = depth_millimetres(R, t).astype(np.uint32) << 3
        turned = ((depth & 0xFFFF) | (depth >> 16)).astype(np.uint16)
        # Depth comes a little later, and more often than images.
        for k, late in ((2 * i, 1000), (2 * i + 1, 17000)):
            name = f"{k + 1:07d}-{33333 * i + late:012d}.png"
            empty = np.zeros_like(turned)
            cv2.imwrite(str(folder / "depth" / name), turned if late == 1000 else empty)
        rows.append(world_from_camera(R, t)[:3])
    np.savetxt(folder / "extrinsics" / "20130101000000.txt", np.concatenate(rows))
    np.savetxt(folder / "intrinsics.txt", camera_matrix())
    return folder


def write_cnnet(folder: Path, count: int = 4, *, shares: bool = False) -> Path:
    """Images i and j share 160 - 20 |i - j| points, or the 200th part of it."""
    for part in ("images", "calibration", "visibility"):
        (folder / part).mkdir(parents=True)
    lists: dict[str, list[str]] = {"images": [], "calibration": [], "visibility": []}
    for i, ((R, t), image) in enumerate(zip(poses(count), photographs(count))):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
        with h5py.File(folder / "calibration" / f"calibration_{i}.h5", "w") as file:
            file["K"] = np.array([[FOCAL, 0, 0], [0, FOCAL, 0], [0, 0, 1]])
            file["R"], file["T"] = R, t[None]
            file["imsize"] = [[HEIGHT, WIDTH]]
        column = 160.0 - 20 * np.abs(np.arange(count) - i)
        np.savetxt(folder / "visibility" / f"{i}.txt", column / 200 if shares else column)
        lists["images"].append(f"images/{i}.png")
        lists["calibration"].append(f"calibration/calibration_{i}.h5")
        lists["visibility"].append(f"visibility/{i}.txt")
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def pair_line(i: int, j: int, count: int = 4, K1: np.ndarray | None = None) -> str:
    (R0, t0), (R1, t1) = poses(count)[i], poses(count)[j]
    T = np.linalg.inv(world_from_camera(R1, t1)) @ world_from_camera(R0, t0)
    K0 = camera_matrix()
    numbers = np.concatenate([K0.ravel(), (K0 if K1 is None else K1).ravel(), T.ravel()])
    return f"{i}.png {j}.png 0 1 " + " ".join(repr(float(x)) for x in numbers)


def write_pair_list(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate(photographs(count)):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    lines = [pair_line(i, j, count) for i in range(count) for j in range(i + 1, count)]
    path = folder / "pairs_with_gt.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_dump(path: Path, pairs: list[dict]) -> Path:
    """OANet's layout, float32 as its own code writes; a pair: x, R, t, K0, K1, ratio, mutual."""
    with h5py.File(path, "w") as file:
        for i, pair in enumerate(pairs):
            values = {
                "xs": pair["x"][None],
                "ys": np.full((len(pair["x"]), 1), 9.0),
                "Rs": pair["R"],
                "ts": np.reshape(pair["t"], (3, 1)),
                "ratios": pair["ratio"],
                "mutuals": pair["mutual"],
            }
            for side in (1, 2):
                K = pair[f"K{side - 1}"]
                values[f"cx{side}s"], values[f"cy{side}s"] = [K[0, 2]], [K[1, 2]]
                values[f"f{side}s"] = [[K[0, 0], K[1, 1]]]
            for group, value in values.items():
                file[f"{group}/{i}"] = np.asarray(value, np.float32)
    return path
