"""Training in processes of its own: killed at random moments, and shared by two of them."""

import csv
import random
import time
from dataclasses import asdict, replace

import prepared
import pytest
import torch
from prepared import finish
from toy_pairs import make_record, write_store

from n3match.nn import MatchFilter
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.distributed import synchronise_statistics
from n3match.pipelines.common.processes import joined_processes
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.pipelines.training.filter.task import FilterTask
from n3match.pipelines.training.filter.validation import MARKS
from n3match.pipelines.training.run import train
from n3match.weights import save_weights

pytestmark = pytest.mark.arithmetic

STEPS = 8
OPTIONS = {
    "network": "n3", "generated": 0.5, "refine": True, "steps": STEPS, "batch": 4,
    "min_matches": 64, "max_matches": 96, "warmup": 2, "essential_after": 2, "clip": 1.0,
    "geometric_weight": 0.5, "validate_every": 4, "validation_pairs": 3,
}  # fmt: skip


class Double(FilterTask):
    """In float64: rounding stays too small for Adam to blow it up."""

    def network(self):
        return super().network().double()

    def batches(self, folder, processes):
        made = super().batches(folder, processes)

        class Doubled:
            def __getitem__(self, step):
                batch = made[step].items()
                return {k: v.double() if v.is_floating_point() else v for k, v in batch}

        return Doubled()

    def validation(self):
        return lambda net, processes: dict.fromkeys(MARKS, 0.0)


def run(options, folder, task=FilterTask):
    """A training."""
    torch.set_num_threads(1)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    train(task(TrainingConfig(**options)), folder, save_every=3, device="cpu")


@pytest.fixture
def config(tmp_path):
    # Pairs of unequal numbers of matches, one of which has too few right ones for the geometry.
    pairs = write_store(
        tmp_path / "pairs.h5",
        [make_record(true=true, false=60, seed=true) for true in (3, 20, 70)],
    )
    validation = write_store(
        tmp_path / "val.h5", [make_record(true=50, false=30, seed=i) for i in range(3)]
    )
    # Nearly all matches are kept at first: with fewer than eight the weighted eight-point algorithm
    # has many answers, and rounding decides which.
    torch.manual_seed(0)
    plain = TrainingConfig(**OPTIONS, pairs=(str(pairs),), validation=(str(validation),))
    net = MatchFilter(plain.net)
    for part in (net.trunk, net.refinement.trunk):
        torch.nn.init.constant_(part.head.bias, 3.0)
    save_weights(tmp_path / "start.safetensors", net)
    return replace(plain, initial=str(tmp_path / "start.safetensors"))


def start(config, folder, count=1, task=FilterTask):
    """The processes of a run."""
    return prepared.start_ranks(run, asdict(config), folder, task, count=count)


def kill_at_random(processes, folder, rng):
    """SIGKILL to all, some time after so many steps; whether they were still at work."""
    enough = rng.randrange(1, STEPS)
    while len(rows(folder / "log.csv")) < enough and processes[0].is_alive():
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.05))
    were_alive = all(process.is_alive() for process in processes)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    return were_alive


def rows(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(one, other):
    for name in ("log.csv", "validation.csv"):
        assert rows(one / name) == rows(other / name)
    a, b = (
        MatchFilter.from_pretrained(run / "filter.safetensors").state_dict() for run in (one, other)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_killed_at_a_random_moment_it_goes_on_to_the_same_end(tmp_path, config):
    train(FilterTask(config), tmp_path / "whole", save_every=3, device="cpu")
    seed = random.randrange(1000)
    print("seed", seed)
    kill_at_random(start(config, tmp_path / "cut"), tmp_path / "cut", random.Random(seed))
    finish(start(config, tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_two_processes_give_what_one_gives(tmp_path, config):
    run(asdict(config), tmp_path / "one", Double)
    finish(start(config, tmp_path / "two", 2, Double))
    one, two = (rows(tmp_path / run / "log.csv") for run in ("one", "two"))
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=1e-5
        )
    a, b = (
        torch.load(tmp_path / run / "state.pt", weights_only=True)["net"] for run in ("one", "two")
    )
    assert a["trunk.head.weight"].dtype == torch.float64
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_two_processes_killed_again_and_again(tmp_path, config):
    finish(start(config, tmp_path / "whole", 2))
    rng = random.Random(random.randrange(1000))
    kills = 0
    for _ in range(3):
        kills += kill_at_random(start(config, tmp_path / "cut", 2), tmp_path / "cut", rng)
    finish(start(config, tmp_path / "cut", 2))
    assert kills
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def _statistics_of_a_share(data, folder):
    torch.set_num_threads(1)
    data = torch.load(data, weights_only=True)
    with joined_processes("cpu") as processes:
        share = slice(processes.rank, None, 2)
        norm = ContextNormReLU(data["x"].shape[2]).double()
        synchronise_statistics(norm, processes.group)
        x = data["x"][share].clone().requires_grad_()
        out = norm(x, data["mask"][share])
        (out * data["cotangent"][share]).sum().backward()
        found = {"out": out.detach(), "grad": x.grad, "var": norm.running_var}
        torch.save(found, folder / f"{processes.rank}.pt")


def test_statistics_and_gradients_are_those_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, 11, 5, dtype=torch.float64) * torch.tensor([0.02, 1.0, 0.1, 3.0]).view(
        4, 1, 1
    )
    counts = torch.tensor([11, 4, 7, 2])
    mask = (torch.arange(11) < counts[:, None])[..., None].double()
    cotangent = torch.randn_like(x) * mask
    torch.save({"x": x, "mask": mask, "cotangent": cotangent}, tmp_path / "data.pt")
    finish(
        prepared.start_ranks(_statistics_of_a_share, tmp_path / "data.pt", tmp_path, count=2)
    )
    norm = ContextNormReLU(5).double()
    whole = x.clone().requires_grad_()
    out = norm(whole, mask)
    (out * cotangent).sum().backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["out"], out.detach()[rank::2])
        torch.testing.assert_close(found["grad"], whole.grad[rank::2])
        torch.testing.assert_close(found["var"], norm.running_var)


def test_statistics_stay_finite_after_a_step_that_went_wrong():
    norm = ContextNormReLU(3)
    norm(torch.full((1, 5, 3), float("nan")))
    assert bool(norm.running_var.isfinite().all())


def test_wrong_environment_is_named(tmp_path, config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE: found 'two'"):
        train(FilterTask(config), tmp_path / "run", device="cpu")
