import pickle

import h5py
import numpy as np
import pytest
import torch
from toy_scene import make_record

from n3match.datasets.pairs.dataset import PairDataset
from n3match.datasets.pairs.store_writer import PairStoreWriter
from n3match.matching import keypoint_change


def make_store(path, records):
    writer = PairStoreWriter(path, {})
    writer.write_part("all", records)
    return writer.finish(["all"])


def make_dump(path):
    """What OANet's own code writes: float32 throughout, flags as floats, no names."""
    record = make_record(3)
    with h5py.File(path, "w") as file:
        values = {
            "xs": record.xs[None],
            "ys": record.distances_squared[:, None],
            "Rs": record.R,
            "ts": 2 * record.t[:, None],
            "ratios": record.ratio[:, None],
            "mutuals": record.mutual,
        }
        for group, value in values.items():
            file.create_group(group).create_dataset("0", data=np.asarray(value, np.float32))
    return path


def test_items(tmp_path):
    records = [make_record(0), make_record(1, count=7, scene="other")]
    data = PairDataset(make_store(tmp_path / "a.h5", records))
    assert len(data) == 2
    assert data.scenes == ["toy", "other"] and data.num_shared == [20, 21]
    for index, record in enumerate(records):
        item = data[index]
        np.testing.assert_array_equal(item["x"], record.xs)
        np.testing.assert_array_equal(item["side_info"][:, 0], record.ratio)
        np.testing.assert_array_equal(item["side_info"][:, 1], record.mutual)
        np.testing.assert_array_equal(item["ys"], record.distances_squared)
        focal = [(K[0, 0] + K[1, 1]) / 2 for K in (record.K0, record.K1)]
        shape = keypoint_change(record.sizes_angles0, record.sizes_angles1, *focal)
        np.testing.assert_allclose(item["keypoint_change"], shape, atol=1e-6)
        np.testing.assert_allclose(item["R"], record.R)
        np.testing.assert_allclose(item["t"], record.t)
        np.testing.assert_allclose(item["focal"], [505, 508.5])
        assert item["index"] == index
        for key, dtype in {"x": torch.float32, "ys": torch.float32, "E": torch.float64}.items():
            assert item[key].dtype == dtype


def test_e_is_the_cross_product_of_t_with_r(tmp_path):
    item = PairDataset(make_store(tmp_path / "a.h5", [make_record(0)]))[0]
    vector = torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(
        item["E"] @ vector, torch.linalg.cross(item["t"], item["R"] @ vector)
    )


def test_several_stores_and_dumps_follow_each_other(tmp_path):
    first = make_store(tmp_path / "a.h5", [make_record(0), make_record(1)])
    second = make_dump(tmp_path / "dump.h5")
    data = PairDataset([first, second, str(first)])
    assert len(data) == 5
    assert data.scenes == ["toy", "toy", "", "toy", "toy"]
    np.testing.assert_array_equal(data[3]["x"], make_record(0).xs)
    assert data.record(4).name1 == "1/b.jpg"
    item = data[2]
    np.testing.assert_array_equal(item["side_info"][:, 1], make_record(3).mutual)
    np.testing.assert_allclose(item["t"], make_record(3).t, rtol=1e-6)
    assert item["focal"].isnan().all()
    with pytest.raises(ValueError, match=r"dump\.h5: has no pixels"):
        data.record(2)


def test_index_out_of_range_ends_iteration(tmp_path):
    data = PairDataset(make_store(tmp_path / "a.h5", [make_record(0), make_record(1)]))
    assert len(list(data)) == 2
    np.testing.assert_array_equal(data[-1]["x"], make_record(1).xs)
    with pytest.raises(IndexError):
        data[2]


def test_a_copy_for_another_process_opens_its_own_file(tmp_path):
    data = PairDataset(make_store(tmp_path / "a.h5", [make_record(0)]))
    data[0]
    copy = pickle.loads(pickle.dumps(data))
    data.close()
    np.testing.assert_array_equal(copy[0]["x"], make_record(0).xs)
    np.testing.assert_array_equal(data[0]["x"], make_record(0).xs)


def test_a_translation_of_zero_is_refused(tmp_path):
    path = make_dump(tmp_path / "dump.h5")
    with h5py.File(path, "r+") as file:
        file["ts/0"][:] = 0
    with pytest.raises(ValueError, match=r"dump\.h5: ts/0: found a zero vector"):
        PairDataset(path)[0]
