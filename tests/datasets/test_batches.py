import itertools
import threading

import numpy as np
import pytest
import torch

from n3match.datasets.augment import NO_AUGMENTATION
from n3match.datasets.batches import MixedPairs, collate
from n3match.datasets.synthetic import SyntheticPairs

KEYS = {"points0", "points1", "side", "shape", "mask", "distances", "R", "t", "E"}


def real_pairs(counts):
    """Items as a PairDataset gives them: tensors, float64 poses, ``ys``, E of norm √2."""
    items = []
    for index, count in enumerate(counts):
        sample = SyntheticPairs(11, (count, count)).sample(index)
        item = {key: torch.from_numpy(sample[key]) for key in ("x", "side", "shape", "R", "t")}
        item["ys"] = torch.from_numpy(sample["distances"])
        item["E"] = torch.from_numpy(sample["E"]).double() * 2**0.5
        items.append(item)
    return items


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


def test_ragged_pairs_are_padded_with_zeros():
    samples = [SyntheticPairs(1).sample(i, num_matches=n) for i, n in enumerate((9, 30, 17))]
    batch = collate(samples)
    assert batch.keys() == KEYS
    assert batch["mask"].dtype == torch.bool
    assert batch["mask"].sum(1).tolist() == [9, 30, 17]
    for i, sample in enumerate(samples):
        count = len(sample["x"])
        assert batch["mask"][i, :count].all()
        x = torch.cat([batch["points0"][i], batch["points1"][i]], 1)
        np.testing.assert_array_equal(x[:count], sample["x"])
        np.testing.assert_array_equal(batch["side"][i, :count], sample["side"])
        np.testing.assert_array_equal(batch["shape"][i, :count], sample["shape"])
        np.testing.assert_array_equal(batch["distances"][i, :count], sample["distances"])
        assert not x[count:].any()
        assert not batch["side"][i, count:].any()
        assert not batch["distances"][i, count:].any()
        np.testing.assert_array_equal(batch["E"][i], sample["E"])
    with pytest.raises(ValueError, match="samples"):
        collate([])


def test_shapes_and_dtypes():
    pairs = MixedPairs(
        real_pairs([60, 90, 200]), SyntheticPairs(2), batch_size=5, num_matches=(100, 100)
    )
    batch = pairs.batch(3)
    longest = batch["points0"].shape[1]
    assert longest <= 101
    want = {
        "points0": (5, longest, 2), "points1": (5, longest, 2), "side": (5, longest, 5),
        "shape": (5, longest, 3), "mask": (5, longest), "distances": (5, longest),
        "R": (5, 3, 3), "t": (5, 3), "E": (5, 3, 3),
    }
    assert {key: tuple(value.shape) for key, value in batch.items()} == want
    for key, value in batch.items():
        assert value.dtype == (torch.bool if key == "mask" else torch.float32)
        assert value.is_contiguous()
    torch.testing.assert_close(batch["E"].flatten(1).norm(dim=1), torch.ones(5))


def test_resumes_exactly():
    def make(seed=4):
        return MixedPairs(real_pairs([80, 90]), SyntheticPairs(2), batch_size=3,
                          num_matches=(40, 120), seed=seed)

    first, second = make(), make()
    straight = [first.batch(step) for step in range(5)]
    assert_same(second.batch(4), straight[4])
    for batch, want in zip(make().batches(first_step=2), straight[2:]):
        assert_same(batch, want)
    assert not torch.equal(straight[0]["R"], straight[1]["R"])
    assert not torch.equal(make(5).batch(0)["R"], straight[0]["R"])


def test_iteration_ends_its_thread_and_passes_errors_on():
    batches = MixedPairs(None, SyntheticPairs(2), batch_size=1, num_matches=(20, 20)).batches()
    assert len(list(itertools.islice(batches, 3))) == 3
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
    broken = MixedPairs([{"x": 1}], None).batches()
    with pytest.raises(KeyError):
        next(broken)


def test_share_of_generated_pairs():
    real = real_pairs([50])
    def share(value):
        pairs = MixedPairs(real, SyntheticPairs(2), batch_size=10, num_matches=(20, 20),
                           synthetic_share=value, augmentation=NO_AUGMENTATION)
        R = torch.cat([pairs.batch(step)["R"] for step in range(12)])
        return 1 - torch.isclose(R, real[0]["R"], atol=1e-5).all(-1).all(-1).float().mean().item()

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert 0.1 < share(0.25) < 0.4


def test_real_pairs_alone_unchanged():
    real = real_pairs([30])
    pairs = MixedPairs(real, None, batch_size=1, num_matches=(50, 50), augmentation=NO_AUGMENTATION)
    batch = pairs.batch(0)
    x = torch.cat([batch["points0"], batch["points1"]], -1)[0]
    torch.testing.assert_close(x, real[0]["x"], rtol=0, atol=1e-6)
    torch.testing.assert_close(batch["distances"][0], real[0]["ys"], rtol=1e-2, atol=1e-9)
    assert batch["mask"].all()


def test_scenes_are_balanced_by_square_roots():
    # 64 pairs of scene "a" and 4 of "b": drawn 8 to 2. The pose tells which one it was.
    real = real_pairs([10, 10])
    real = [real[0]] * 64 + [real[1]] * 4
    pairs = MixedPairs(real, None, batch_size=100, num_matches=(10, 10),
                       augmentation=NO_AUGMENTATION, scenes=["a"] * 64 + ["b"] * 4)
    R = torch.cat([pairs.batch(step)["R"] for step in range(4)])
    share = torch.isclose(R, real[-1]["R"], atol=1e-5).all(-1).all(-1).float().mean().item()
    assert 0.13 < share < 0.27


def test_number_of_matches_varies_between_batches():
    pairs = MixedPairs(None, SyntheticPairs(2), batch_size=1, num_matches=(20, 80),
                       synthetic_augmentation=NO_AUGMENTATION)
    counts = [pairs.batch(step)["mask"].shape[1] for step in range(40)]
    assert 20 <= min(counts) < 30
    assert 60 < max(counts) <= 80


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"real": None, "synthetic": None}, "real, synthetic"),
        ({"real": []}, "real"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_matches": (9, 8)}, "num_matches"),
        ({"num_matches": (2, 8)}, "num_matches"),
        ({"synthetic_share": 1.5}, "synthetic_share"),
        ({"seed": -3}, "seed"),
        ({"real": [{}] * 3, "scenes": ["a"]}, "scenes"),
    ],
)
def test_bad_arguments(kwargs, name):
    arguments = {"real": None, "synthetic": SyntheticPairs(0), **kwargs}
    real, synthetic = arguments.pop("real"), arguments.pop("synthetic")
    with pytest.raises(ValueError, match=name):
        MixedPairs(real, synthetic, **arguments)


def test_bad_lead():
    with pytest.raises(ValueError, match="ahead"):
        MixedPairs(None, SyntheticPairs(0)).batches(ahead=0)
