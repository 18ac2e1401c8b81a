import numpy as np
import pytest
import torch

from n3match.datasets.pairs.batches import collate
from n3match.datasets.synthetic.pairs import SyntheticPairs

KEYS = {"points0", "points1", "side_info", "keypoint_change", "mask", "distances", "R", "t", "E"}


def test_ragged_pairs_are_padded_with_zeros():
    samples = [SyntheticPairs(1).sample(i, num_matches=n) for i, n in enumerate((9, 30, 17))]
    batch = collate(samples)
    assert batch.keys() == KEYS
    for key, value in batch.items():
        assert value.dtype == (torch.bool if key == "mask" else torch.float32)
        assert value.is_contiguous()
    assert batch["mask"].sum(1).tolist() == [9, 30, 17]
    for i, sample in enumerate(samples):
        count = len(sample["x"])
        assert batch["mask"][i, :count].all()
        x = torch.cat([batch["points0"][i], batch["points1"][i]], 1)
        np.testing.assert_array_equal(x[:count], sample["x"])
        for key in ("side_info", "keypoint_change"):
            np.testing.assert_array_equal(batch[key][i, :count], sample[key])
        np.testing.assert_array_equal(batch["distances"][i, :count], sample["distances"])
        assert not x[count:].any()
        assert not batch["side_info"][i, count:].any()
        assert not batch["distances"][i, count:].any()
        np.testing.assert_array_equal(batch["E"][i], sample["E"])
    with pytest.raises(ValueError, match="samples"):
        collate([])
