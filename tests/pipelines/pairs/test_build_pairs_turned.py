"""Scenes whose photographs EXIF says to turn: read in the frame that their cameras are for."""

import numpy as np
import pytest
from layouts import write_pair_list
from PIL import Image
from toy_scene import HEIGHT, WIDTH, photographs, write_scene

from n3match.datasets.pairs.dataset import PairDataset
from n3match.pipelines.cli import main
from n3match.pipelines.pairs.make_store import build_pairs


def xs(path) -> list[np.ndarray]:
    data = PairDataset(path)
    return [data.record(i).xs for i in range(len(data))]


def assert_same(found, wanted):
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted):
        np.testing.assert_array_equal(a, b)


def save(path, image, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(np.ascontiguousarray(image)).save(path, exif=exif)


def build(scene, out, **options):
    return xs(build_pairs(scene, out, max_keypoints=100, fixed_direction=True, **options))


@pytest.fixture(scope="module")
def image():
    return photographs(1)[0]


@pytest.fixture(scope="module")
def colmap(tmp_path_factory):
    """What a COLMAP scene without EXIF data gives."""
    folder = tmp_path_factory.mktemp("plain")
    return build(write_scene(folder / "scene", 2), folder / "pairs.h5")


@pytest.mark.parametrize("orientation", [3, 6])
def test_colmaps_cameras_are_for_stored_pixels(tmp_path, colmap, image, capsys, orientation):
    scene = write_scene(tmp_path / "scene", 2)
    save(scene / "images" / "0.png", image, orientation)
    assert_same(build(scene, tmp_path / "pairs.h5"), colmap)
    note = "photographs with an EXIF orientation read as stored, as their cameras are: 1"
    assert f"n3match: note: {note}" in capsys.readouterr().err


def test_a_camera_that_only_the_turned_photograph_fits(tmp_path, colmap, image, capsys):
    scene = write_scene(tmp_path / "scene", 2)
    save(scene / "images" / "0.png", np.rot90(image), 6)
    assert Image.open(scene / "images" / "0.png").size == (HEIGHT, WIDTH)
    assert_same(build(scene, tmp_path / "pairs.h5"), colmap)
    assert (
        "n3match: note: photographs turned by their EXIF orientation: 1" in capsys.readouterr().err
    )


def test_pair_lists_are_for_what_opencv_reads_unless_it_is_said(tmp_path, image):
    scene = write_pair_list(tmp_path / "list", 2)
    wanted = build(scene, tmp_path / "plain.h5")
    save(scene.parent / "0.png", np.rot90(image, 2), 3)
    assert_same(build(scene, tmp_path / "turned.h5"), wanted)
    save(scene.parent / "0.png", image, 3)
    stored = tmp_path / "stored.h5"
    argv = ["build-pairs", scene, stored, "--max-keypoints", 100, "--fixed-direction"]
    assert main([*map(str, argv), "--min-consistent", "0", "--stored-pixels", "--quiet"]) == 0
    assert_same(xs(stored), wanted)
