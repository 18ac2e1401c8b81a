"""Reconstructions of one scene by COLMAP (pycolmap), from the same keypoints and matches."""

from __future__ import annotations

import shutil
import sqlite3
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from n3match.datasets.images import ImageFile
from n3match.datasets.scenes.colmap import model_folder
from n3match.files.given import inside
from n3match.matching import extract_sift, putative_matches
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.progress import quietly
from n3match.pipelines.common.tables import markdown_table
from n3match.pipelines.filtering.colmap_database import Options, filter_database
from n3match.pipelines.sfm.pose_alignment import pose_errors
from n3match.pipelines.sfm.reconstruct import load_pycolmap
from n3match.plugins.colmap.model import read_colmap_model
from n3match.plugins.colmap.new_database import NewColmapDatabase
from n3match.two_view import PairMatches, logits_of_many

RATIO, MUTUAL = "ratio", "mutual"
_RATIO = 0.8  # COLMAP's default
_LEAST_IMAGES = 3
_COLUMNS = (
    "scene", "method", "images", "points", "reprojection, px", "rotation, °", "position, %",
    "verified matches", "matching, s", "filter + verify, s", "mapping, s",
)


@dataclass(frozen=True)
class SfmResult:
    """One reconstruction.

    Attributes:
        scene, method, seed: which one.
        images, registered: of the scene, and in the largest model.
        points: 3-D points; reprojection: mean error in pixels.
        rotation: median error in degrees; position: median error in % of the extent of the given
            cameras; both over the registered images, NaN where fewer than three.
        matches: that the mapper was given, after verification.
        matching: seconds to match all pairs, the same for all methods; selection: of filtering
            and verification; mapping.
    """

    scene: str
    method: str
    seed: int
    images: int
    registered: int
    points: int
    reprojection: float
    rotation: float
    position: float
    matches: int
    matching: float
    selection: float
    mapping: float


class SfmScene:
    """A scene with a database of its keypoints and mutual matches, from which methods start."""

    def __init__(
        self,
        name: str,
        path: Path,
        work: Path,
        *,
        max_keypoints: int,
        threads: int,
        device: str = "cpu",
        half: bool = False,
    ):
        """
        Args:
            name: of the scene; path: its folder, with images/ and a COLMAP model in sparse/.
            work: folder for databases and models.
            max_keypoints: SIFT keypoints per photograph.
            threads: that COLMAP may use.
            device, half: of the filters, see `devices.placed`.

        Raises:
            ImportError: pycolmap is not installed. FileNotFoundError, ValueError: a photograph or
            the model can't be used.
        """
        self.pycolmap = load_pycolmap("compare-sfm reconstructs with pycolmap")
        self.name, self.work, self.threads = name, work, threads
        self._device, self._half = device, half
        folder = model_folder(path)
        model = read_colmap_model(folder)
        self.given = {image.name: (image.R, image.t) for image in model.images.values()}
        self.photographs = path / "images"
        self.names = sorted(self.given)
        self.cameras = {image.name: model.camera_of(i) for i, image in model.images.items()}
        self.features = {
            # COLMAP's cameras are for the pixels as stored.
            name: extract_sift(
                ImageFile(inside(self.photographs, name, "model")).gray(stored=True), max_keypoints
            )
            for name in self.names
        }
        began = time.perf_counter()
        self.pairs = {
            pair: putative_matches(*(
                array for name in pair
                for array in (self.features[name].keypoints, self.features[name].descriptors)
            ))
            for pair in combinations(self.names, 2)
        }
        self.matching = time.perf_counter() - began

    def run(self, method: str, seed: int) -> SfmResult:
        """Reconstruct with one method: RATIO, MUTUAL, or the name of a filter, with "+verify" to
        have COLMAP verify what the filter kept."""
        database = self.work / "run.db"
        filter_name, plus, _ = method.partition("+verify")
        self._write(database, _RATIO if method == RATIO else 1.0)
        began = time.perf_counter()
        if method not in (RATIO, MUTUAL):
            options = Options(
                filter=filter_name, geometries=not plus, seed=seed, device=self._device,
                half=self._half,
            )
            with quietly():  # the runs are counted
                filter_database(database, None, options)
        if method in (RATIO, MUTUAL) or plus:
            self._verify(database, seed)
        mapped = time.perf_counter()
        models = self._map(database, seed)
        ended = time.perf_counter()
        connection = sqlite3.connect(database)
        (matches,) = connection.execute("SELECT sum(rows) FROM two_view_geometries").fetchone()
        connection.close()
        return SfmResult(
            self.name, method, seed, len(self.names), *self._judge(models), matches or 0,
            self.matching, mapped - began, ended - mapped,
        )

    def _write(self, path: Path, threshold: float) -> None:
        """A database of the mutual matches with a ratio below the threshold; 1: of all."""
        for old in path.parent.glob(f"{path.name}*"):  # COLMAP leaves journals
            old.unlink()
        with NewColmapDatabase(path) as database:
            ids = {}
            for name in self.names:
                found = self.features[name]
                ids[name] = database.add_image(name, database.add_camera(self.cameras[name]))
                database.add_keypoints(
                    ids[name], found.keypoints, found.sizes_angles, found.descriptors
                )
            for (name0, name1), found in self.pairs.items():
                keep = found.mutual & ((found.ratio < threshold) | (threshold == 1.0))
                matches = np.stack([found.index0, found.index1], axis=1)[keep]
                database.add_pair(ids[name0], ids[name1], matches)

    def _verify(self, database: Path, seed: int) -> None:
        pairs = self.work / "pairs.txt"
        pairs.write_text("".join(f"{a} {b}\n" for a, b in self.pairs), encoding="utf-8")
        options = self.pycolmap.TwoViewGeometryOptions()
        options.ransac.random_seed = seed
        self.pycolmap.verify_matches(database, pairs, options=options)

    def _map(self, database: Path, seed: int) -> dict:
        out = self.work / "models"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        options = self.pycolmap.IncrementalPipelineOptions(
            num_threads=self.threads, min_model_size=_LEAST_IMAGES, random_seed=seed,
            extract_colors=False,
            # The cameras are given, like the poses that the result is compared with.
            ba_refine_focal_length=False, ba_refine_extra_params=False,
        )
        options.mapper.abs_pose_refine_focal_length = False
        options.mapper.abs_pose_refine_extra_params = False
        return self.pycolmap.incremental_mapping(database, self.photographs, out, options=options)

    def _judge(self, models: dict) -> tuple[int, int, float, float, float]:
        """registered, points, reprojection, rotation, position of the largest model."""
        nan = float("nan")
        if not models:
            return 0, 0, nan, nan, nan
        number = max(models, key=lambda i: models[i].num_reg_images())
        model = models[number]
        folder = self.work / "largest"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        model.write(folder)
        found = {image.name: (image.R, image.t) for image in
                 read_colmap_model(folder).images.values()}
        errors = pose_errors(found, self.given)
        rotation, position = (nan, nan) if errors is None else (
            float(np.median(errors.rotation)), 100 * float(np.median(errors.position))
        )
        return (
            model.num_reg_images(), model.num_points3D(),
            model.compute_mean_reprojection_error(), rotation, position,
        )


def warm_up(filter_name: str) -> None:
    """Load the libraries' parts that a filter uses, which no scene should be charged for."""
    rng = np.random.default_rng(0)
    points = PairMatches(rng.normal(size=(500, 2)), rng.normal(size=(500, 2)))
    logits_of_many(MatchFilter.from_pretrained(filter_name), [points])


def report(results: Sequence[SfmResult]) -> str:
    """A Markdown table: a row per scene and method, means over the seeds."""
    groups: dict[tuple[str, str], list[SfmResult]] = {}
    for result in results:
        groups.setdefault((result.scene, result.method), []).append(result)
    rows = []
    for (scene, method), runs in groups.items():
        def mean(name: str, digits: int, runs=runs) -> str:
            value = statistics.fmean(getattr(run, name) for run in runs)
            return "—" if value != value else f"{value:.{digits}f}"

        registered = statistics.fmean(run.registered for run in runs)
        rows.append((
            scene, method, f"{registered:g} of {runs[0].images}", mean("points", 0),
            mean("reprojection", 2), mean("rotation", 2), mean("position", 2),
            mean("matches", 0), mean("matching", 1), mean("selection", 1), mean("mapping", 1),
        ))
    return markdown_table(_COLUMNS, rows)
