import os
import sqlite3
import tracemalloc

import numpy as np
import pytest
from colmap_databases import write_database
from toy_scene import quaternion, write_model

from n3match.datasets.scenes.colmap import read_colmap_scene
from n3match.datasets.scenes.source import ReadOptions
from n3match.plugins.colmap import ColmapDatabase
from n3match.plugins.colmap.model import (
    covisible_pairs,
    read_colmap_model,
    read_colmap_points,
    relative_pose,
)

IDENTITY = (1.0, 0.0, 0.0, 0.0)


def one_camera(folder, model, params, kind="bin"):
    write_model(folder, [(3, model, 640, 480, params)], [], kind)
    return read_colmap_model(folder).cameras[3]


@pytest.mark.parametrize("kind", ["bin", "txt"])
@pytest.mark.parametrize(
    ("model", "params", "focal", "distortion"),
    [
        ("SIMPLE_PINHOLE", (500, 320, 240), (500, 500), (0, 0, 0, 0)),
        ("PINHOLE", (500, 510, 320, 240), (500, 510), (0, 0, 0, 0)),
        ("SIMPLE_RADIAL", (500, 320, 240, 0.1), (500, 500), (0.1, 0, 0, 0)),
        ("RADIAL", (500, 320, 240, 0.1, 0.2), (500, 500), (0.1, 0.2, 0, 0)),
        ("OPENCV", (500, 510, 320, 240, 0.1, 0.2, 0.3, 0.4), (500, 510), (0.1, 0.2, 0.3, 0.4)),
        (
            "FULL_OPENCV",
            (500, 510, 320, 240, 1, 2, 3, 4, 5, 6, 7, 8),
            (500, 510),
            (1, 2, 3, 4, 5, 6, 7, 8),
        ),
    ],
)
def test_camera_models(tmp_path, model, params, focal, distortion, kind):
    camera = one_camera(tmp_path, model, params, kind)
    # COLMAP's (320, 240) is the corner between four pixels: (319.5, 239.5) by pixel centres.
    np.testing.assert_array_equal(camera.K, [[focal[0], 0, 319.5], [0, focal[1], 239.5], [0, 0, 1]])
    np.testing.assert_array_equal(camera.distortion, distortion)
    assert (camera.width, camera.height) == (640, 480)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_poses_names_and_points(tmp_path, kind):
    angle = 0.3
    R = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    write_model(
        tmp_path,
        [(1, "SIMPLE_PINHOLE", 640, 480, (500, 320, 240))],
        [
            (8, IDENTITY, (0, 0, 0), 1, "a b.jpg", [4, -1, 4, 2]),
            (5, quaternion(R), (1, 2, 3), 1, "sub/c.jpg", []),
        ],
        kind,
    )
    model = read_colmap_model(tmp_path)
    assert model.images[8].name == "a b.jpg" and model.images[5].name == "sub/c.jpg"
    np.testing.assert_array_equal(model.images[8].point_ids, [2, 4])
    assert len(model.images[5].point_ids) == 0
    np.testing.assert_allclose(model.images[5].R, R, atol=1e-12)
    np.testing.assert_array_equal(model.images[5].t, [1, 2, 3])
    assert model.camera_of(5) is model.cameras[1]


def test_relative_pose_carries_points_from_camera_0_to_camera_1(tmp_path):
    rng = np.random.default_rng(0)
    quaternions = [q / np.linalg.norm(q) for q in rng.normal(size=(2, 4))]
    write_model(
        tmp_path,
        [(1, "SIMPLE_PINHOLE", 640, 480, (500, 320, 240))],
        [(i, quaternions[i], rng.normal(size=3), 1, f"{i}", []) for i in range(2)],
    )
    image0, image1 = (read_colmap_model(tmp_path).images[i] for i in range(2))
    world = rng.normal(size=(6, 3))
    R, t = relative_pose(image0, image1)
    in0, in1 = (world @ image.R.T + image.t for image in (image0, image1))
    np.testing.assert_allclose(in0 @ R.T + t, in1, atol=1e-12)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) > 0


def test_covisible_pairs_count_distinct_points_in_order_of_names(tmp_path):
    write_model(
        tmp_path,
        [(1, "SIMPLE_PINHOLE", 640, 480, (500, 320, 240))],
        [
            (1, IDENTITY, (0, 0, 0), 1, "c", [1, 2, 3, 3, 9]),
            (2, IDENTITY, (0, 0, 0), 1, "a", [1, 2, 3, 4, -1]),
            (3, IDENTITY, (0, 0, 0), 1, "b", [3, 4, -1, -1]),
        ],
    )
    model = read_colmap_model(tmp_path)
    assert covisible_pairs(model, 1) == [(2, 3, 2), (2, 1, 3), (3, 1, 1)]
    assert covisible_pairs(model, 3) == [(2, 1, 3)]
    assert covisible_pairs(model) == []


def write_good(folder, kind="bin"):
    write_model(
        folder,
        [(1, "SIMPLE_PINHOLE", 640, 480, (500, 320, 240))],
        [(1, IDENTITY, (0, 0, 0), 1, "first.jpg", [1, 2, 3])],
        kind,
    )


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_a_file_cut_anywhere_or_too_long_is_refused_by_name(tmp_path, name):
    write_good(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    for length in [*range(len(whole)), None]:
        path.write_bytes(whole + b"\0" if length is None else whole[:length])
        with pytest.raises(ValueError, match=f"{name}: (ends inside|1 bytes left over)"):
            read_colmap_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cameras.txt", "SIMPLE_PINHOLE", "THIN_PRISM", "line 2 has camera model THIN_PRISM"),
        ("cameras.txt", "500 320 240", "500 320", "line 2: found 2 parameters, wanted 3"),
        ("cameras.txt", "640", "wide", "line 2: .*wanted ints"),
        ("cameras.txt", "500 320 240", "-500 320 240", "camera 1 has parameters"),
        ("cameras.txt", "1 SIMPLE_PINHOLE 640 480 500 320 240", "1 2 3", "line 2: .*wanted ID"),
        ("images.txt", "first.jpg", "", "line 2: .*wanted ID"),
        ("images.txt", "1.5 2.5 3", "1.5 2.5", "line 3: wanted triples"),
        ("images.txt", "1 1.0 0.0 0.0 0.0", "1 0 0 0 0", "no unit quaternion"),
        ("images.txt", "1 1.0 0.0 0.0 0.0", "1 1.0 x 0.0 0.0", "line 2: .*wanted floats"),
        ("images.txt", "1 first.jpg", "4 first.jpg", "has camera 4, which cameras.txt lacks"),
    ],
)
def test_bad_text_is_refused_by_name_and_line(tmp_path, name, old, new, message):
    write_good(tmp_path, "txt")
    text = (tmp_path / name).read_text()
    assert text.count(old) == 1
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_colmap_model(tmp_path)


def test_foreign_files_are_refused(tmp_path):
    write_good(tmp_path)
    write_model(tmp_path, [(1, "UNKNOWN", 640, 480, (1,) * 12)], [])
    with pytest.raises(ValueError, match=r"cameras\.bin: camera 0 has camera model id 99"):
        read_colmap_model(tmp_path)
    write_good(tmp_path, "txt")
    (tmp_path / "cameras.bin").unlink()
    (tmp_path / "images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"images\.txt: not a text file"):
        read_colmap_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no cameras and images"):
        read_colmap_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_large_holes_are_not_read_into_memory(tmp_path, name):
    """16 GiB of zeros, which take no room on a disk."""
    cameras = [(1, "PINHOLE", 640, 480, (500, 500, 320, 240))]
    for kind, said in (("bin", "bytes left over"), ("txt", "line 1 is longer than")):
        folder = tmp_path / kind
        folder.mkdir()
        write_model(folder, cameras, [], kind)
        (folder / f"{name}.{kind}").write_bytes(b"")
        os.truncate(folder / f"{name}.{kind}", 1 << 34)
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"{name}\.{kind}: .*{said}"):
            read_colmap_points(folder) if name == "points3D" else read_colmap_model(folder)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 1 << 29


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_only_images_of_a_panorama_are_left_out(tmp_path, kind):
    write_model(
        tmp_path,
        [(1, "EQUIRECTANGULAR", 640, 320, (640, 320)), (2, "SIMPLE_PINHOLE", 9, 9, (5, 4, 4))],
        [(1, IDENTITY, (0, 0, 0), 1, "pano.jpg", [1]), (2, IDENTITY, (0, 0, 0), 2, "a.jpg", [1])],
        kind,
    )
    model = read_colmap_model(tmp_path)
    assert [image.name for image in model.images.values()] == ["a.jpg"]
    assert [*model.cameras] == [2] and [*model.unsupported] == ["pano.jpg"]
    assert "camera 1 is EQUIRECTANGULAR" in model.unsupported["pano.jpg"]


@pytest.mark.parametrize(
    ("scene", "images", "pairs"),
    [("dev/sacre_coeur", 10, 38), ("dev/sceaux", 11, 55), ("train/kermit", 11, 45)],
)
def test_real_models_have_the_documented_covisibility(shared_data, scene, images, pairs):
    model = read_colmap_model(shared_data / "scenes" / scene / "sparse")
    assert len(model.images) == images
    assert len(covisible_pairs(model, 20)) == pairs


def test_real_model_as_pycolmap_reads_it(shared_data, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    folder = shared_data / "scenes/dev/sacre_coeur/sparse"
    reference = pycolmap.Reconstruction(str(folder))
    reference.write_text(str(tmp_path))
    for model in (read_colmap_model(folder), read_colmap_model(tmp_path)):
        assert set(model.images) == set(reference.images)
        for image_id, image in model.images.items():
            wanted = reference.images[image_id]
            pose = wanted.cam_from_world().matrix()
            np.testing.assert_allclose(np.column_stack([image.R, image.t]), pose, atol=1e-9)
            assert image.name == wanted.name
            ids = {p.point3D_id for p in wanted.points2D if p.has_point3D()}
            assert set(image.point_ids.tolist()) == ids
            K = reference.cameras[wanted.camera_id].calibration_matrix()
            K[:2, 2] -= 0.5
            np.testing.assert_allclose(model.camera_of(image_id).K, K, atol=1e-9)


def test_names_of_photographs_stay_in_their_folder(tmp_path):
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 64 48 50 50 32 24\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 ../../etc/passwd\n\n")
    with pytest.raises(ValueError, match="leads out of the folder"):
        read_colmap_scene(tmp_path, "scene", ReadOptions())


@pytest.mark.parametrize("number", ["9" * 30, "1.5", "9" * 5000])
def test_numbers_that_no_file_of_colmap_has(tmp_path, number):
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 64 48 50 50 32 24\n")
    (tmp_path / "images.txt").write_text(f"1 1 0 0 0 0 0 0 1 a.jpg\n1 2 {number}\n")
    with pytest.raises(ValueError, match=r"images\.txt: line 2: found .* wanted ints"):
        read_colmap_model(tmp_path)


@pytest.mark.parametrize(
    "program",
    [
        "CREATE TRIGGER t AFTER UPDATE ON matches BEGIN DELETE FROM images; END",
        "ALTER TABLE keypoints ADD COLUMN x BLOB GENERATED ALWAYS AS (zeroblob(900000000))",
        "ALTER TABLE keypoints ADD COLUMN x BLOB AS (zeroblob(900000000))",
    ],
)
def test_database_that_holds_a_program_is_refused(tmp_path, program):
    write_database(tmp_path / "a.db", pairs=1)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute(program)
    with pytest.raises(ValueError, match=r"a\.db: not a COLMAP database: .* in it is a program"):
        ColmapDatabase(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE cameras SET model = 'x'", "camera 1: found 'x', wanted a whole number"),
        ("UPDATE images SET name = x'00' WHERE image_id = 1", "has the name b"),
        ("UPDATE images SET camera_id = 1.5", "found 1.5, wanted a whole number"),
        ("UPDATE keypoints SET rows = 'many'", "found 'many', wanted a whole number"),
        ("UPDATE matches SET cols = 10000000000000", "numbers for"),
    ],
)
def test_values_of_other_types_than_colmaps(tmp_path, statement, said):
    write_database(tmp_path / "a.db", pairs=1)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute(statement)
    with pytest.raises(ValueError, match=said), ColmapDatabase(tmp_path / "a.db") as database:
        database.cameras()
        database.images()
        database.keypoints(1)
        database.matches(database.pairs()[0])
