"""What build-pairs does with what it can't use: named, left out, and the rest is done."""

import shutil
import sys

import cv2
import h5py
import numpy as np
import pytest
import torch
from layouts import pair_line, write_dump, write_pair_list
from toy_scene import make_record, poses, quaternion, write_model, write_scene

from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import read_report
from n3match.pipelines.cli import main
from n3match.pipelines.pairs.jobs import inconsistency
from n3match.pipelines.pairs.make_store import build_pairs


def run(capsys, *arguments):
    """Exit status and standard error without the bar."""
    status = main(["build-pairs", *map(str, arguments), "--max-keypoints", "100"])
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return status, [line for line in lines if line.startswith("n3match: ")]


def names(path):
    data = PairDataset(path)
    found = [data.record(i) for i in range(len(data))]
    return {(r.scene, *sorted((r.name0, r.name1))) for r in found}


def test_bad_images_and_scenes_are_left_out_and_named(tmp_path, capsys):
    scenes = tmp_path / "scenes"
    bad = write_scene(scenes / "bad", 4) / "images"
    (bad / "1.png").unlink()
    cv2.imwrite(str(bad / "2.png"), np.zeros((90, 120), np.uint8))
    write_scene(scenes / "good", 3)
    cut = write_scene(scenes / "cut", 2) / "sparse" / "images.bin"
    cut.write_bytes(cut.read_bytes()[:-5])
    write_scene(scenes / "far", 2)
    camera = [(7, "SIMPLE_PINHOLE", 240, 180, (260, 120, 90))]
    images = [(i, quaternion(R), t, 7, f"{i}.png", [i]) for i, (R, t) in enumerate(poses(2))]
    write_model(scenes / "far" / "sparse", camera, images)
    lost = write_scene(scenes / "lost", 2) / "sparse"
    images = [(1, (1, 0, 0, 0), (0, np.nan, 0), 7, "0.png", [])]
    write_model(lost, camera, images)

    out = tmp_path / "pairs.h5"
    status, told = run(capsys, scenes, out)
    assert status == 1
    good = {("good", f"{i}.png", f"{j}.png") for i, j in ((0, 1), (0, 2), (1, 2))}
    assert names(out) == good | {("bad", "0.png", "3.png")}
    problems = read_report(out).problems
    wanted = [
        "images.bin: ends inside the points of image 1",
        "far: none of its 2 images sees enough of another",
        "images.bin: image '0.png': pose",
        "1.png: no such image",
        "2.png: 120 x 90 pixels, its camera has 240 x 180",
    ]
    assert len(problems) == len(wanted)
    for part, problem in zip(wanted, problems):
        assert part in problem and f"n3match: problem: {problem}" in told
    # The report is the store's: asked again, nothing is done and the same is said.
    assert run(capsys, scenes, out) == (status, told)

    status, told = run(capsys, scenes, tmp_path / "strict.h5", "--strict")
    assert status == 2 and len(told) == 1 and not (tmp_path / "strict.h5").exists()


def test_without_any_pair_there_is_no_store(tmp_path, capsys):
    scene = write_scene(tmp_path / "scene", 3)
    status, told = run(capsys, scene, tmp_path / "pairs.h5", "--min-shared", "5000")
    assert status == 2 and "none of its 3 images sees enough" in told[0]
    assert [p.name for p in tmp_path.iterdir()] == ["scene"]


def test_a_dump_with_bad_pairs(tmp_path, capsys):
    record = make_record(1, count=7)
    pair = {
        "x": record.xs, "R": record.R, "t": record.t, "K0": record.K0, "K1": record.K1,
        "ratio": record.ratio, "mutual": record.mutual,
    }  # fmt: skip
    bad = {**pair, "x": np.full((7, 4), np.inf)}
    dump = write_dump(tmp_path / "dump.h5", [pair, bad, {**pair, "t": np.zeros(3)}, pair])
    out = tmp_path / "pairs.h5"
    status, _ = run(capsys, dump, out)
    assert status == 1 and len(PairDataset(out)) == 2
    first, second = read_report(out).problems
    assert "dump.h5: xs/1: found NaN or inf" in first and "ts/2: found a zero vector" in second
    dump.write_bytes(dump.read_bytes()[:3000])
    status, told = run(capsys, dump, tmp_path / "other.h5")
    assert status == 2 and "dump.h5: not a readable HDF5 file" in told[0]
    dump.write_text("no HDF5")
    status, told = run(capsys, dump, tmp_path / "other.h5")
    assert status == 2 and "dump.h5: not a readable HDF5 file" in told[0]


def test_a_pair_with_a_wrong_pose_is_reported_and_left_out(tmp_path, capsys):
    path = write_pair_list(tmp_path / "s", 3)
    words = pair_line(0, 1).split()
    turned = np.array(words[22:], float).reshape(4, 4)
    turned[:3, 3] = turned[[1, 2, 0], 3] * [1, -1, 1]
    turned[:3, :3] = cv2.Rodrigues(np.array([0.3, 0.0, 0.1]))[0] @ turned[:3, :3]
    wrong = " ".join([*words[:22], *map(str, turned.ravel())])
    path.write_text("\n".join([pair_line(0, 2), wrong, pair_line(1, 2)]))
    out = tmp_path / "pairs.h5"
    status, told = run(capsys, path, out, "--fixed-direction")
    assert status == 0
    assert names(out) == {("pairs_with_gt", "0.png", "2.png"), ("pairs_with_gt", "1.png", "2.png")}
    (line,) = read_report(out).left_out
    assert line.startswith("pairs_with_gt: 0.png, 1.png: ") and "fit its pose" in line
    assert told == [f"n3match: left out: {line}"]
    status, _ = run(capsys, path, tmp_path / "all.h5", "--min-consistent", "0")
    assert status == 0 and len(PairDataset(tmp_path / "all.h5")) == 3


def test_few_matches_prove_nothing():
    def doubt(right, wrong):
        record = make_record(0, count=right + wrong)
        record.distances_squared[:] = [1e-5] * right + [1.0] * wrong
        record.ratio[:] = 0.5
        record.mutual[:] = True
        return inconsistency(record, 0.15)

    # 0.85^28 = 0.0106, 0.85^29 = 0.0090
    assert doubt(0, 28) is None and doubt(0, 0) is None
    assert doubt(0, 29).startswith("0 of 29 mutual matches")
    assert doubt(15, 85) is None and doubt(2, 98) is not None


def test_doubt_is_about_reliable_matches_alone():
    record = make_record(0, count=90)
    record.distances_squared[:] = 1.0
    record.mutual[:] = np.arange(90) < 60
    record.ratio[:] = np.where(np.arange(90) < 30, 0.9, 0.5)
    assert inconsistency(record, 0.15).startswith("0 of 30 ")
    assert inconsistency(record, 0.0) is None


def test_changed_scenes_do_not_mix_with_parts_of_others(tmp_path):
    scene = write_scene(tmp_path / "scene", 3)
    (scene / "images" / "2.png").rename(tmp_path / "2.png")
    out = tmp_path / "pairs.h5"
    with pytest.raises(FileNotFoundError, match=r"2\.png: no such image"):
        build_pairs(scene, out, max_keypoints=50, progress=False)
    shutil.rmtree(scene)
    write_scene(scene, 4)
    with pytest.raises(ValueError, match=r"pairs\.h5\.parts: begun when the scenes"):
        build_pairs(scene, out, max_keypoints=50, progress=False)


def test_a_photograph_that_was_put_right_is_read_again(tmp_path):
    scene = write_scene(tmp_path / "scene", 3)
    image = scene / "images" / "2.png"
    whole = image.read_bytes()
    image.write_bytes(b"")
    out = tmp_path / "pairs.h5"
    with pytest.raises(ValueError, match=r"2\.png: is empty"):
        build_pairs(scene, out, max_keypoints=50, progress=False)
    image.write_bytes(whole)
    assert len(PairDataset(build_pairs(scene, out, max_keypoints=50, progress=False))) == 3


def test_several_workers_read_one_store(tmp_path):
    path = build_pairs(
        write_scene(tmp_path / "scene", 4), tmp_path / "pairs.h5", max_keypoints=50, progress=False
    )
    data = PairDataset(path)
    wanted = [data[i]["x"] for i in range(6)]  # the file is open when the workers start
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)
    for item, x in zip(loader, wanted, strict=True):
        torch.testing.assert_close(item["x"], x)


def test_the_store_says_where_it_comes_from(tmp_path):
    scene = write_scene(tmp_path / "scene", 2)
    options = {"max_keypoints": 50, "progress": False}
    build_pairs(scene, tmp_path / "a.h5", **options)
    build_pairs(scene, tmp_path / "b.h5", source="my house", licence="CC0", **options)
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        assert a.attrs["source"] == "colmap: scene" and a.attrs["licence"] == ""
        assert b.attrs["source"] == "my house" and b.attrs["licence"] == "CC0"
        assert len(a["xs/0"][0]) == 50 and a["xs/0"].compression is None  # 800 bytes
    options["max_keypoints"] = 100
    with h5py.File(build_pairs(scene, tmp_path / "c.h5", **options)) as c:
        assert c["xs/0"].compression == "gzip" and c["xs/0"].chunks == (1, 100, 4)


def test_fisheye_photographs_are_stored_as_an_ideal_lens_sees_them(tmp_path):
    scene = write_scene(tmp_path / "scene", 2)
    k = (0.05, -0.01, 0.0, 0.0)
    camera = [(7, "OPENCV_FISHEYE", 240, 180, (260, 260, 120, 90, *k))]
    images = [
        (i, quaternion(R), t, 7, f"{i}.png", list(range(30))) for i, (R, t) in enumerate(poses(2))
    ]
    write_model(scene / "sparse", camera, images)
    path = build_pairs(scene, tmp_path / "pairs.h5", max_keypoints=80, progress=False)
    record = PairDataset(path).record(0)
    assert not record.distortion0.any() and not record.distortion1.any()
    ideal = (record.points0 - record.K0[:2, 2]) / 260
    np.testing.assert_allclose(ideal, record.xs[:, :2], atol=1e-5)
    detected = cv2.fisheye.distortPoints(ideal[None].astype(np.float64), record.K0, np.array(k))[0]
    assert (detected > -1).all() and (detected < [240, 180]).all()
    assert np.abs(detected - record.points0).max() > 1


def test_photographs_without_a_model_need_pycolmap(tmp_path, capsys, monkeypatch):
    photos = write_scene(tmp_path / "scene", 3) / "images"
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    status, told = run(capsys, "--images", photos, tmp_path / "pairs.h5")
    assert status == 2 and 'pip install "n3match[colmap]"' in told[0]
    # A model that is there is used, whether or not there is a folder images/.
    shutil.copytree(tmp_path / "scene" / "sparse", photos / "sparse")
    assert run(capsys, photos, "--images", tmp_path / "a.h5") == (0, [])
    assert run(capsys, "--images", tmp_path / "scene", tmp_path / "b.h5") == (0, [])
    assert len(names(tmp_path / "a.h5")) == len(names(tmp_path / "b.h5")) == 3


def test_too_few_photographs(tmp_path, capsys):
    photos = write_scene(tmp_path / "scene", 2) / "images"
    status, told = run(capsys, "--images", photos, tmp_path / "pairs.h5")
    assert status == 2 and "found 2 photographs, wanted 3 or more" in told[0]
    status, told = run(capsys, "--images", photos, tmp_path / "pairs.h5", "--format", "rgbd")
    assert status == 2 and "format: found rgbd together with images" in told[0]


@pytest.mark.slow
def test_real_photographs_get_their_poses(shared_data, tmp_path, capsys):
    pytest.importorskip("pycolmap")
    scene = shared_data / "scenes/train/kermit"
    photos = tmp_path / "photos"
    shutil.copytree(scene / "images", photos)
    out = tmp_path / "pairs.h5"
    status, _ = run(capsys, "--images", photos, out)
    assert status == 0 and len(names(out)) >= 20
    # The shared model was made likewise: relative rotations agree.
    given = build_pairs(scene, tmp_path / "given.h5", max_keypoints=100, progress=False)
    turns = {}
    for path in (out, given):
        data = PairDataset(path)
        for record in map(data.record, range(len(data))):
            R = record.R if record.name0 < record.name1 else record.R.T
            turns.setdefault(tuple(sorted((record.name0, record.name1))), []).append(R)
    both = [Rs for Rs in turns.values() if len(Rs) == 2]
    errors = [np.degrees(np.linalg.norm(cv2.Rodrigues(A @ B.T)[0])) for A, B in both]
    assert len(errors) >= 15 and np.median(errors) < 1
