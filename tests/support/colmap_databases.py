"""COLMAP databases of made-up scenes, for tests: the tables of COLMAP 3.x, without COLMAP."""

import sqlite3
from pathlib import Path

import numpy as np
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene

TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB,
    prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE, camera_id INTEGER NOT NULL);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB{pose});
"""
POSE = ", qvec BLOB, tvec BLOB"


def pair_id(id1: int, id2: int) -> int:
    return id1 * 2147483647 + id2


def write_database(path: Path, *, pairs=2, pose=True, reverse=(), right=120, wrong=240):
    """Pair i is of images 2i + 1 and 2i + 2; in `reverse`, the later image is the scene's first.

    Keypoint j of one matches keypoint j of the other. Returns the scenes.
    """
    scenes = [make_scene(right, wrong, seed=seed) for seed in range(pairs)]
    connection = sqlite3.connect(path)
    connection.executescript(TABLES.format(pose=POSE if pose else ""))
    for camera, (K, (width, height)) in enumerate(((K0, SIZE0), (K1, SIZE1)), start=1):
        params = np.array([K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5])
        connection.execute(
            "INSERT INTO cameras VALUES (?, 1, ?, ?, ?, 1)",
            (camera, width, height, params.tobytes()),
        )
    for i, scene in enumerate(scenes):
        ends = [(1, scene.points0), (2, scene.points1)]
        if i in reverse:
            ends.reverse()
        for image, (camera, points) in enumerate(ends, start=2 * i + 1):
            data = (points + 0.5).astype("<f4")
            connection.execute(
                "INSERT INTO images VALUES (?, ?, ?)", (image, f"{image}.jpg", camera)
            )
            connection.execute(
                "INSERT INTO keypoints VALUES (?, ?, 2, ?)", (image, len(data), data.tobytes())
            )
        index = np.arange(len(scene.right), dtype="<u4")
        matches = np.stack([index, index], axis=1)
        connection.execute(
            "INSERT INTO matches VALUES (?, ?, 2, ?)",
            (pair_id(2 * i + 1, 2 * i + 2), len(matches), matches.tobytes()),
        )
    connection.commit()
    connection.close()
    return scenes


def write_pair(path: Path, cameras: list, points: list[np.ndarray], prior: int = 1) -> None:
    """One pair, 1.jpg and 2.jpg with a camera each; keypoint j of one matches keypoint j of the
    other. `cameras`: (model number, width, height, params); `points`: COLMAP's pixels."""
    connection = sqlite3.connect(path)
    connection.executescript(TABLES.format(pose=POSE))
    for key, ((model, width, height, params), found) in enumerate(zip(cameras, points), start=1):
        connection.execute(
            "INSERT INTO cameras VALUES (?, ?, ?, ?, ?, ?)",
            (key, model, width, height, np.array(params, "<f8").tobytes(), prior),
        )
        connection.execute("INSERT INTO images VALUES (?, ?, ?)", (key, f"{key}.jpg", key))
        data = found.astype("<f4")
        connection.execute(
            "INSERT INTO keypoints VALUES (?, ?, 2, ?)", (key, len(data), data.tobytes())
        )
    index = np.arange(len(points[0]), dtype="<u4")
    connection.execute(
        "INSERT INTO matches VALUES (?, ?, 2, ?)",
        (pair_id(1, 2), len(index), np.stack([index, index], axis=1).tobytes()),
    )
    connection.commit()
    connection.close()


def read_rows(path: Path) -> dict[str, dict[int, dict]]:
    """Rows of `matches` and `two_view_geometries` by pair id."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    tables = {
        table: {row["pair_id"]: dict(row) for row in connection.execute(f"SELECT * FROM {table}")}
        for table in ("matches", "two_view_geometries")
    }
    connection.close()
    return tables


def indices(row: dict) -> np.ndarray:
    return np.frombuffer(row["data"] or b"", "<u4").reshape(row["rows"], 2)
