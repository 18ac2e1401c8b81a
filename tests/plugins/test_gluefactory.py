"""The glue-factory plug, against the documented contract of its models."""

import importlib
import sys

import gluefactory_stand_in
import numpy as np
import pytest
import torch
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene

from n3match import MatchFilter
from n3match.plugins.gluefactory import filter_batch


class Camera:
    """image2cam and f of glue-factory's camera objects, pinhole."""

    def __init__(self, K):
        self.K = torch.from_numpy(K)
        self.f = torch.tensor([[K[0, 0], K[1, 1]]] * 2)

    def image2cam(self, points):
        return (points - self.K[:2, 2]) / self.K[[0, 1], [0, 1]]


@pytest.fixture
def model(monkeypatch):
    gluefactory_stand_in.install(monkeypatch)
    cls = gluefactory_stand_in.get_model("n3match.plugins.gluefactory")
    return cls({"name": "n3match.plugins.gluefactory"})


def batch(cameras=True, padding=5):
    """Two pairs; the second has fewer matches, and keypoints at the end are padding."""
    scenes = [make_scene(150, 350, seed=0), make_scene(150, 350, seed=1)]
    points = [
        torch.from_numpy(np.stack([
            np.concatenate([getattr(s, f"points{i}"), np.zeros((padding, 2))]) for s in scenes
        ]))
        for i in (0, 1)
    ]
    matches = np.full((2, 500 + padding), -1)
    matches[0, :500] = np.arange(500)
    matches[1, :400] = np.arange(400)
    views = [
        {"camera": Camera(K)} if cameras else {"image_size": torch.tensor([size, size])}
        for K, size in ((K0, SIZE0), (K1, SIZE1))
    ]
    return scenes, {
        "view0": views[0], "view1": views[1], "keypoints0": points[0], "keypoints1": points[1],
        "matches0": torch.from_numpy(matches),
    }


@pytest.mark.parametrize("cameras", [True, False])
def test_keeps_mostly_right_matches_of_every_pair(model, cameras):
    scenes, data = batch(cameras)
    found = model(data)
    for b, scene in enumerate(scenes):
        matches0, matches1 = found["matches0"][b].numpy(), found["matches1"][b].numpy()
        kept = np.flatnonzero(matches0 >= 0)
        np.testing.assert_array_equal(matches0[kept], kept)  # none moved
        np.testing.assert_array_equal(np.flatnonzero(matches1 >= 0), kept)
        assert scene.right[kept].mean() > 0.7
        probability = found["matching_scores0"][b].numpy()
        assert (probability[kept] >= 0.5).all() and np.count_nonzero(probability) == len(kept)
    assert (found["matches0"][1, 400:] == -1).all()


def test_the_contract_of_a_component(model):
    assert not any(p.requires_grad for p in model.parameters())
    model.train()
    assert not model.net.training
    with pytest.raises(NotImplementedError):
        model.loss({}, {})
    with pytest.raises(AssertionError, match="matches0"):
        model({"view0": {}, "view1": {}, "keypoints0": 0, "keypoints1": 0})


def test_several_matches_to_one_keypoint_keep_the_best_in_the_other_direction(model):
    _, data = batch()
    data["matches0"][0, :500] = torch.arange(500).clamp(min=3)
    found = model(data)
    matches0, matches1 = found["matches0"][0], found["matches1"][0]
    for second in torch.unique(matches0[matches0 >= 0]):
        rivals = torch.nonzero(matches0 == second)[:, 0]
        best = rivals[found["matching_scores0"][0][rivals].argmax()]
        assert found["matching_scores1"][0][second] == found["matching_scores0"][0][best]
        assert matches1[second] in rivals


def test_a_missing_entry_is_named():
    _, data = batch()
    del data["keypoints1"], data["view0"]
    with pytest.raises(ValueError, match=r"data: found \[.*\], wanted view0, keypoints1, too"):
        filter_batch(MatchFilter.from_pretrained("sift"), data)


def test_wrong_use_is_told(model):
    _, data = batch()
    data["matches0"][0, 0] = 505
    with pytest.raises(ValueError, match="an index of 505, but keypoints1 holds 505"):
        model(data)
    _, data = batch()
    data["view1"] = {}
    with pytest.raises(ValueError, match="view1: has neither camera nor image_size"):
        model(data)


def test_without_gluefactory_the_model_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gluefactory", None)
    monkeypatch.delitem(sys.modules, "n3match.plugins.gluefactory", raising=False)
    plug = importlib.import_module("n3match.plugins.gluefactory")
    for name in ("N3MatchFilter", "__main_model__"):
        with pytest.raises(ImportError, match="pip install git"):
            getattr(plug, name)
    _, data = batch()
    found = plug.filter_batch(plug.MatchFilter.from_pretrained("sift"), data)
    assert (found["matches0"] >= 0).any()
