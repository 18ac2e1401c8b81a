"""`n3match filter-colmap`: what is written, conventions, kills, wrong use."""

import os
import sqlite3

import numpy as np
import pytest
from colmap_databases import indices, pair_id, read_rows, write_database
from killed import die_before, die_in_record, run_until_killed
from putative_scenes import K0, K1
from scipy.spatial.transform import Rotation

from n3match.pipelines.cli import main
from n3match.pipelines.common.progress_log import ProgressLog
from n3match.pipelines.filtering import colmap_database, two_view_geometry
from n3match.plugins.colmap.database import ColmapDatabase, pair_ids, pair_number
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL, shipped_verdict

PAIRS = [pair_id(1, 2), pair_id(3, 4)]


def run(*argv) -> int:
    return main(["filter-colmap", *map(str, argv), "--estimator", "opencv_usac"])


def error_of(capsys, *argv) -> str:
    assert run(*argv) == 2
    return capsys.readouterr().err


def matrix(row: dict, name: str) -> np.ndarray:
    return np.frombuffer(row[name]).reshape(3, 3)


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """Scenes and rows; the second pair's images are in the other order than its scene's."""
    folder = tmp_path_factory.mktemp("database")
    scenes = write_database(folder / "d.db", reverse={1})
    before = (folder / "d.db").read_bytes()
    assert run(folder / "d.db", "--out", folder / "out.db") == 0
    assert (folder / "d.db").read_bytes() == before
    assert sorted(os.listdir(folder)) == ["d.db", "out.db"]
    return scenes, read_rows(folder / "out.db"), folder


def test_keeps_mostly_right_matches(filtered):
    for pair, scene in zip(PAIRS, filtered[0]):
        kept = indices(filtered[1]["matches"][pair])
        np.testing.assert_array_equal(kept[:, 0], kept[:, 1])
        assert scene.right[kept[:, 0]].mean() > 0.7
        assert scene.right[kept[:, 0]].sum() > 0.6 * scene.right.sum()
        inliers = {*map(tuple, indices(filtered[1]["two_view_geometries"][pair]))}
        assert len(inliers) > 50 and inliers <= {*map(tuple, kept)}


@pytest.mark.parametrize("i", [0, 1])
def test_geometry_is_that_of_image_1_to_image_2(filtered, i):
    scene, row = filtered[0][i], filtered[1]["two_view_geometries"][PAIRS[i]]
    R, t = scene.R, scene.t
    points, cameras = [scene.points0, scene.points1], [K0, K1]
    if i == 1:
        R, t = R.T, -R.T @ t
        points.reverse(), cameras.reverse()
    assert row["config"] == 2
    w, x, y, z = np.frombuffer(row["qvec"])
    found = Rotation.from_quat([x, y, z, w]).as_matrix()
    assert np.degrees(Rotation.from_matrix(found @ R.T).magnitude()) < 1
    assert np.frombuffer(row["tvec"]) @ t > 0.99
    # E, F and H fit the right matches, in the columns' order and COLMAP's pixels.
    ends = [np.column_stack([p + 0.5, np.ones(len(p))])[scene.right] for p in points]
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    rays = [end @ np.linalg.inv(half @ K).T for end, K in zip(ends, cameras)]
    E, F = matrix(row, "E"), matrix(row, "F")
    for matrix_, (first, second), scale in ((E, rays, cameras[1][0, 0]), (F, ends, 1.0)):
        lines = first @ matrix_.T
        distances = np.abs((second * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
        assert np.median(distances) * scale < 1.5
    H = matrix(row, "H")
    mapped = ends[0] @ H.T
    off = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - ends[1][:, :2], axis=1)
    assert (off < 8).sum() >= 8  # a plane through some of them


def test_in_place_gives_the_same_and_again_is_told(filtered, tmp_path, capsys):
    write_database(tmp_path / "d.db", reverse={1})
    assert run(tmp_path / "d.db") == 0
    assert read_rows(tmp_path / "d.db") == filtered[1]
    assert "2 calibrated" in capsys.readouterr().out


def test_schema_without_pose_columns(filtered, tmp_path):
    write_database(tmp_path / "d.db", pairs=1, pose=False)
    assert run(tmp_path / "d.db") == 0
    row = read_rows(tmp_path / "d.db")["two_view_geometries"][PAIRS[0]]
    assert row["E"] == filtered[1]["two_view_geometries"][PAIRS[0]]["E"]
    assert "qvec" not in row


def test_no_geometries_leaves_verification_to_colmap(filtered, tmp_path):
    write_database(tmp_path / "d.db", reverse={1})
    assert run(tmp_path / "d.db", "--no-geometries") == 0
    rows = read_rows(tmp_path / "d.db")
    assert rows["matches"] == filtered[1]["matches"] and rows["two_view_geometries"] == {}


def test_hopeless_matches_are_degenerate_without_inliers(tmp_path):
    write_database(tmp_path / "d.db", pairs=1, right=0, wrong=60)
    assert run(tmp_path / "d.db") == 0
    row = read_rows(tmp_path / "d.db")["two_view_geometries"][PAIRS[0]]
    assert (row["config"], row["rows"], row["E"]) == (1, 0, None)


def test_pycolmap_reads_it(filtered):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    row = filtered[1]["two_view_geometries"][PAIRS[0]]
    with pycolmap.Database.open(filtered[2] / "out.db") as database:
        assert len(database.read_matches(1, 2)) == filtered[1]["matches"][PAIRS[0]]["rows"]
        geometry = database.read_two_view_geometry(1, 2)
    assert geometry.config == pycolmap.TwoViewGeometryConfiguration.CALIBRATED
    for name in ("E", "F", "H"):
        np.testing.assert_array_equal(getattr(geometry, name), matrix(row, name))
    np.testing.assert_array_equal(geometry.inlier_matches, indices(row))
    np.testing.assert_allclose(
        geometry.cam2_from_cam1.rotation.matrix(), filtered[0][0].R, atol=0.02
    )
    assert geometry.cam2_from_cam1.translation @ filtered[0][0].t > 0.99


@pytest.mark.parametrize(
    "die",
    [die_in_record(0), die_in_record(1), die_before(colmap_database, "_summary"),
     die_before(ColmapDatabase, "_write"), die_before(ProgressLog, "remove")],
    ids=["first record", "second record", "after writing", "in the transaction", "at the end"],
)
@pytest.mark.parametrize("copy", [False, True])
def test_goes_on_after_sigkill_and_gives_the_same(filtered, tmp_path, capsys, die, copy):
    write_database(tmp_path / "d.db", reverse={1})
    argv = [tmp_path / "d.db", *(["--out", tmp_path / "out.db"] if copy else [])]
    run_until_killed(lambda: run(*argv), die)
    capsys.readouterr()
    assert run(*argv) == 0
    assert "begun anew" not in capsys.readouterr().out
    assert read_rows(argv[-1]) == filtered[1]
    assert sorted(os.listdir(tmp_path)) == sorted({"d.db", argv[-1].name})


def test_matches_changed_meanwhile_are_filtered_again(tmp_path, capsys):
    write_database(tmp_path / "d.db")
    run_until_killed(lambda: run(tmp_path / "d.db"), die_before(ColmapDatabase, "write"))
    connection = sqlite3.connect(tmp_path / "d.db")
    few = np.stack([np.arange(100, dtype="<u4")] * 2, axis=1)
    connection.execute(
        "UPDATE matches SET rows = 100, data = ? WHERE pair_id = ?", (few.tobytes(), PAIRS[0])
    )
    connection.commit()
    connection.close()
    capsys.readouterr()
    assert run(tmp_path / "d.db") == 0
    assert "2, 1 of them done before" in capsys.readouterr().out
    assert indices(read_rows(tmp_path / "d.db")["matches"][PAIRS[0]]).max() < 100


def test_locked_database_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("n3match.plugins.colmap.database._WAIT_SECONDS", 0.05)
    write_database(tmp_path / "d.db", pairs=1)
    other = sqlite3.connect(tmp_path / "d.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    line = error_of(capsys, tmp_path / "d.db")
    other.close()
    assert "d.db: locked by another program" in line
    assert os.listdir(tmp_path) == ["d.db"]


def test_foreign_files_are_told(tmp_path, capsys):
    sqlite3.connect(tmp_path / "foreign.db").execute("CREATE TABLE cameras (x)").connection.close()
    line = error_of(capsys, tmp_path / "foreign.db")
    assert "foreign.db: not a COLMAP database: lacks tables images, keypoints, matches" in line
    (tmp_path / "text.db").write_text("no database at all" * 100)
    assert "text.db: not a readable SQLite database" in error_of(capsys, tmp_path / "text.db")
    assert "absent.db" in error_of(capsys, tmp_path / "absent.db")
    write_database(tmp_path / "d.db", pairs=0)
    assert "holds no matches" in error_of(capsys, tmp_path / "d.db")
    assert "leave --out away" in error_of(
        capsys, tmp_path / "d.db", "--out", tmp_path / "d.db"
    )


@pytest.mark.parametrize(
    "statement, wanted",
    [
        ("UPDATE keypoints SET rows = 100, data = substr(data, 1, 800) WHERE image_id = 2",
         "keypoint 359, but 2.jpg has 100"),
        ("UPDATE keypoints SET rows = 7 WHERE image_id = 1", "720 numbers for 7 x 2"),
        ("DELETE FROM keypoints WHERE image_id = 2", "lacks the keypoints of image 2"),
        ("UPDATE images SET camera_id = 9 WHERE image_id = 2", "camera 9"),
        ("UPDATE cameras SET model = 99", "camera 1: model 99"),
        ("UPDATE cameras SET width = 300", "keypoints of another image size?"),
        ("DELETE FROM images WHERE image_id = 1", "image 1, which it lacks"),
        ("UPDATE matches SET data = substr(data, 1, 7)", "matches of pair (1, 2): damaged"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, capsys, statement, wanted):
    write_database(tmp_path / "d.db", pairs=1)
    connection = sqlite3.connect(tmp_path / "d.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert wanted in error_of(capsys, tmp_path / "d.db")


def test_pair_numbers():
    for ids in ((1, 2), (17, 2147483646), (2147483645, 2147483646)):
        assert pair_ids(pair_number(*ids)) == ids


def test_keypoint_shapes_of_both_layouts(tmp_path):
    write_database(tmp_path / "d.db", pairs=1)
    angle, scale = np.radians([10.0, 200.0]), np.array([2.0, 5.0])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    xy = np.zeros((2, 2))
    tables = [
        np.column_stack([xy, scale, angle]), np.column_stack([xy, cos, -sin, sin, cos])
    ]
    connection = sqlite3.connect(tmp_path / "d.db")
    for image, table in enumerate(tables, start=1):
        connection.execute(
            "UPDATE keypoints SET rows = 2, cols = ?, data = ? WHERE image_id = ?",
            (table.shape[1], table.astype("<f4").tobytes(), image),
        )
    connection.commit()
    connection.close()
    with ColmapDatabase(tmp_path / "d.db") as database:
        for image in (1, 2):
            found = database.keypoints(image)
            np.testing.assert_allclose(found.points, -0.5)
            np.testing.assert_allclose(
                found.sizes_angles, np.column_stack([scale, np.degrees(angle)]), rtol=1e-5
            )


@pytest.mark.parametrize("geometries", [True, False])
def test_pairs_that_are_not_real_are_left_out_and_listed(filtered, tmp_path, capsys, geometries):
    out, listed = tmp_path / "out.db", tmp_path / "out.db.left_out.txt"
    database = filtered[2] / "d.db"
    options = [] if geometries else ["--no-geometries"]
    assert run(database, "--out", out, *options, "--min-pair-probability", "1") == 0
    assert "left out   2 of 2 pairs" in capsys.readouterr().out
    rows = read_rows(out)
    for pair in PAIRS:
        assert len(indices(rows["matches"][pair])) == 0
        if geometries:
            row = rows["two_view_geometries"][pair]
            assert row["config"] == 1 and len(indices(row)) == 0
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert len(lines) == 2
    for _, _, real, matches in lines:
        assert 0.5 < float(real) < 1 and int(matches) > 50
    assert run(database, "--out", out, *options, "--min-pair-probability", "0") == 0
    assert not listed.exists()
    for pair in PAIRS:
        np.testing.assert_array_equal(
            indices(read_rows(out)["matches"][pair]), indices(filtered[1]["matches"][pair])
        )


def test_pairs_left_out_in_place_stay_listed(tmp_path):
    write_database(tmp_path / "d.db")
    listed = tmp_path / "d.db.left_out.txt"
    assert run(tmp_path / "d.db", "--min-pair-probability", "1") == 0
    before = listed.read_text()
    assert run(tmp_path / "d.db") == 0
    assert listed.read_text() == before and before.count("\n") == 2


@pytest.mark.parametrize("known", [1, 0])
def test_each_pair_has_the_threshold_of_its_own_geometry(tmp_path, monkeypatch, capsys, known):
    threshold = shipped_verdict().threshold
    geometry, other = (ESSENTIAL, FUNDAMENTAL) if known else (FUNDAMENTAL, ESSENTIAL)
    between = (threshold[ESSENTIAL] + threshold[FUNDAMENTAL]) / 2
    judged = two_view_geometry.two_view_geometry
    monkeypatch.setattr(
        two_view_geometry, "two_view_geometry", lambda *a, **k: (judged(*a, **k)[0], between)
    )
    write_database(tmp_path / "d.db", pairs=1)
    connection = sqlite3.connect(tmp_path / "d.db")
    connection.execute("UPDATE cameras SET prior_focal_length = ? WHERE camera_id = 1", (known,))
    connection.commit()
    connection.close()
    assert run(tmp_path / "d.db") == 0
    told = capsys.readouterr().out
    assert f"left out   {1 - known} of 1 pairs" in told
    assert f"below {threshold[geometry]:g}" in told and f"{threshold[other]:g}" not in told
