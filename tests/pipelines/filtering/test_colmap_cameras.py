"""`n3match filter-colmap` with the cameras that people have: fisheyes, guesses, panoramas."""

import sqlite3

import numpy as np
import pytest
from colmap_databases import indices, pair_id, read_rows, write_database, write_pair
from putative_scenes import K0, K1
from scipy.spatial.transform import Rotation

from n3match.pipelines.cli import main

PAIR = pair_id(1, 2)
FISHEYES = {
    "OPENCV_FISHEYE": (300, 302, 500, 490, 0.02, -0.01, 0.003, -0.001),
    "THIN_PRISM_FISHEYE": (
        300, 302, 500, 490, 0.02, -0.01, 0.002, -0.001, 0.003, -0.001, 0.002, -0.001
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        300, 302, 500, 490,
        0.02, -0.01, 0.003, -0.001, 0.0005, -0.0002, 0.002, -0.001, 0.002, -0.0005, 0.001, 0.0003,
    ),
    "EUCM": (300, 302, 500, 490, 0.6, 1.1),
}
R = Rotation.from_euler("xyz", [4, -12, 8], degrees=True).as_matrix()
T = np.array([1.0, 0.1, 0.15]) / np.linalg.norm([1.0, 0.1, 0.15])


def run(*argv) -> int:
    return main(["filter-colmap", *map(str, argv)])


def fisheye_pair(path, camera, right=250, wrong=250):
    """Points all around, up to 75° from the axis, by COLMAP's own projection with half a pixel of
    noise, and wrong matches.

    Returns:
        (N,) bool right; (N,) degrees from the axis of the first camera.
    """
    rng = np.random.default_rng(3)
    angle = np.radians(rng.uniform(5, 75, 4 * right))
    turn, depth = rng.uniform(0, 2 * np.pi, 4 * right), rng.uniform(4, 12, 4 * right)
    ray = np.stack([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)], 1)
    X = depth[:, None] * ray
    Y = X @ R.T + T
    seen = np.degrees(np.arctan2(np.linalg.norm(Y[:, :2], axis=1), Y[:, 2])) < 75
    X, Y, angle = X[seen][:right], Y[seen][:right], np.degrees(angle[seen][:right])
    ends = []
    for points in (X, Y):
        pixels = np.array(camera.img_from_cam(points)) + rng.normal(0, 0.5, (right, 2))
        ends.append(np.concatenate([pixels, rng.uniform(150, 850, (wrong, 2))]))
    order = rng.permutation(right + wrong)
    own = (int(camera.model), camera.width, camera.height, camera.params)
    write_pair(path, [own, own], [end[order] for end in ends])
    return order < right, np.concatenate([angle, np.full(wrong, np.nan)])[order]


@pytest.mark.parametrize("model", FISHEYES)
def test_a_real_fisheye_keeps_its_wide_rays_and_gives_the_pose(tmp_path, model):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    camera = pycolmap.Camera(model=model, width=1000, height=980, params=FISHEYES[model])
    right, angle = fisheye_pair(tmp_path / "d.db", camera)
    assert run(tmp_path / "d.db") == 0
    rows = read_rows(tmp_path / "d.db")
    geometry = rows["two_view_geometries"][PAIR]
    assert geometry["config"] == 2
    w, x, y, z = np.frombuffer(geometry["qvec"])
    found = Rotation.from_quat([x, y, z, w]).as_matrix()
    assert np.degrees(Rotation.from_matrix(found @ R.T).magnitude()) < 1
    assert np.frombuffer(geometry["tvec"]) @ T > 0.999
    inliers = indices(geometry)[:, 0]
    assert right[inliers].mean() > 0.9
    kept = indices(rows["matches"][PAIR])[:, 0]
    wide = kept[right[kept] & (angle[kept] > 55)]
    assert len(wide) > 8
    # In pixels of an ideal camera half a pixel there is three and more.
    assert np.isin(wide, inliers).mean() > 0.7


def guess_focal_lengths(path, camera: int = 2) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE cameras SET prior_focal_length = 0 WHERE camera_id = ?", (camera,))
    connection.commit()
    connection.close()


def test_a_guessed_focal_length_is_told_and_gives_no_calibrated_geometry(tmp_path, capsys):
    (scene,) = write_database(tmp_path / "d.db", pairs=1)
    guess_focal_lengths(tmp_path / "d.db")
    assert run(tmp_path / "d.db") == 0
    out = capsys.readouterr().out
    assert "1 of 2 with a guessed focal length: 1 pairs" in out and "1 uncalibrated" in out
    row = read_rows(tmp_path / "d.db")["two_view_geometries"][PAIR]
    assert row["config"] == 3 and row["E"] is None and row["qvec"] is None
    F = np.frombuffer(row["F"]).reshape(3, 3)
    ends = [np.column_stack([p + 0.5, np.ones(len(p))])[scene.right] for p in
            (scene.points0, scene.points1)]
    lines = ends[0] @ F.T
    off = np.abs((ends[1] * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(off) < 1.5
    assert scene.right[indices(row)[:, 0]].mean() > 0.8


def test_a_plane_under_a_guessed_focal_length_has_its_homography(tmp_path):
    rng = np.random.default_rng(1)
    points0 = rng.uniform((50, 50), (950, 700), (200, 2))
    rays = np.column_stack([points0, np.ones(200)]) @ np.linalg.inv(K0).T
    X = rays * (6 / (1 + 0.2 * rays[:, :1]))
    projected = (X @ R.T + T) @ K1.T
    points1 = projected[:, :2] / projected[:, 2:]
    cameras = [
        (1, *size, (K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5))
        for K, size in ((K0, (1024, 768)), (K1, (1500, 1300)))
    ]
    inside = ((points1 > 0) & (points1 < [1500, 1300])).all(axis=1)
    ends = [(p + rng.normal(0, 0.3, p.shape))[inside] + 0.5 for p in (points0, points1)]
    write_pair(tmp_path / "d.db", cameras, ends, prior=0)
    assert run(tmp_path / "d.db") == 0
    row = read_rows(tmp_path / "d.db")["two_view_geometries"][PAIR]
    assert row["config"] == 6 and row["F"] is None and row["rows"] > 50
    H = np.frombuffer(row["H"]).reshape(3, 3)
    mapped = np.column_stack([ends[0], np.ones(len(ends[0]))]) @ H.T
    off = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - ends[1], axis=1)
    assert np.median(off) < 1.5


@pytest.mark.parametrize("model, params", [(17, (1024, 512)), (99, (1, 2, 3))])
def test_only_the_pairs_of_an_unsupported_camera_are_left_out_and_named(
    tmp_path, capsys, model, params
):
    write_database(tmp_path / "d.db")
    connection = sqlite3.connect(tmp_path / "d.db")
    connection.execute(
        "INSERT INTO cameras VALUES (3, ?, 1024, 512, ?, 0)",
        (model, np.array(params, "<f8").tobytes()),
    )
    connection.execute("UPDATE images SET camera_id = 3 WHERE image_id = 3")
    connection.commit()
    connection.close()
    before = read_rows(tmp_path / "d.db")["matches"]
    assert run(tmp_path / "d.db") == 0
    out = capsys.readouterr().out
    assert "1 of 2 pairs, left as they are: of 3.jpg" in out and "camera 3" in out
    after = read_rows(tmp_path / "d.db")["matches"]
    assert after[pair_id(3, 4)] == before[pair_id(3, 4)]
    assert after[PAIR]["rows"] < before[PAIR]["rows"]


def test_no_keypoint_is_matched_twice(tmp_path):
    write_database(tmp_path / "d.db", pairs=1)
    connection = sqlite3.connect(tmp_path / "d.db")
    rows = indices(read_rows(tmp_path / "d.db")["matches"][PAIR])
    twice = np.concatenate([rows, rows, np.roll(rows, 1, axis=0) * [1, 0] + rows * [0, 1]])
    connection.execute(
        "UPDATE matches SET rows = ?, data = ?", (len(twice), twice.astype("<u4").tobytes())
    )
    connection.commit()
    connection.close()
    assert run(tmp_path / "d.db", "--no-descriptors") == 0
    rows = read_rows(tmp_path / "d.db")
    for table in ("matches", "two_view_geometries"):
        kept = indices(rows[table][PAIR])
        assert len(kept) > 20
        for end in kept.T:
            assert len(np.unique(end)) == len(end)
