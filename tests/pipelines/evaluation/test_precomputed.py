"""Matches made elsewhere, in the place of a filter: hloc's files and those of `n3match match`."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from toy_pairs import make_record, run, save_net, write_store

from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.precomputed import PrecomputedMatches


def write_hloc(path, record, *, name0, name1, joint="/", kept=None, reverse=False):
    """The kept matches of a record as hloc stores them."""
    kept = np.flatnonzero(record.distances_squared < 1e-4) if kept is None else kept
    index0, index1 = record.index0[kept], record.index1[kept]
    if reverse:
        name0, name1, index0, index1 = name1, name0, index1, index0
    matches0 = np.full(int(index0.max()) + 5, -1, np.int32)
    matches0[index0] = index1
    with h5py.File(path, "a") as file:
        group = file.create_group(f"{name0.replace('/', '-')}{joint}{name1.replace('/', '-')}")
        group["matches0"] = matches0
        group["matching_scores0"] = np.ones(len(matches0), np.float16)
    return path


def shuffled(seed=0):
    """A record whose keypoints have numbers unlike the rows of its matches."""
    record = make_record(true=40, false=30, seed=seed)
    rng = np.random.default_rng(seed)
    return replace(record, index0=rng.permutation(90)[:70], index1=rng.permutation(90)[:70])


@pytest.mark.parametrize("joint", ["/", "_"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("prefix", ["", "toy/", "toy/images/"])
def test_hloc_matches_of_the_stores_keypoints(tmp_path, joint, reverse, prefix):
    record = shuffled()
    path = write_hloc(
        tmp_path / "m.h5", record, name0=f"{prefix}0a", name1=f"{prefix}0b", joint=joint,
        reverse=reverse,
    )
    filtered = FilterSource.parse(f"hloc={path}").load()(record)()
    assert filtered.kept.all()
    order = np.argsort(record.index0[:40])
    if reverse:
        order = np.argsort(record.index1[:40])
    np.testing.assert_array_equal(filtered.points[0], record.points0[:40][order])
    np.testing.assert_array_equal(filtered.points[1], record.points1[:40][order])


def test_hloc_matches_of_other_keypoints(tmp_path):
    """Keypoints of hloc's own features file, which the store knows nothing of."""
    record = make_record(true=50)
    rng = np.random.default_rng(1)
    order0, order1 = rng.permutation(50), rng.permutation(50)
    features = tmp_path / "f.h5"
    with h5py.File(features, "w") as file:
        file["toy/0a/keypoints"] = record.points0[order0].astype(np.float32)
        file["toy/0b/keypoints"] = record.points1[order1].astype(np.float32)
    own = replace(record, index0=np.argsort(order0), index1=np.argsort(order1))
    matches = write_hloc(tmp_path / "m.h5", own, name0="toy/0a", name1="toy/0b")
    # The store has other matches, few of them right.
    store = write_store(tmp_path / "s.h5", [make_record(true=6, false=80)])
    (row,) = run(store, [f"hloc={matches},{features}"], ["opencv_usac"])
    assert (row.filter, row.matches, row.right) == ("hloc", 86, 6)
    assert (row.kept, row.kept_right) == (50, 50)
    assert row.error_deg < 0.1


def test_wrong_ones_among_them_are_counted(tmp_path):
    record = make_record(true=40, false=30)
    path = write_hloc(
        tmp_path / "m.h5", record, name0="0a", name1="0b", kept=np.arange(20, 60)
    )
    store = write_store(tmp_path / "s.h5", [record])
    (row,) = run(store, [f"m={path}"], ["eight_point"])
    assert row.kept == 40
    assert row.kept_right == pytest.approx(20, abs=2)  # by chance on the epipolar line


def write_own(path, record, scene="toy"):
    """As `n3match match` does."""
    from n3match.pipelines.two_view.matches_file import FORMAT

    with h5py.File(path, "w") as file:
        file["points0"], file["points1"] = record.points0[:30], record.points1[:30]
        file["probability"] = np.linspace(0.6, 1.0, 30)
        file.attrs["format"] = FORMAT
        file.attrs["image0"] = f"photos/{scene}/images/{record.name0}"
        file.attrs["image1"] = f"photos/{scene}/images/{record.name1}"
    return path


def test_files_of_match_by_the_names_of_their_images(tmp_path):
    records = [make_record(true=40, seed=i, name=str(i)) for i in range(3)]
    folder = tmp_path / "matches"
    folder.mkdir()
    for i, record in enumerate(records):
        write_own(folder / f"pair{i}.h5", record)
    write_own(folder / "namesake.h5", records[1], scene="elsewhere")
    store = write_store(tmp_path / "s.h5", records)
    rows = run(store, [f"own={folder}"], ["opencv_ransac", "eight_point"])
    assert [r.kept for r in rows] == [30] * 6
    assert all(r.error_deg < 0.2 for r in rows)
    alone = PrecomputedMatches.parse(str(folder / "pair2.h5"))
    filtered = alone(records[2])()
    np.testing.assert_array_equal(filtered.points[1], records[2].points1[:30])
    # The weight of the learned filter, relu(tanh(logit)), from its probability.
    assert filtered.weights[0] == pytest.approx(np.tanh(np.log(0.6 / 0.4)))
    assert (np.diff(filtered.weights) >= 0).all()


def test_points_of_a_photograph_that_was_turned_are_not_those_of_the_store(tmp_path):
    record = shuffled()
    path = write_own(tmp_path / "pair.h5", record)
    with h5py.File(path, "a") as file:
        file.attrs["size0"], file.attrs["size1"] = record.size0, record.size1
    PrecomputedMatches.parse(str(path))(record)()
    with h5py.File(path, "a") as file:
        file.attrs["size1"] = record.size1[::-1]
    with pytest.raises(ValueError, match=r"pair\.h5: its points are in pixels of .*stored-pixels"):
        PrecomputedMatches.parse(str(path))(record)


def test_rows_are_made_again_when_the_file_changes(tmp_path):
    record = make_record(true=40, false=30)
    store, out = write_store(tmp_path / "s.h5", [record]), tmp_path / "out"
    path = write_hloc(tmp_path / "m.h5", record, name0="0a", name1="0b")
    (before,) = run(store, [f"m={path}"], ["eight_point"], out=out)
    path.unlink()
    write_hloc(path, record, name0="0a", name1="0b", kept=np.arange(9))
    (after,) = run(store, [f"m={path}"], ["eight_point"], out=out)
    assert (before.kept, after.kept) == (40, 9)


def test_what_is_wrong_with_a_file_is_named(tmp_path):
    record = shuffled()
    path = write_hloc(tmp_path / "m.h5", record, name0="0a", name1="0b")
    other = make_record(true=40, name="5")
    with pytest.raises(ValueError, match=r"m\.h5: toy, 5a and 5b: no such pair"):
        PrecomputedMatches.parse(str(path))(other)
    few = replace(record, **{k: getattr(record, k)[:10] for k in ("index1", "points1")})
    with pytest.raises(ValueError, match=r"30 of 40 matches are of .* image 1 .*FEATURES"):
        PrecomputedMatches.parse(str(path))(few)
    features = tmp_path / "f.h5"
    with h5py.File(features, "w") as file:
        file["0a/keypoints"] = np.zeros((99, 2))
    with pytest.raises(ValueError, match=r"no keypoints of 0b in f\.h5"):
        PrecomputedMatches.parse(f"{path},{features}")(record)
    with h5py.File(features, "a") as file:
        file["0b/keypoints"] = np.zeros((99, 3))
    with pytest.raises(ValueError, match=r"f\.h5: /0b/keypoints: found shape \(99, 3\), wanted"):
        PrecomputedMatches.parse(f"{path},{features}")(record)
    with h5py.File(path, "a") as file:
        del file["0a/0b/matches0"]
        file["0a/0b/matches0"] = "text"
    with pytest.raises(ValueError, match=r"m\.h5: /0a/0b/matches0: found no numbers"):
        PrecomputedMatches.parse(str(path))(record)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no \.h5 files in this folder"):
        PrecomputedMatches.parse(str(tmp_path / "empty"))(record)
    (tmp_path / "empty" / "foreign.h5").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"foreign\.h5: not a file of `n3match match`"):
        PrecomputedMatches.parse(str(tmp_path / "empty"))(record)


def test_weights_are_still_weights(tmp_path):
    net = save_net(tmp_path / "net.safetensors")
    assert PrecomputedMatches.parse(str(net)) is None
    assert PrecomputedMatches.parse("sift") is None
