"""Training of denoisers in two processes: what one process gives with the same batch."""

import csv

import cv2
import numpy as np
import prepared
import pytest
import torch
from prepared import finish

from n3match.nn import N3Net
from n3match.pipelines.training.denoiser.batches import NoisyBatches
from n3match.pipelines.training.denoiser.config import CropStage, DenoiserTraining
from n3match.pipelines.training.denoiser.task import DenoiserTask
from n3match.pipelines.training.run import train

pytestmark = pytest.mark.arithmetic


class Double(DenoiserTask):
    """In float64: rounding stays too small for Adam to blow it up."""

    def network(self):
        return super().network().double()

    def batches(self, folder, processes):
        made = super().batches(folder, processes)

        class Doubled:
            def __getitem__(self, step):
                return {name: t.double() for name, t in made[step].items()}

        return Doubled()


def run(config, folder):
    """A training."""
    torch.set_num_threads(1)
    train(Double(config), folder, save_every=3, device="cpu")


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        smooth = cv2.GaussianBlur(rng.random((60, 70)), (0, 0), 2)
        smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
        cv2.imwrite(str(folder / f"{i}.png"), smooth.astype(np.uint8))
    return DenoiserTraining(
        images=(str(folder),), features=4, steps=5, warmup=2, local_steps=2, clip=5.0,
        crops=(CropStage(0, 24, 4), CropStage(3, 31, 3)), sigma=(10.0, 50.0), momentum=0.1,
    )


def _curve(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_two_processes_give_what_one_gives(tmp_path, config):
    """Also where a batch of 3 can't be shared equally."""
    run(config, tmp_path / "one")
    finish(prepared.start_ranks(run, config, tmp_path / "two", count=2))
    one, two = (_curve(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 5
    for a, b in zip(one, two):
        assert a == pytest.approx(b, rel=1e-5)
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two")
    ]
    start = N3Net(config.net).state_dict()
    for kind in ("net", "averaged"):
        a, b = (state[kind] for state in states)
        assert a["local_networks.0.layers.0.weight"].dtype == torch.float64
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-8)
    assert not torch.equal(a["blocks.0.distance_scale.running_var"].float(),
                           start["blocks.0.distance_scale.running_var"])


def test_more_processes_than_crops_are_refused(tmp_path, config):
    with pytest.raises(ValueError, match="crops: 3 in a step are too few for 5 processes"):
        NoisyBatches(config, tmp_path / "images.npy", 0, 5)
