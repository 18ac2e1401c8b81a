"""`n3match match FOLDER`: databases, hloc's files, choice of pairs, kills, processes, wrong use."""

import os
import sqlite3
from dataclasses import replace

import cv2
import h5py
import numpy as np
import prepared
import pytest
from colmap_databases import indices, read_rows
from killed import die_before, kill, run_until_killed
from PIL import ExifTags, Image
from relief import camera_matrix, poses, write_photographs
from scipy.spatial.transform import Rotation

from n3match import MatchFilter
from n3match.matching import extract_sift
from n3match.pipelines.cli import main
from n3match.pipelines.folder import match_folder, pair_jobs
from n3match.pipelines.folder.pair_choice import PairChoice, global_descriptors
from n3match.pipelines.folder.photographs import Photographs
from n3match.plugins.colmap.database import ColmapDatabase, pair_number
from n3match.weights import save_weights
from n3match.weights.verdict import FUNDAMENTAL, shipped_verdict

COUNT = 5
FEW = ("--max-keypoints", "600", "--device", "cpu")


def run(*argv) -> int:
    return main(["match", *map(str, argv), *FEW])


def error_of(capsys, *argv) -> str:
    assert run(*argv) == 2
    return capsys.readouterr().err


def content(path) -> list[str]:
    connection = sqlite3.connect(path)
    lines = list(connection.iterdump())
    connection.close()
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    """A list that knows the camera of all."""
    K = camera_matrix()
    path = tmp_path_factory.mktemp("cameras") / "cameras.txt"
    values = f"400 300 {K[0, 0]} {K[0, 2] + 0.5} {K[1, 2] + 0.5}"
    path.write_text("".join(f"5-{i}.png SIMPLE_PINHOLE {values}\n" for i in range(COUNT)))
    return path


@pytest.fixture(scope="module")
def matched(folder, cameras, tmp_path_factory):
    """The database, and what was printed is not looked at."""
    out = tmp_path_factory.mktemp("out") / "all.db"
    assert run(folder, out, "--intrinsics", cameras) == 0
    assert os.listdir(out.parent) == ["all.db"]
    return out


def test_a_database_of_all_pairs_with_the_right_poses(matched):
    rows = read_rows(matched)
    assert len(rows["matches"]) == len(rows["two_view_geometries"]) == COUNT * (COUNT - 1) // 2
    known = poses(COUNT)
    with ColmapDatabase(matched) as database:
        assert [name for name, _ in database.images().values()] == [
            f"5-{i}.png" for i in range(COUNT)
        ]
        (camera,) = database.cameras().values()  # one for all: its parameters are the same
        assert not camera.guessed and camera.K[0, 0] == 480
        for i in range(COUNT):
            count = len(database.keypoints(i + 1).points)
            assert count == len(database.descriptors(i + 1)) and 300 < count <= 600
    for i, j in ((0, 1), (1, 3), (0, 2)):
        row = rows["two_view_geometries"][pair_number(i + 1, j + 1)]
        assert row["config"] == 2
        R = known[j][0] @ known[i][0].T
        t = known[j][1] - R @ known[i][1]
        w, x, y, z = np.frombuffer(row["qvec"])
        found = Rotation.from_quat([x, y, z, w]).as_matrix()
        assert np.degrees(Rotation.from_matrix(found @ R.T).magnitude()) < 1
        assert np.frombuffer(row["tvec"]) @ t > 0.99 * np.linalg.norm(t)
    for row in rows["matches"].values():
        for end in indices(row).T:
            assert len(np.unique(end)) == len(end)


def test_hlocs_files_hold_the_same_matches(folder, cameras, matched, tmp_path):
    assert run(folder, tmp_path / "hloc", "--intrinsics", cameras) == 0
    assert sorted(os.listdir(tmp_path)) == ["hloc"]
    rows = read_rows(matched)["matches"]
    with (
        h5py.File(tmp_path / "hloc" / "features.h5") as features,
        h5py.File(tmp_path / "hloc" / "matches.h5") as matches,
    ):
        group = features["5-0.png"]
        count = len(group["keypoints"])
        assert group["keypoints"].shape == (count, 2)
        assert group["descriptors"].shape == (128, count)
        np.testing.assert_array_equal(group["image_size"], [400, 300])
        lines = (tmp_path / "hloc" / "pairs.txt").read_text().splitlines()
        assert len(lines) == len(rows)
        for line in lines:
            name0, name1 = line.split()
            pair = matches[f"{name0}/{name1}"]
            matches0, scores = pair["matches0"][()], pair["matching_scores0"][()]
            kept = np.flatnonzero(matches0 >= 0)
            ids = (int(name[2]) + 1 for name in (name0, name1))
            wanted = indices(rows[pair_number(*ids)])
            np.testing.assert_array_equal(np.stack([kept, matches0[kept]], 1), wanted)
            assert (scores[kept] >= 0.5).all() and not scores[matches0 < 0].any()


def test_a_filter_that_looks_at_second_nearest_neighbours_gets_them(folder, matched, tmp_path):
    shipped = MatchFilter.from_pretrained("sift")
    net = MatchFilter(replace(shipped.config, second_nearest=True))
    net.load_state_dict(shipped.state_dict())
    save_weights(tmp_path / "second.safetensors", net)
    out = tmp_path / "second.db"
    assert run(folder, out, "--filter", tmp_path / "second.safetensors") == 0
    more = 0
    plain = read_rows(matched)["matches"]
    for pair, row in read_rows(out)["matches"].items():
        found = indices(row)
        assert (np.diff(found[:, 0]) > 0).all()  # no keypoint twice
        assert len(np.unique(found[:, 1])) == len(found)
        more += len({*map(tuple, found)} - {*map(tuple, indices(plain[pair]))})
    assert more > 20


def test_reduced_photographs_are_matched_in_the_files_pixels(folder, cameras, matched, tmp_path):
    assert run(folder, tmp_path / "d.db", "--intrinsics", cameras, "--max-size", "300") == 0
    with ColmapDatabase(tmp_path / "d.db") as database:
        assert database.keypoints(1).points[:, 0].max() > 330
    row = read_rows(tmp_path / "d.db")["two_view_geometries"][pair_number(1, 2)]
    full = read_rows(matched)["two_view_geometries"][pair_number(1, 2)]
    w, x, y, z = np.frombuffer(row["qvec"])
    w1, x1, y1, z1 = np.frombuffer(full["qvec"])
    turn = Rotation.from_quat([x, y, z, w]) * Rotation.from_quat([x1, y1, z1, w1]).inv()
    assert np.degrees(turn.magnitude()) < 1


def die_at_call(owner, name: str, call: int):
    """Dies when `owner.name` is called for the `call`-th time, from 0."""

    def die(monkeypatch) -> None:
        real, calls = getattr(owner, name), []

        def fatal(*arguments, **options):
            calls.append(0)
            if len(calls) > call:
                kill()
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, fatal)

    return die


@pytest.mark.parametrize(
    "die",
    [die_at_call(Photographs, "extract", 2), die_at_call(pair_jobs, "_putative", 3),
     die_at_call(pair_jobs, "write_whole", 1), die_before(match_folder, "write_database"),
     die_at_call(match_folder.NewColmapDatabase, "add_pair", 4),
     die_before(match_folder.shutil, "rmtree")],
    ids=["keypoints", "first part", "second part", "before writing", "in the database", "end"],
)
def test_goes_on_after_sigkill_and_gives_the_same(
    folder, cameras, matched, tmp_path, capsys, monkeypatch, die
):
    out = tmp_path / "all.db"
    argv = folder, out, "--intrinsics", cameras
    run_until_killed(lambda: run(*argv), die)
    done = len(list((tmp_path / "all.db.part").rglob("*.npz")))
    read = []
    monkeypatch.setattr(
        "n3match.pipelines.folder.photographs.read_photograph",
        lambda path, **options: read.append(path) or READ(path, **options),
    )
    assert run(*argv) == 0
    assert len(read) == max(0, COUNT - done)
    assert content(out) == content(matched)
    assert os.listdir(tmp_path) == ["all.db"]


READ = match_folder.Photographs.extract.__globals__["read_photograph"]


def in_process(folder, out, cameras, *more) -> int:
    return run(folder, out, "--intrinsics", cameras, *more)


def test_processes_of_a_job_and_workers_give_the_same(
    folder, cameras, matched, tmp_path, monkeypatch, prepared_processes
):
    out = tmp_path / "ranks.db"
    prepared.finish(prepared.start_ranks(in_process, folder, out, cameras, count=2))
    assert content(out) == content(matched)
    assert run(folder, tmp_path / "workers.db", "--intrinsics", cameras, "--processes", "2") == 0
    assert content(tmp_path / "workers.db") == content(matched)
    assert sorted(os.listdir(tmp_path)) == ["ranks.db", "workers.db"]


def test_a_changed_photograph_is_read_again(folder, tmp_path):
    photos = write_photographs(tmp_path / "photos", 3)
    run_until_killed(
        lambda: run(photos, tmp_path / "d.db"), die_before(match_folder, "write_database")
    )
    cv2.imwrite(str(photos / "5-1.png"), np.full((300, 400), 90, np.uint8))
    assert run(photos, tmp_path / "d.db") == 0
    rows = read_rows(tmp_path / "d.db")["matches"]
    assert rows[pair_number(1, 3)]["rows"] > 0
    assert rows[pair_number(1, 2)]["rows"] == rows[pair_number(2, 3)]["rows"] == 0


def test_guessed_cameras_are_said_and_each_photograph_has_its_own(folder, tmp_path, capsys):
    threshold = shipped_verdict().threshold
    assert run(folder, tmp_path / "d.db", "--sequential", "1") == 0
    out = capsys.readouterr().out
    assert "5 assumed" in out and "5 focal lengths are guesses" in out
    assert f"0 of 4 pairs, real with a probability below {threshold[FUNDAMENTAL]:g}\n" in out
    with ColmapDatabase(tmp_path / "d.db") as database:
        assert len(database.cameras()) == 5 and all(c.guessed for c in database.cameras().values())
    rows = read_rows(tmp_path / "d.db")
    assert [*rows["matches"]] == [pair_number(i, i + 1) for i in range(1, 5)]
    assert {row["config"] for row in rows["two_view_geometries"].values()} == {3}
    assert run(folder, tmp_path / "d.db", "--sequential", "1", "--one-camera") == 0
    with ColmapDatabase(tmp_path / "d.db") as database:
        assert len(database.cameras()) == 1


def test_without_a_filter_the_mutual_matches_are_written(folder, tmp_path):
    assert run(folder, tmp_path / "hloc", "--filter", "none", "--sequential", "1") == 0
    with h5py.File(tmp_path / "hloc" / "matches.h5") as file:
        scores = file["5-0.png/5-1.png/matching_scores0"][()]
        assert set(np.unique(scores)) == {0.0, 1.0}


def test_a_turned_photograph_is_matched_as_it_is_stored(tmp_path):
    """COLMAP's mapper and hloc look at the pixels in the file, whatever its EXIF orientation."""
    photos = write_photographs(tmp_path / "photos", 2)
    image = Image.open(photos / "5-0.png")
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(photos / "5-0.jpg", quality=95, exif=exif)
    (photos / "5-0.png").unlink()
    assert run(photos, tmp_path / "d.db") == 0
    with ColmapDatabase(tmp_path / "d.db") as database:
        sizes = {(camera.width, camera.height) for camera in database.cameras().values()}
        assert sizes == {(400, 300)}
        assert database.keypoints(1).points[:, 0].max() > 330


def test_an_unreadable_photograph_is_left_out_and_named(folder, tmp_path, capsys):
    photos = write_photographs(tmp_path / "photos", 2)
    (photos / "note.jpg").write_text("no photograph")
    assert run(photos, tmp_path / "d.db") == 1
    done = capsys.readouterr()
    assert "n3match: note.jpg: left out: " in done.err
    assert "photos     2," in done.out
    assert len(read_rows(tmp_path / "d.db")["matches"]) == 1
    assert run(photos, tmp_path / "d.db", "--similar", "1") == 1
    assert len(read_rows(tmp_path / "d.db")["matches"]) == 1


def pairs(choice: PairChoice, names, descriptors=None) -> list[tuple[str, str]]:
    return choice.pairs(names, descriptors)


@pytest.mark.parametrize("name", ["out.db", "out"])
def test_pairs_that_are_not_real_are_left_out_and_listed(folder, tmp_path, capsys, name):
    out = tmp_path / name
    options = ("--sequential", "1", "--min-pair-probability")
    assert run(folder, out, *options, "1") == 0
    told = capsys.readouterr().out
    listed = out / "left_out.txt" if out.is_dir() else tmp_path / "out.db.left_out.txt"
    assert f"{COUNT - 1} of {COUNT - 1} pairs, real with a probability below 1: {listed}" in told
    assert "0 with matches" in told
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert [line[:2] for line in lines] == [
        [f"5-{i}.png", f"5-{i + 1}.png"] for i in range(COUNT - 1)
    ]
    assert all(0.5 < float(line[2]) < 1 and int(line[3]) > 30 for line in lines)
    assert run(folder, out, *options, "0") == 0
    assert not listed.exists()
    assert f"{COUNT - 1} with matches" in capsys.readouterr().out


def test_choice_of_pairs(tmp_path):
    names = ["a", "b", "c", "d"]
    assert len(pairs(PairChoice(), names)) == 6
    assert pairs(PairChoice(sequential=1), names) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert len(pairs(PairChoice(sequential=9), names)) == 6
    (tmp_path / "list.txt").write_text("d a\nb a\na b\n")
    listed = PairChoice(tmp_path / "list.txt")
    assert pairs(listed, names) == [("a", "b"), ("a", "d")]
    assert len(pairs(PairChoice(tmp_path / "list.txt", 1), names)) == 4
    with pytest.raises(ValueError, match=r"list\.txt: d is no photograph of the folder"):
        pairs(listed, names[:3])


def test_photographs_of_one_scene_are_alike(tmp_path):
    found = {}
    for seed in (5, 50):
        write_photographs(tmp_path, 4, seed)
        for i in range(4):
            image = cv2.imread(str(tmp_path / f"{seed}-{i}.png"), cv2.IMREAD_GRAYSCALE)
            found[f"{seed}-{i}.png"] = extract_sift(image, 300).descriptors
    names = sorted(found)
    chosen = pairs(PairChoice(similar=2), names, found.__getitem__)
    assert len(chosen) >= 8
    assert all(name0[:2] == name1[:2] for name0, name1 in chosen)
    assert chosen == pairs(PairChoice(similar=2), names, found.__getitem__)
    empty = global_descriptors([np.zeros((0, 128), np.float32)] * 2)
    assert np.isfinite(empty).all() and len(empty) == 2


def test_wrong_use_is_told(folder, tmp_path, capsys):
    photo = folder / "5-0.png"
    assert "wanted 2 or more" in error_of(capsys, tmp_path, tmp_path / "d.db")
    assert "--sequential must be at least 1" in error_of(
        capsys, folder, tmp_path / "d.db", "--sequential", "0"
    )
    line = error_of(capsys, folder, tmp_path / "none" / "d.db")
    assert "none" in line
    (tmp_path / "file").write_text("")
    assert "is a file, wanted a folder for hloc's files or a database" in error_of(
        capsys, folder, tmp_path / "file"
    )
    assert "--plot: is for two photographs" in error_of(
        capsys, folder, tmp_path / "d.db", "--plot", "p.png"
    )
    assert "--one-camera: is for a folder" in error_of(capsys, photo, photo, "--one-camera")
    assert "--out: found none" in run_two(capsys, photo)
    assert "--device: 'abacus'" in error_of_device(capsys, folder, tmp_path / "d.db")
    assert "no-such-weights" in error_of(
        capsys, folder, tmp_path / "d.db", "--filter", "no-such-weights"
    )
    assert os.listdir(tmp_path) == ["file"]


def error_of_device(capsys, *argv) -> str:
    assert main(["match", *map(str, argv), "--device", "abacus"]) == 2
    return capsys.readouterr().err


def run_two(capsys, photo) -> str:
    assert main(["match", str(photo), str(photo)]) == 2
    return capsys.readouterr().err


def test_photographs_whose_names_no_line_holds_are_left_out_and_named(folder, tmp_path, capsys):
    """A line break in a name took all pairs with it, with an error about another file."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    names = ["a.png", "b.png", "c\nd.png", "e\udcff.png"]
    for name, source in zip(names, sorted(folder.iterdir())):
        (photographs / name).write_bytes(source.read_bytes())
    assert run(photographs, tmp_path / "out.db") == 1
    said = capsys.readouterr().err
    for shown in (r"'c\nd.png'", r"'e\\udcff.png'"):
        assert f"{shown}: left out: its name can't be written" in said
    with ColmapDatabase(tmp_path / "out.db") as database:
        assert [name for name, _ in database.images().values()] == ["a.png", "b.png"]
