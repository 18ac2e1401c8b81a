import shutil

import cv2
import numpy as np
import pytest
import torch
from toy_scene import DEPTH, NORMAL, camera_matrix, poses, write_model, write_scene

from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.scenes.source import ScenePair
from n3match.geometry import essential_from_pose, normalize_points, symmetric_epipolar_distance
from n3match.matching import extract_features, putative_matches
from n3match.pipelines.cli import main
from n3match.pipelines.pairs import jobs, plan
from n3match.pipelines.pairs.make_store import build_pairs


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two scenes of 4 and 3 images."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scene(folder / "long", 4)
    write_scene(folder / "short", 3, model="txt")
    return folder


@pytest.fixture(scope="module")
def store(scenes, tmp_path_factory):
    return build(scenes, tmp_path_factory.mktemp("store") / "pairs.h5", fixed_direction=True)


def build(scenes, out, **options):
    return build_pairs(scenes, out, max_keypoints=150, progress=False, **options)


def records(path):
    data = PairDataset(path)
    return [data.record(i) for i in range(len(data))]


def names(path):
    return [(r.scene, r.name0, r.name1) for r in records(path)]


def assert_same_stores(path, wanted):
    assert names(path) == names(wanted)
    for found, record in zip(records(path), records(wanted)):
        np.testing.assert_array_equal(found.xs, record.xs)
        np.testing.assert_array_equal(found.distances_squared, record.distances_squared)


def test_all_covisible_pairs_in_order_of_names(store):
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    wanted = [("long", f"{i}.png", f"{j}.png") for i, j in pairs]
    wanted += [("short", f"{i}.png", f"{j}.png") for i, j in ((0, 1), (0, 2), (1, 2))]
    assert names(store) == wanted
    shared = [100 - 20 * (j - i) for i, j in pairs] + [80, 60, 80]
    assert [r.num_shared for r in records(store)] == shared


def test_a_record_holds_the_matches_of_its_pair(store):
    record = records(store)[1]
    assert 20 < len(record.points0) <= 150
    assert record.size0 == (240, 180)
    np.testing.assert_array_equal(record.K0, camera_matrix())
    np.testing.assert_array_equal(record.index0, np.arange(len(record.index0)))
    for points, xs in ((record.points0, record.xs[:, :2]), (record.points1, record.xs[:, 2:])):
        wanted = normalize_points(torch.from_numpy(points).double(), torch.from_numpy(record.K0))
        np.testing.assert_allclose(xs, wanted, atol=1e-6)
    # A keypoint of image 1 is the same wherever it is matched to.
    first = {int(i): tuple(p) for i, p in zip(record.index1, record.points1)}
    assert all(first[int(i)] == tuple(p) for i, p in zip(record.index1, record.points1))
    assert (record.sizes_angles0[:, 0] > 1).all()


def test_a_record_holds_second_nearest_neighbours_too(scenes, store):
    record = records(store)[1]
    images = [cv2.imread(str(scenes / "long" / "images" / f"{i}.png"), 0) for i in (0, 2)]
    found0, found1 = (extract_features(image, "sift", 150) for image in images)
    wanted = putative_matches(
        found0.keypoints, found0.descriptors, found1.keypoints, found1.descriptors,
        second_nearest=True,
    )
    whole = record.with_second()
    assert len(record.second.xs) > 10 and len(whole.xs) == len(wanted)
    for name in ("ratio", "mutual", "near_mutual", "index0", "index1", "back_ratio", "apart"):
        found = getattr(whole, name)
        np.testing.assert_allclose(found, getattr(wanted, name), rtol=1e-5, err_msg=name)
    distances = symmetric_epipolar_distance(
        record.second.xs[:, :2].astype(float), record.second.xs[:, 2:].astype(float),
        essential_from_pose(record.R, record.t),
    )
    np.testing.assert_allclose(record.second.distances_squared, distances, rtol=1e-3, atol=1e-12)
    assert not record.second.mutual.any() and record.second.near_mutual.all()


def test_labels_are_those_of_the_true_pose(store):
    (R0, t0), (R1, t1) = poses(4)[0], poses(4)[2]
    record = records(store)[1]
    R = R1 @ R0.T
    t = t1 - R @ t0
    np.testing.assert_allclose(record.R, R, atol=1e-12)
    np.testing.assert_allclose(record.t, t / np.linalg.norm(t), atol=1e-12)
    xs = torch.from_numpy(record.xs).double()
    E = essential_from_pose(torch.from_numpy(R), torch.from_numpy(t))
    wanted = symmetric_epipolar_distance(xs[:, :2], xs[:, 2:], E)
    np.testing.assert_allclose(record.distances_squared, wanted, rtol=1e-3, atol=1e-12)
    # The scene is a plane: matches that its homography confirms must be labelled as correct.
    K = camera_matrix()
    H = K @ (R + np.outer(t, NORMAL) / DEPTH) @ np.linalg.inv(K)
    mapped = cv2.perspectiveTransform(record.points0[None].astype(np.float64), H)[0]
    correct = np.linalg.norm(mapped - record.points1, axis=1) < 1.5
    assert correct.sum() > 20
    assert (record.distances_squared[correct] < 1e-4).all()
    assert np.median(record.distances_squared[~correct]) > 1e-4
    assert record.mutual[correct].mean() > 0.9


def test_directions_are_drawn_by_scene_and_seed(scenes, store, tmp_path):
    drawn = names(build(scenes, tmp_path / "a.h5"))
    assert [(s, *sorted(pair)) for s, *pair in drawn] == names(store)
    assert drawn != names(store)
    assert names(build(scenes, tmp_path / "b.h5", seed=1)) != drawn
    alone = names(build(scenes, tmp_path / "c.h5", exclude=["long"]))
    assert alone == [n for n in drawn if n[0] == "short"]


def test_a_scene_folder_itself_and_colmaps_own_layout(scenes, store, tmp_path):
    scene = tmp_path / "short"
    shutil.copytree(scenes / "short", scene)
    (scene / "sparse").rename(scene / "0")
    (scene / "sparse").mkdir()
    (scene / "0").rename(scene / "sparse" / "0")
    path = build(scene, tmp_path / "pairs.h5", fixed_direction=True)
    assert names(path) == [n for n in names(store) if n[0] == "short"]


def test_max_pairs_and_min_shared(scenes, tmp_path):
    assert len(names(build(scenes, tmp_path / "a.h5", max_pairs=2))) == 4
    path = build(scenes, tmp_path / "b.h5", min_shared=80)
    assert all(r.num_shared >= 80 for r in records(path)) and len(records(path)) == 5


class Killed(BaseException):
    pass


@pytest.mark.parametrize("calls", [1, 4, 8])
def test_a_run_cut_short_goes_on_where_it_was(scenes, store, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(plan, "PART_SIZE", 2)
    made = []
    make_record = jobs.make_record

    def count_down(*args):
        made.append(args)
        if len(made) == calls:
            raise Killed
        return make_record(*args)

    path = tmp_path / "pairs.h5"
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "make_record", count_down)
        with pytest.raises(Killed):
            build(scenes, path, fixed_direction=True)
        # Parts of 2, 2, 2 pairs of the first scene, 2 and 1 of the second.
        kept = {1: 0, 4: 2, 8: 6}[calls]
        made.clear()
        made.extend([None] * calls)
        build(scenes, path, fixed_direction=True)
        assert len(made) - calls == 9 - kept
    assert_same_stores(path, store)


def test_a_finished_store_needs_no_images(store, scenes, tmp_path):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    path = build(folder, tmp_path / "pairs.h5", fixed_direction=True)
    shutil.rmtree(folder / "long" / "images")
    before = path.stat()
    assert build(folder, path, fixed_direction=True) == path
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_two_processes_give_the_same_store(scenes, store, tmp_path, prepared_processes):
    path = build(scenes, tmp_path / "pairs.h5", fixed_direction=True, processes=2)
    assert_same_stores(path, store)


def test_an_image_without_keypoints_gives_a_pair_without_matches(tmp_path):
    scene = write_scene(tmp_path / "scene", 3)
    cv2.imwrite(str(scene / "images" / "0.png"), np.full((180, 240), 77, np.uint8))
    path = build(scene, tmp_path / "pairs.h5", fixed_direction=True)
    assert [len(r.xs) > 0 for r in records(path)] == [False, False, True]


def test_photographs_from_one_spot_are_left_out(tmp_path):
    scene = write_scene(tmp_path / "scene", 2)
    q = (1.0, 0.0, 0.0, 0.0)
    shutil.copy(scene / "images" / "0.png", scene / "images" / "2.png")
    points = list(range(30))
    images = [(i, q, (i // 2, 0, 0), 7, f"{i}.png", points) for i in range(3)]
    params = (260.0, 120.0, 90.0)
    write_model(scene / "sparse", [(7, "SIMPLE_PINHOLE", 240, 180, params)], images)
    assert len(records(build(scene, tmp_path / "pairs.h5"))) == 2


def test_bad_input_is_refused_by_name(scenes, tmp_path):
    out = tmp_path / "pairs.h5"
    for option in ("max_pairs", "min_shared", "processes"):
        with pytest.raises(ValueError, match=f"{option}: found 0"):
            build(scenes, out, **{option: 0})
    with pytest.raises(ValueError, match=r"exclude: found \['longer'\]"):
        build(scenes, out, exclude=["longer"])
    with pytest.raises(ValueError, match="no scene in it"):
        build(tmp_path, out)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        build(tmp_path / "nowhere", out)
    scene = write_scene(tmp_path / "scene", 2)
    cv2.imwrite(str(scene / "images" / "1.png"), np.zeros((90, 120), np.uint8))
    with pytest.raises(ValueError, match=r"1\.png: 120 x 90 pixels, its camera has 240 x 180"):
        build(scene, out)
    (scene / "images" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png: no such image"):
        build(scene, out)


def test_other_options_do_not_overwrite_a_store(scenes, store):
    with pytest.raises(ValueError, match="made with settings"):
        build(scenes, store, fixed_direction=True, seed=3)


@pytest.mark.parametrize(
    "options",
    [
        {"contrast_threshold": 0.13}, {"max_size": 160}, {"changed": True},
        {"feature": "orb"}, {"feature": "akaze"}, {"feature": "brisk"},
    ],
)
def test_keypoints_may_be_sought_otherwise(scenes, store, tmp_path, options):
    """Other matches of the same pairs in the same pixels, many of them right all the same."""
    out = build(scenes, tmp_path / "other.h5", fixed_direction=True, **options)
    assert names(out) == names(store)
    found, usual = records(out), records(store)
    shares = [(r.distances_squared[r.mutual] < 1e-4).mean() for r in found]
    assert np.median(shares) > 0.25  # by chance: a few in a hundred
    for other, record in zip(found, usual):
        assert other.size0 == record.size0
        np.testing.assert_array_equal(other.K0, record.K0)
        assert not np.array_equal(other.points0, record.points0)
        assert (other.points0 > -2).all()
        assert (other.points0 < np.array(other.size0) + 2).all()
    with pytest.raises(ValueError, match="made with settings"):
        build(scenes, out, fixed_direction=True)


def test_command_line(scenes, store, tmp_path, capsys):
    out = tmp_path / "pairs.h5"
    options = ["--max-keypoints", "150", "--fixed-direction"]
    assert main(["build-pairs", str(scenes), str(out), *options]) == 0
    assert_same_stores(out, store)
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n"
    assert main(["build-pairs", str(scenes), str(out), "--min-shared", "0"]) == 2
    assert "min_shared: found 0" in capsys.readouterr().err


def draw(counts, count, seed=0):
    pairs = [
        ScenePair(f"{i:04d}", f"{i + 1:04d}", np.eye(3), np.ones(3), num_shared=shared)
        for i, shared in enumerate(counts)
    ]
    chosen = plan.choose_pairs(pairs, count, np.random.default_rng(seed))
    order = [pairs.index(pair) for pair in chosen]
    assert len(set(order)) == len(order) and order == sorted(order)
    bands = np.digitize([pair.num_shared for pair in chosen], (50, 100, 200, 400))
    return np.bincount(bands, minlength=5).tolist()


def test_bands_of_covisibility_get_equal_shares():
    many = [25] * 100 + [70] * 100 + [150] * 100 + [300] * 100 + [1000] * 100
    assert draw(many, 50) == [10] * 5


def test_what_a_small_band_lacks_goes_to_the_others():
    assert draw([25] * 3 + [70] * 100 + [1000] * 40, 43) == [3, 20, 0, 0, 20]
    assert draw([25] * 3 + [1000] * 100, 50) == [3, 0, 0, 0, 47]
    assert sum(draw([25] * 9 + [70] * 9 + [150] * 9, 26)) == 26


def test_wide_baselines_and_small_overlaps_get_their_share():
    kinds = [(0.8, 3.0)] * 500 + [(0.8, 30.0)] * 20 + [(0.05, 10.0)] * 20 + [(0.05, 60.0)] * 2
    pairs = [
        ScenePair(f"{i}", "x", np.eye(3), np.ones(3), overlap=overlap, parallax=parallax)
        for i, (overlap, parallax) in enumerate(kinds)
    ]
    chosen = plan.choose_pairs(pairs, 32, np.random.default_rng(0))
    found = [(pair.overlap, pair.parallax) for pair in chosen]
    assert [found.count(kind) for kind in dict.fromkeys(kinds)] == [10, 10, 10, 2]


def test_few_pairs_are_all_taken():
    assert draw([25, 70, 900], 3) == draw([25, 70, 900], None) == [1, 1, 0, 0, 1]
    assert plan.choose_pairs([], 5, np.random.default_rng(0)) == []
