"""Databases made without COLMAP, read by this package's reader and by COLMAP itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from n3match.plugins.colmap import (
    ColmapCamera,
    ColmapDatabase,
    NewColmapDatabase,
    TwoViewGeometry,
    colmap_parameters,
    pair_number,
)
from n3match.plugins.colmap.model import camera_from_raw
from n3match.plugins.colmap.model_files import CAMERA_MODELS, RawCamera

PLAIN = ColmapCamera(64, 48, np.array([[70.0, 0, 31.5], [0, 70, 23.5], [0, 0, 1]]), np.zeros(4))


@pytest.mark.parametrize("model", sorted(CAMERA_MODELS.keys() - {"EQUIRECTANGULAR"}))
def test_a_camera_of_every_model_comes_back_as_it_was(model):
    numbers = [70.0, *([72.0] if CAMERA_MODELS[model][1] > 3 else []), 32, 24]
    rest = CAMERA_MODELS[model][1] - len(numbers)
    params = (*numbers, *(0.01 * (i + 1) for i in range(rest)))
    camera = camera_from_raw(Path("here"), RawCamera(1, model, 64, 48, params))
    again = camera_from_raw(Path("here"), RawCamera(1, *_raw(camera)))
    np.testing.assert_array_equal(again.K, camera.K)
    assert again.lens == camera.lens
    length = max(len(again.distortion), len(camera.distortion))
    padded = [np.pad(c.distortion, (0, length - len(c.distortion))) for c in (again, camera)]
    np.testing.assert_array_equal(*padded)


def _raw(camera):
    name, params = colmap_parameters(camera)
    assert len(params) == CAMERA_MODELS[name][1]
    return name, camera.width, camera.height, params


def test_without_a_lens_it_is_colmaps_usual_model():
    assert colmap_parameters(PLAIN) == ("SIMPLE_RADIAL", (70, 32, 24, 0))


def fill(path):
    rng = np.random.default_rng(0)
    descriptors = np.sqrt(rng.dirichlet(np.ones(128), 20)).astype(np.float32)
    points = rng.uniform(0, 40, (20, 2))
    sizes_angles = np.stack([rng.uniform(2, 9, 20), rng.uniform(0, 360, 20)], axis=1)
    matches = np.stack([np.arange(9), np.arange(9)[::-1]], axis=1).astype(np.uint32)
    with NewColmapDatabase(path) as database:
        for i in range(3):
            camera = database.add_camera(replace(PLAIN, guessed=i == 1))
            assert database.add_image(f"{i}.jpg", camera) == i + 1
            database.add_keypoints(i + 1, points, sizes_angles, descriptors)
        database.add_pair(1, 2, matches, TwoViewGeometry(3, matches, F=np.eye(3)))
        database.add_pair(3, 1, matches)
    return points, sizes_angles, descriptors, matches


def test_what_was_written_is_read(tmp_path):
    points, sizes_angles, descriptors, matches = fill(tmp_path / "d.db")
    with ColmapDatabase(tmp_path / "d.db") as database:
        assert [c.guessed for c in database.cameras().values()] == [False, True, False]
        found = database.keypoints(2)
        np.testing.assert_allclose(found.points, points, atol=1e-5)
        np.testing.assert_allclose(found.sizes_angles, sizes_angles / [2, 1], rtol=1e-5)
        np.testing.assert_allclose(database.descriptors(2) / 512, descriptors, atol=1e-3)
        np.testing.assert_array_equal(database.matches(pair_number(1, 2)), matches)
        np.testing.assert_array_equal(database.matches(pair_number(1, 3)), matches[:, ::-1])


def test_colmap_reads_it(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    points, *_, matches = fill(tmp_path / "d.db")
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        assert database.num_images() == 3
        np.testing.assert_allclose(database.read_keypoints(1)[:, :2], points + 0.5, atol=1e-4)
        np.testing.assert_array_equal(database.read_matches(1, 2), matches)
        assert database.read_camera(1).has_prior_focal_length
        geometry = database.read_two_view_geometry(1, 2)
        assert geometry.config == pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED


def test_an_error_leaves_nothing_in_it_and_no_file_is_overwritten(tmp_path):
    with (
        pytest.raises(ValueError, match="wanted the smaller one first"),
        NewColmapDatabase(tmp_path / "d.db") as database,
    ):
        database.add_image("0.jpg", database.add_camera(PLAIN))
        none = np.zeros((0, 2), np.uint32)
        database.add_pair(2, 1, none, TwoViewGeometry(1, none))
    with ColmapDatabase(tmp_path / "d.db") as database:
        assert database.images() == {} and database.cameras() == {}
    with pytest.raises(FileExistsError, match="there is a file already"):
        NewColmapDatabase(tmp_path / "d.db")
