"""A COLMAP database made anew, without COLMAP: what its mapper needs, or its matcher."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np

from n3match.plugins.colmap.database import ColmapDatabase, TwoViewGeometry, pair_number
from n3match.plugins.colmap.model import ColmapCamera, colmap_parameters
from n3match.plugins.colmap.model_files import CAMERA_MODELS

# Those of COLMAP 3; later versions add to them what they miss when they open a database.
_TABLES = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB,
    prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name TEXT NOT NULL UNIQUE, camera_id INTEGER NOT NULL,
    CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < 2147483647),
    FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB,
    FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB, type INTEGER NOT NULL DEFAULT 1,
    FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL,
    cols INTEGER NOT NULL, data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB,
    tvec BLOB);
CREATE UNIQUE INDEX index_name ON images(name);
"""


class NewColmapDatabase(ColmapDatabase):
    """A database that is filled within one `with`, and holds nothing if that ends by an error.

    Args:
        path: of the database, where no file may be, or an empty one.

    Raises:
        FileExistsError: there is one.
    """

    def __init__(self, path: Path):
        if path.exists() and path.stat().st_size:
            raise FileExistsError(f"{path}: there is a file already, wanted a new database")
        connection = sqlite3.connect(path)
        connection.executescript(_TABLES)
        connection.close()
        super().__init__(path)

    def __enter__(self) -> NewColmapDatabase:
        self._all("BEGIN")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._all("COMMIT" if kind is None else "ROLLBACK")
        self.close()

    def add_camera(self, camera: ColmapCamera) -> int:
        """Its id.

        Args:
            camera: of pixels whose centres are at integers.
        """
        model, params = colmap_parameters(camera)
        self._insert(
            "cameras", model=CAMERA_MODELS[model][0], width=camera.width, height=camera.height,
            params=np.array(params, "<f8").tobytes(), prior_focal_length=int(not camera.guessed),
        )
        return self._last_id()

    def add_image(self, name: str, camera_id: int) -> int:
        """Its id.

        Args:
            name: relative to the folder of images.
            camera_id: of its camera.
        """
        self._insert("images", name=name, camera_id=camera_id)
        return self._last_id()

    def add_keypoints(
        self, image_id: int, points: np.ndarray, sizes_angles: np.ndarray, descriptors: np.ndarray
    ) -> None:
        """SIFT keypoints of an image.

        Args:
            image_id: of the image.
            points: (N, 2) pixels, centres at integers.
            sizes_angles: (N, 2) diameter in pixels and angle in degrees, OpenCV's.
            descriptors: (N, 128) RootSIFT of unit length.
        """
        table = np.column_stack(
            [points + 0.5, sizes_angles[:, 0] / 2, np.radians(sizes_angles[:, 1])]
        )
        root = np.clip(np.rint(512 * descriptors), 0, 255)
        for name, data in (("keypoints", table.astype("<f4")), ("descriptors", root.astype("u1"))):
            rows, columns = data.shape
            self._insert(name, image_id=image_id, rows=rows, cols=columns, data=data.tobytes())

    def add_pair(
        self, id0: int, id1: int, matches: np.ndarray, geometry: TwoViewGeometry | None = None
    ) -> None:
        """Matches of two images.

        Args:
            id0, id1: of the images, in any order where there is no geometry.
            matches: (M, 2) rows of their keypoints.
            geometry: of id0 to id1, for id0 < id1; None leaves the pair for COLMAP to verify.

        Raises:
            ValueError: a geometry with id0 > id1.
        """
        if id0 > id1:
            if geometry is not None:
                raise ValueError(f"id0, id1: found {id0}, {id1}, wanted the smaller one first")
            id0, id1, matches = id1, id0, matches[:, ::-1]
        number = pair_number(id0, id1)
        self._insert(
            "matches", pair_id=number, rows=len(matches), cols=2,
            data=matches.astype("<u4").tobytes(),
        )
        if geometry is not None:
            self._insert_geometry(number, geometry)

    def _last_id(self) -> int:
        return self._all("SELECT last_insert_rowid()")[0][0]
