import dataclasses
import json

import h5py
import numpy as np
import pytest
from toy_scene import make_record

from n3match.datasets.pairs import store_writer
from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store import (
    ROW_FIELDS,
    open_store,
    read_cameras,
    read_core,
    read_record,
)
from n3match.datasets.pairs.store_writer import PairStoreWriter
from n3match.matching.side_info import SIDE_INFO

SETTINGS = {"max_keypoints": 5}
PARTS = {"a-000": range(0, 2), "a-001": range(2, 5), "b-000": range(5, 6)}


def write_parts(writer, names=PARTS):
    for name in names:
        if not writer.has_part(name):
            writer.write_part(name, [make_record(seed) for seed in PARTS[name]])


def make_store(path):
    writer = PairStoreWriter(path, SETTINGS, source="toy", licence="CC0")
    write_parts(writer)
    return writer.finish(PARTS)


def assert_records_equal(found, wanted):
    for field in dataclasses.fields(wanted):
        np.testing.assert_array_equal(
            getattr(found, field.name), getattr(wanted, field.name), err_msg=field.name
        )


def assert_complete(path):
    with open_store(path) as file:
        assert len(file["xs"]) == 6
        for index in range(6):
            assert_records_equal(read_record(file, index), make_record(index))


def test_what_only_some_pairs_have_comes_back_where_it_is(tmp_path):
    """As in a store whose first part was made by an earlier version."""
    known = dataclasses.replace(
        make_record(7), back_ratio=np.float32([1, 0.5, 1.5, 2, 0]), apart=np.full(5, np.inf)
    )
    writer = PairStoreWriter(tmp_path / "pairs.h5", SETTINGS)
    writer.write_part("old", [make_record(6)])
    with h5py.File(writer.part_path("old"), "a") as file:
        del file["back_ratios"], file["aparts"]
    writer.write_part("new", [known, make_record(8)])
    with open_store(writer.finish(["old", "new"])) as file:
        for index, record in enumerate((make_record(6), known, make_record(8))):
            assert_records_equal(read_record(file, index), record)


def _with_second(seed, count=3):
    """A toy record with `count` matches more of second nearest neighbours."""
    record = make_record(seed)
    n = len(record.xs)
    rows = [i % n for i in range(n + count)]
    longer = {
        name: getattr(record, name)[rows]
        for name in (*ROW_FIELDS, "mutual") if getattr(record, name) is not None
    }
    known = {
        "back_ratio": np.float32(np.linspace(0, 2, n + count)),
        "apart": np.full(n + count, np.inf, np.float32),
        "near_mutual": np.arange(n + count) % 2 > 0,
        "mutual": np.arange(n + count) < n - 2,
    }
    known["near_mutual"][n:] = True
    return dataclasses.replace(record, **longer | known).split(n)


def test_second_nearest_neighbours_come_back_where_they_are(tmp_path):
    records = [make_record(1), _with_second(2), _with_second(3, 0), _with_second(4, 1)]
    writer = PairStoreWriter(tmp_path / "pairs.h5", SETTINGS)
    writer.write_part("one", records[:2])
    writer.write_part("two", records[2:])
    path = writer.finish(["one", "two"])
    data, plain = PairDataset(path, second_nearest=True), PairDataset(path)
    mutual = SIDE_INFO.index("mutual")
    for index, record in enumerate(records):
        found = data.record(index)
        assert (found.second is None) == (record.second is None)
        assert_records_equal(found, dataclasses.replace(record, second=found.second))
        count = len(record.xs)
        alone, item = plain[index], data[index]
        assert len(alone["x"]) == count
        np.testing.assert_array_equal(alone["side_info"][:, mutual], record.mutual)
        if record.second is None:
            assert all(np.array_equal(item[name], alone[name]) for name in alone)
            continue
        assert_records_equal(found.second, record.second)
        whole = record.with_second()
        assert_records_equal(dataclasses.replace(whole.split(count), second=None),
                             dataclasses.replace(record, second=None))
        np.testing.assert_array_equal(item["x"], np.float32(whole.xs))
        np.testing.assert_array_equal(item["ys"], np.float32(whole.distances_squared))
        np.testing.assert_array_equal(item["side_info"][:, mutual], whole.near_mutual)
        np.testing.assert_array_equal(
            item["side_info"][:, SIDE_INFO.index("ratio")], np.float32(whole.ratio)
        )
        assert len(item["keypoint_change"]) == len(whole.xs)
        np.testing.assert_array_equal(item["keypoint_change"][:count], alone["keypoint_change"])


def test_of_many_keypoints_or_half_a_store_there_are_none(tmp_path, monkeypatch):
    writer = PairStoreWriter(tmp_path / "pairs.h5", SETTINGS)
    writer.write_part("one", [_with_second(2), _with_second(3)])
    path = writer.finish(["one"])
    with h5py.File(path, "a") as file:
        del file["aparts/1"]
    data, plain = PairDataset(path, second_nearest=True), PairDataset(path)
    count = len(plain[0]["x"])
    assert len(data[0]["x"]) == count + 3
    assert len(data[1]["x"]) == count and data.record(1).second is None
    monkeypatch.setattr("n3match.datasets.pairs.dataset.MOST_WITH_SECOND", count - 1)
    assert all(np.array_equal(data[0][name], plain[0][name]) for name in plain[0])


def test_second_nearest_neighbours_of_another_number_are_refused(tmp_path):
    writer = PairStoreWriter(tmp_path / "pairs.h5", SETTINGS)
    writer.write_part("one", [_with_second(2)])
    path = writer.finish(["one"])
    with h5py.File(path, "a") as file:
        del file["second/ratios/0"]
        file["second/ratios/0"] = np.ones(7, np.float32)
    with pytest.raises(ValueError, match=r"second/ratios/0: found shape \(7,\), wanted .* N = 3"):
        PairDataset(path, second_nearest=True)[0]


def test_records_come_back_as_written(tmp_path):
    path = make_store(tmp_path / "pairs.h5")
    assert_complete(path)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.h5"]
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == 1
        assert json.loads(file.attrs["settings"]) == SETTINGS
        assert (file.attrs["source"], file.attrs["licence"]) == ("toy", "CC0")


def test_the_layout_is_that_of_oanet(tmp_path):
    record = make_record(0)
    with h5py.File(make_store(tmp_path / "pairs.h5")) as file:
        assert file["xs/0"].shape == (1, 5, 4) and file["xs/0"].dtype == np.float32
        assert file["ys/0"].shape == (5, 1) and file["ys/0"].dtype == np.float32
        assert file["Rs/0"].shape == (3, 3) and file["ts/0"].shape == (3, 1)
        assert file["ratios/0"].shape == (5,) and file["mutuals/0"].shape == (5,)
        np.testing.assert_array_equal(file["cx1s/0"], [320.5])
        np.testing.assert_array_equal(file["cy2s/0"], [240.25])
        np.testing.assert_array_equal(file["f2s/0"], [[503, 514]])
        np.testing.assert_array_equal(file["ts/0"][:, 0], record.t)


def test_a_pair_without_matches(tmp_path):
    writer = PairStoreWriter(tmp_path / "pairs.h5", SETTINGS)
    writer.write_part("a", [make_record(0, count=0)])
    with open_store(writer.finish(["a"])) as file:
        assert_records_equal(read_record(file, 0), make_record(0, count=0))


class Killed(BaseException):
    """Stands for the end of the process: nothing in the writer may catch it."""


def cut_short(monkeypatch, name, calls):
    """Let a function of the writer die at its n-th call."""
    original = getattr(store_writer, name)
    left = [calls]

    def function(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(store_writer, name, function)


@pytest.mark.parametrize(
    ("name", "calls", "parts_left"),
    [
        ("_to_groups", 1, 0),  # in the first pair
        ("_to_groups", 4, 1),  # in the middle of a part
        ("_write_table", 3, 2),  # at the end of a part
        ("open_store", 2, 3),  # while the parts are joined
        ("_write_table", 4, 3),  # at the end of joining
    ],
)
def test_a_run_cut_short_goes_on_where_it_was(tmp_path, monkeypatch, name, calls, parts_left):
    path = tmp_path / "pairs.h5"
    with monkeypatch.context() as patch:
        cut_short(patch, name, calls)
        with pytest.raises(Killed):
            make_store(path)
    assert not path.exists()
    writer = PairStoreWriter(path, SETTINGS)
    assert sum(writer.has_part(part) for part in PARTS) == parts_left
    for part in PARTS:
        if writer.has_part(part):
            with open_store(writer.part_path(part)) as file:
                assert len(file["xs"]) == len(PARTS[part])
    make_store(path)
    assert_complete(path)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.h5"]


def test_a_run_cut_short_after_joining_only_tidies_up(tmp_path, monkeypatch):
    path = tmp_path / "pairs.h5"
    with monkeypatch.context() as patch:
        patch.setattr(
            store_writer.shutil, "rmtree", lambda *a, **k: (_ for _ in ()).throw(Killed)
        )
        with pytest.raises(Killed):
            make_store(path)
    writer = PairStoreWriter(path, SETTINGS)
    assert writer.finished
    writer.finish(())
    assert_complete(path)
    assert not writer.parts_dir.exists()


def test_half_a_file_left_by_a_killed_process_is_not_a_part(tmp_path):
    path = tmp_path / "pairs.h5"
    whole = make_store(tmp_path / "other.h5").read_bytes()
    writer = PairStoreWriter(path, SETTINGS)
    writer.parts_dir.mkdir()
    (writer.parts_dir / "a-000.h5.tmp").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pairs.h5.tmp").write_bytes(whole[:100])
    assert not writer.finished and not PairStoreWriter(path, SETTINGS).has_part("a-000")
    make_store(path)
    assert_complete(path)


def test_other_settings_are_refused(tmp_path):
    path = make_store(tmp_path / "pairs.h5")
    with pytest.raises(ValueError, match=r"pairs\.h5: made with settings .*5.*asked for .*7"):
        PairStoreWriter(path, {"max_keypoints": 7})
    path = tmp_path / "half.h5"
    write_parts(PairStoreWriter(path, SETTINGS), ["a-000"])
    with pytest.raises(ValueError, match=r"a-000\.h5: made with settings"):
        PairStoreWriter(path, {"max_keypoints": 7})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratio", np.zeros(4)),
        ("xs", np.zeros((5, 3))),
        ("R", np.eye(4)),
        ("points1", np.zeros((6, 2))),
        ("distortion0", np.zeros((2, 2))),
    ],
)
def test_a_malformed_record_is_not_written(tmp_path, field, value):
    writer = PairStoreWriter(tmp_path / "pairs.h5", SETTINGS)
    record = dataclasses.replace(make_record(0), **{field: value})
    with pytest.raises(ValueError, match=r"toy: 0-ä\.jpg, 0/b\.jpg: \w+: found shape"):
        writer.write_part("a", [record])
    assert not writer.has_part("a")


def replace(path, field, values):
    with h5py.File(path, "r+") as file:
        del file[field]
        if values is not None:
            file[field] = values


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("xs", None, "has no group 'xs'"),
        ("K0s", None, "has no group 'K0s'"),
        ("ratios", np.zeros(3), "has no group 'ratios'"),
        ("ys/5", None, "ys has 5 pairs where xs has 6"),
        ("pairs/name0", None, "pairs/name0: wanted one entry for each pair"),
        ("pairs/num_shared", np.zeros(5), "pairs/num_shared: wanted one entry for each pair"),
    ],
)
def test_a_store_of_another_outline_is_refused_by_field(tmp_path, field, values, message):
    path = make_store(tmp_path / "pairs.h5")
    replace(path, field, values)
    with pytest.raises(ValueError, match=rf"pairs\.h5: {message}"):
        open_store(path)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("xs", np.zeros((1, 5, 3)), r"found shape \(1, 5, 3\), wanted \(1, 'N', 4\)"),
        ("xs", np.zeros((5, 4)), r"found shape \(5, 4\), wanted \(1, 'N', 4\)"),
        ("xs", np.full((1, 5, 4), np.nan), "found NaN or inf, wanted finite numbers"),
        ("ys", np.zeros((4, 1)), r"found shape \(4, 1\), wanted .* with N = 5 as in xs"),
        ("Rs", np.zeros((3, 4)), r"found shape \(3, 4\), wanted \(3, 3\)"),
        ("ratios", np.zeros(6), r"found shape \(6,\), wanted .* with N = 5"),
        ("mutuals", ["yes"] * 5, "found type object, wanted numbers"),
        ("px1s", np.zeros((4, 2)), r"found shape \(4, 2\)"),
        ("K1s", np.zeros((3, 4)), r"found shape \(3, 4\)"),
    ],
)
def test_a_malformed_field_is_refused_by_file_field_and_pair(tmp_path, field, values, message):
    path = make_store(tmp_path / "pairs.h5")
    replace(path, f"{field}/2", values)
    with open_store(path) as file:
        read_record(file, 1)
        with pytest.raises(ValueError, match=rf"pairs\.h5: {field}/2: {message}"):
            read_record(file, 2)


def test_a_renumbered_pair_is_missed(tmp_path):
    path = make_store(tmp_path / "pairs.h5")
    with h5py.File(path, "r+") as file:
        file.move("xs/2", "xs/02")
    with open_store(path) as file, pytest.raises(ValueError, match="xs/2: found no dataset"):
        read_core(file, 2)


def test_foreign_and_truncated_files_are_refused(tmp_path):
    path = make_store(tmp_path / "pairs.h5")
    whole = path.read_bytes()
    for content in (b"", b"not HDF5", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"pairs\.h5: not a readable HDF5 file"):
            open_store(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.h5: no such pair store"):
        open_store(tmp_path / "absent.h5")


def test_a_later_schema_is_refused(tmp_path):
    path = make_store(tmp_path / "pairs.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 2
    with pytest.raises(ValueError, match="has schema version 2, wanted 1"):
        open_store(path)


def test_cameras_of_an_oanet_dump(tmp_path):
    with h5py.File(tmp_path / "dump.h5", "w") as file:
        file["f1s/0"], file["cx1s/0"], file["cy1s/0"] = [[500.0, 510.0]], [320.0], [240.0]
        file["f2s/0"], file["cx2s/0"], file["cy2s/0"] = [600.0], [[300.0]], [200.0]
        K0, K1 = read_cameras(file, 0)
        np.testing.assert_array_equal(K0, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
        np.testing.assert_array_equal(K1, [[600, 0, 300], [0, 600, 200], [0, 0, 1]])
        del file["cx1s/0"]
        file["cx1s/0"] = [320.0, 1.0]
        with pytest.raises(ValueError, match=r"dump\.h5: cx1s/0: found 2 numbers"):
            read_cameras(file, 0)
        del file["f1s"]
        assert read_cameras(file, 0) is None
