"""Weights on disk: a round trip, and refusal of anything else."""

import json

import pytest
import torch
from safetensors.torch import save_file

from n3match import weights
from n3match.nn import MatchFilter, MatchFilterConfig

CONFIG = MatchFilterConfig(width=8, blocks=2, n3_after=(1,), side_info=("ratio",))


def test_round_trip(tmp_path):
    torch.manual_seed(0)
    net = MatchFilter(CONFIG)
    path = tmp_path / "mine.safetensors"
    weights.save_weights(path, net, trained_on="nothing")
    loaded = MatchFilter.from_pretrained(path)
    assert not loaded.training
    assert loaded.side_info == ("ratio",)
    points = torch.randn(2, 1, 9, 2)
    torch.testing.assert_close(loaded(*points).logits, net.eval()(*points).logits)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_file_of_version_0_1_loads(tmp_path):
    torch.manual_seed(0)
    net = MatchFilter(
        MatchFilterConfig(
            width=8, blocks=2, n3_after=(1,), side_info=("ratio",), keypoint_change=True,
            min_log_temperature=-2.0,
        )
    )
    config = {
        "width": 8, "blocks": 2, "n3_after": [1], "side_information": ["ratio"],
        "keypoint_shape": True, "coldest": -2.0,
    }
    metadata = {
        "format": weights.store.FORMAT, "network": "MatchClassifier",
        "config": json.dumps(config), "notes": "{}",
    }
    save_file(net.state_dict(), tmp_path / "old.safetensors", metadata=metadata)
    assert MatchFilter.from_pretrained(tmp_path / "old.safetensors").config == net.config


def test_unknown_name():
    with pytest.raises(FileNotFoundError, match="neither a file nor one of the shipped"):
        MatchFilter.from_pretrained("no-such-weights")


def test_pickle_is_refused(tmp_path):
    path = tmp_path / "evil.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no weights of n3match"):
        MatchFilter.from_pretrained(path)


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format None"):
        MatchFilter.from_pretrained(path)


def test_truncated_file(tmp_path):
    path = tmp_path / "cut.safetensors"
    weights.save_weights(path, MatchFilter(CONFIG))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        MatchFilter.from_pretrained(path)


def test_weights_that_do_not_fit_their_configuration(tmp_path):
    path = tmp_path / "wrong.safetensors"
    metadata = {
        "format": weights.store.FORMAT,
        "network": "MatchFilter",
        "config": json.dumps({"width": 8, "blocks": 2, "n3_after": [1]}),
        "notes": "{}",
    }
    save_file({"lift.weight": torch.zeros(3, 3)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="doesn't fit"):
        MatchFilter.from_pretrained(path)


def test_configuration_asks_for_no_more_memory_than_the_weights_fill(tmp_path):
    """A few bytes that say a terabyte: the network was made before it was found not to fit."""
    config = {"width": 2**14, "blocks": 64, "n3_after": []}
    metadata = {
        "format": weights.store.FORMAT, "network": "MatchFilter", "config": json.dumps(config),
    }
    save_file({"a": torch.zeros(1)}, tmp_path / "large.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"large\.safetensors doesn't fit"):
        MatchFilter.from_pretrained(tmp_path / "large.safetensors")


@pytest.mark.parametrize("text", ["[" * 60000, "[]", '{"width": ' + "9" * 5000 + "}", "x"])
def test_configuration_that_is_no_json_object(tmp_path, text):
    metadata = {"format": weights.store.FORMAT, "network": "MatchFilter", "config": text}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"a\.safetensors: config: "):
        weights.load_weights(tmp_path / "a.safetensors")


def test_weights_that_are_no_numbers(tmp_path):
    net = MatchFilter(CONFIG)
    next(net.parameters()).data[0] = torch.nan
    weights.save_weights(tmp_path / "a.safetensors", net)
    with pytest.raises(ValueError, match="holds NaN or infinite numbers"):
        MatchFilter.from_pretrained(tmp_path / "a.safetensors")
