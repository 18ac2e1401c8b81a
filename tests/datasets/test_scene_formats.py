"""Every layout, written by layouts.py, gives the scene that was written, and the same store."""

import shutil

import numpy as np
import pytest
from layouts import write_cnnet, write_dump, write_pair_list, write_seven_scenes, write_sun3d
from toy_scene import camera_matrix, poses, write_scene

from n3match.datasets.images import read_image_gray
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import read_report
from n3match.datasets.scenes.formats import FORMATS, find_scenes, read_scene
from n3match.datasets.scenes.source import ReadOptions
from n3match.pipelines.pairs.make_store import build_pairs

WRITERS = {
    "colmap": write_scene,
    "cnnet": write_cnnet,
    "rgbd": write_seven_scenes,
    "sun3d": write_sun3d,
    "pair-list": write_pair_list,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Name of the writer to the source that it wrote."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def wanted(sources, tmp_path_factory):
    """The records of the COLMAP scene."""
    return records(build(sources["colmap"], tmp_path_factory.mktemp("store") / "colmap.h5"))


def build(source, out):
    return build_pairs(source, out, max_keypoints=150, fixed_direction=True, progress=False)


def records(path):
    data = PairDataset(path)
    return [data.record(i) for i in range(len(data))]


@pytest.mark.parametrize("name", WRITERS)
def test_a_layout_is_recognised_and_read(sources, name):
    (found,) = find_scenes(sources[name])
    assert found.format == {"sun3d": "rgbd"}.get(name, name)
    scene = read_scene(found, ReadOptions())
    assert scene.problems == [] and len(scene.views) == 4
    order = list(scene.views)
    for view in scene.views.values():
        np.testing.assert_allclose(view.K, camera_matrix(), atol=1e-9)
        assert read_image_gray(view.path).shape == (180, 240)
        assert view.size in (None, (240, 180))
    wanted = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    # Neighbours at least; which of the far ones see enough is the layout's matter.
    ends = [(order.index(p.view0), order.index(p.view1)) for p in scene.pairs]
    assert set(ends) <= set(wanted) and {(0, 1), (1, 2), (2, 3)} <= set(ends)
    for (i, j), pair in zip(ends, scene.pairs):
        (R0, t0), (R1, t1) = poses(4)[i], poses(4)[j]
        R = R1 @ R0.T
        np.testing.assert_allclose(pair.R, R, atol=1e-6)
        np.testing.assert_allclose(pair.t, t1 - R @ t0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "colmap"])
def test_the_store_is_that_of_the_colmap_scene(sources, wanted, tmp_path, name):
    found = records(build(sources[name], tmp_path / "other.h5"))
    assert len(found) >= 3
    # Pairs are told by their keypoints; the labels follow from pose and intrinsics.
    by_points = {record.points1.tobytes() + record.points0.tobytes(): record for record in wanted}
    for record in found:
        same = by_points[record.points1.tobytes() + record.points0.tobytes()]
        np.testing.assert_allclose(record.xs, same.xs, atol=1e-6)
        np.testing.assert_allclose(record.R, same.R, atol=1e-6)
        np.testing.assert_allclose(
            record.distances_squared, same.distances_squared, rtol=1e-2, atol=1e-9
        )


def test_a_dump_comes_back_with_labels_of_its_pose(wanted, tmp_path):
    pairs = [
        {
            "x": r.xs, "R": r.R, "t": 2 * r.t, "K0": r.K0, "K1": r.K1,
            "ratio": r.ratio, "mutual": r.mutual,
        }
        for r in wanted
    ]  # fmt: skip
    dump = write_dump(tmp_path / "dump.h5", pairs)
    found = records(build_pairs(dump, tmp_path / "store.h5", progress=False))
    assert [r.scene for r in found] == ["dump"] * len(wanted)
    for record, same in zip(found, wanted):
        np.testing.assert_array_equal(record.xs, same.xs)
        np.testing.assert_allclose(record.t, same.t, atol=1e-6)
        np.testing.assert_allclose(record.points0, same.points0, atol=1e-3)
        np.testing.assert_allclose(record.K1, same.K1)
        assert record.size0 == (240, 180)
        near = same.distances_squared < 1e-2
        np.testing.assert_allclose(
            record.distances_squared[near], same.distances_squared[near], rtol=1e-2, atol=1e-9
        )
    item = PairDataset(tmp_path / "store.h5")[0]
    assert (item["keypoint_change"][:, :2] == 0).all()  # how keypoints turn is not known


def test_scenes_below_a_folder_are_named_by_their_path(sources, tmp_path):
    shutil.copytree(sources["colmap"], tmp_path / "b" / "train")
    shutil.copytree(sources["cnnet"], tmp_path / "a" / "town" / "train")
    shutil.copytree(sources["rgbd"], tmp_path / "kitchen")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    found = find_scenes(tmp_path)
    assert [(s.name, s.format) for s in found] == [
        ("a/town/train", "cnnet"), ("b/train", "colmap"), ("kitchen", "rgbd"),
    ]  # fmt: skip
    assert [s.name for s in find_scenes(tmp_path, "colmap")] == ["b/train"]
    assert [s.name for s in find_scenes(tmp_path, None, ["kitchen"])] == ["a/town/train", "b/train"]
    path = build_pairs(tmp_path, tmp_path / "all.h5", max_keypoints=50, progress=False)
    assert {r.scene for r in records(path)} == {"a/town/train", "b/train", "kitchen"}
    assert read_report(path).problems == []


def test_what_is_no_scene_is_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("a.jpg b.jpg\n")
    with pytest.raises(ValueError, match=r"notes\.txt: no scene in it, wanted one of the layouts"):
        find_scenes(text)
    with pytest.raises(ValueError, match="wanted one of the layouts cnnet"):
        find_scenes(tmp_path, "cnnet")
    with pytest.raises(ValueError, match=f"format: found 'zip', wanted one of {FORMATS[0]}"):
        find_scenes(tmp_path, "zip")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder or file"):
        find_scenes(tmp_path / "nowhere")
