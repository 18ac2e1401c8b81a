"""evaluate-pose and train-filter given whatever build-pairs takes."""

import argparse
import json

import cv2
import numpy as np
import pytest
from layouts import write_cnnet, write_dump, write_pair_list, write_seven_scenes
from toy_pairs import make_record, parse, write_store
from toy_scene import write_scene

from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import open_store
from n3match.pipelines.evaluation import evaluate_pose
from n3match.pipelines.pairs.make_store import build_pairs
from n3match.pipelines.pairs.sources import stores_of
from n3match.pipelines.training import train_filter

NOTHING = {
    "format": None, "image_root": None, "intrinsics": None, "images": False,
    "stored_pixels": False, "feature": "sift",
}
QUICK = {"max_keypoints": 60, "progress": False}


def scene_of(kind, folder):
    if kind == "pair-list":
        return write_pair_list(folder)
    if kind == "dump":
        record = make_record(true=20)
        pair = {
            "x": record.xs, "R": record.R, "t": record.t, "K0": record.K0, "K1": record.K1,
            "ratio": record.ratio, "mutual": record.mutual,
        }
        return write_dump(folder.with_suffix(".h5"), [pair] * 2)
    return {"colmap": write_scene, "cnnet": write_cnnet, "rgbd": write_seven_scenes}[kind](folder)


@pytest.mark.parametrize("kind", ["pair-list", "colmap", "cnnet", "rgbd", "dump"])
def test_poses_of_any_source(kind, tmp_path, capsys):
    source = scene_of(kind, tmp_path / "scene") or tmp_path / "scene"
    arguments = parse(
        source, "--filters", "mutual", "--estimators", "opencv_ransac", "--keypoints", 60,
        "--workers", 1, "--out", tmp_path / "out", "--worst", 0, "--limit", 2,
    )
    assert evaluate_pose.main(arguments) == 0
    assert "| mutual " in capsys.readouterr().out
    (store,) = (tmp_path / "out").glob("*-60.h5")
    with open_store(store) as file:
        settings = json.loads(file.attrs["settings"])
    assert settings["fixed_direction"] and settings["max_keypoints"] == 60
    assert settings.get("formats", ["colmap"]) == [kind]


def test_a_pair_list_finds_its_photographs(tmp_path, capsys):
    """By --image-root, for its keypoints and for the pictures."""
    listed = write_pair_list(tmp_path / "photographs")
    moved = tmp_path / "lists" / "pairs.txt"
    moved.parent.mkdir()
    listed.rename(moved)
    arguments = [
        moved, "--filters", "mutual", "--estimators", "opencv_ransac", "--keypoints", 60, 40,
        "--workers", 1, "--limit", 1, "--worst", 1, "--out", tmp_path / "out",
    ]
    with pytest.raises(FileNotFoundError, match=r"lists/0\.png"):
        evaluate_pose.main(parse(*arguments))
    root = ["--image-root", tmp_path / "photographs"]
    assert evaluate_pose.main(parse(*arguments, *root)) == 0
    report = capsys.readouterr().out
    assert "## 60 keypoints per image" in report and "| features | matching |" in " ".join(
        report.split()
    )
    (path,) = (tmp_path / "out" / "figures" / "60" / "worst").iterdir()
    assert cv2.imread(str(path))[200:].std() > 10


def train(folder, *words):
    parser = argparse.ArgumentParser()
    train_filter.add_arguments(parser)
    quick = ["--network", "cnnet", "--steps", 1, "--batch", 2, "--min-matches", 32]
    quick += ["--max-matches", 40, "--warmup", 0, "--max-keypoints", 60, "--validate-every", 1]
    return train_filter.main(parser.parse_args([str(w) for w in (folder, *words, *quick)]))


def test_training_on_sources(tmp_path, capsys):
    """A pair list, validated on a scene: the stores are made once, in the run's folder."""
    listed = write_pair_list(tmp_path / "list")
    write_scene(tmp_path / "scene")
    words = ["--pairs", f"{listed}:2", "--validation", tmp_path / "scene", "--generated", 0]
    assert train(tmp_path / "run", *words) == 0
    assert (tmp_path / "run" / "filter.safetensors").is_file()
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/pairs").glob("*.h5")}
    assert set(made) == {"pairs_with_gt-60.h5", "scene-60.h5"}
    assert train(tmp_path / "run", *words) == 0  # done already
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "run/pairs").glob("*.h5")} == made


def test_what_cannot_be_used_of_a_source_is_told(tmp_path, capsys):
    """As build-pairs tells it: the rest is trained on."""
    listed = write_pair_list(tmp_path / "list")
    (tmp_path / "list" / "3.png").unlink()
    assert train(tmp_path / "run", "--pairs", listed) == 0
    assert "n3match: problem: " in (said := capsys.readouterr().err) and "3.png" in said
    assert len(PairDataset(tmp_path / "run" / "pairs" / "pairs_with_gt-60.h5")) == 3


def test_the_store_is_that_of_build_pairs(tmp_path):
    listed = write_pair_list(tmp_path / "list")
    (store,) = stores_of([listed], tmp_path / "made", NOTHING, **QUICK)
    wanted = build_pairs(listed, tmp_path / "wanted.h5", **QUICK)
    ours, theirs = PairDataset(store), PairDataset(wanted)
    assert len(ours) == len(theirs) == 6
    for i in range(6):
        np.testing.assert_array_equal(ours.record(i).xs, theirs.record(i).xs)


def test_stores_are_taken_as_they_are(tmp_path):
    store = write_store(tmp_path / "a.h5", [make_record(true=20)])
    assert stores_of([store], tmp_path / "made", NOTHING, **QUICK) == [store]
    assert not (tmp_path / "made").exists()
    dump = scene_of("dump", tmp_path / "dump")
    assert stores_of([dump], tmp_path / "made", NOTHING, dumps=True, **QUICK) == [dump]


def test_wrong_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such pair store, scene or folder"):
        stores_of([tmp_path / "absent"], tmp_path, NOTHING, **QUICK)
    (tmp_path / "notes.txt").write_text("no pairs")
    with pytest.raises(ValueError, match=r"notes\.txt: no scene in it, wanted one of"):
        stores_of([tmp_path / "notes.txt"], tmp_path, NOTHING, **QUICK)
    (tmp_path / "x.h5").write_text("no store")
    with pytest.raises(ValueError, match=r"x\.h5: not a readable HDF5 file"):
        stores_of([tmp_path / "x.h5"], tmp_path, NOTHING, **QUICK)
    lists = [write_pair_list(tmp_path / name) for name in "ab"]
    with pytest.raises(ValueError, match="of the same name as"):
        stores_of(lists, tmp_path / "made", NOTHING, **QUICK)
