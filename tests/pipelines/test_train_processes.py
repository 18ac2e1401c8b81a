"""Training in processes of its own: killed at random moments, and shared by two of them."""

import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from test_evaluate_pose import make_record, write_store

from n3match.nn import MatchFilter
from n3match.nn.context_norm import ContextNormReLU
from n3match.pipelines.training import filter_loop as loop
from n3match.pipelines.training.filter_config import TrainingConfig
from n3match.pipelines.training.filter_loop import train
from n3match.pipelines.training.sources import TrainingBatches
from n3match.pipelines.training.validation import NUMBERS, Validation
from n3match.weights import save_weights

STEPS = 8
OPTIONS = {
    "network": "n3", "generated": 0.5, "refine": True, "steps": STEPS, "batch": 4,
    "min_matches": 64, "max_matches": 96, "warmup": 2, "essential_after": 2, "clip": 1.0,
    "geometric_weight": 0.5, "validate_every": 4, "validation_pairs": 3,
}  # fmt: skip

_RUN = """
import sys, json, torch
from test_train_processes import run
run(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "float64")
"""


def run(options, folder, double=False):
    """A training; in float64 rounding stays too small for Adam to blow it up."""
    torch.set_num_threads(1)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    with pytest.MonkeyPatch.context() as patch:
        if double:
            made = TrainingBatches.__getitem__
            patch.setattr(
                TrainingBatches,
                "__getitem__",
                lambda self, step: {
                    k: v.double() if v.is_floating_point() else v
                    for k, v in made(self, step).items()
                },
            )
            patch.setattr(Validation, "__call__", lambda *_: dict.fromkeys(NUMBERS, 0.0))
            patch.setattr(
                loop, "MatchFilter", lambda config: MatchFilter(config).double()
            )
        train(TrainingConfig(**options), folder, save_every=3, device="cpu")


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
    net = MatchFilter(plain.classifier)
    for part in (net.trunk, net.refinement.trunk):
        torch.nn.init.constant_(part.head.bias, 3.0)
    save_weights(tmp_path / "start.safetensors", net)
    return replace(plain, initial=str(tmp_path / "start.safetensors"))


def launch(script, arguments, count):
    """Processes that run a script, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(p for p in sys.path if p)
    common = {
        "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, **common, "RANK": str(rank), "WORLD_SIZE": str(count)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(count)
    ]


def start(config, folder, count=1, dtype="float32"):
    """The processes of a run."""
    return launch(_RUN, [json.dumps(asdict(config)), folder, dtype], count)


def finish(processes):
    assert [process.wait(timeout=600) for process in processes] == [0] * len(processes)


def kill_at_random(processes, folder, rng):
    """SIGKILL to all, some time after so many steps; whether they were still at work."""
    enough = rng.randrange(1, STEPS)
    while len(rows(folder / "log.csv")) < enough and processes[0].poll() is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.05))
    were_alive = all(process.poll() is None for process in processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
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
    train(config, tmp_path / "whole", save_every=3, device="cpu")
    seed = random.randrange(1000)
    print("seed", seed)
    kill_at_random(start(config, tmp_path / "cut"), tmp_path / "cut", random.Random(seed))
    finish(start(config, tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_two_processes_give_what_one_gives(tmp_path, config):
    run(asdict(config), tmp_path / "one", double=True)
    finish(start(config, tmp_path / "two", 2, "float64"))
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


_STATISTICS = """
import os, sys, torch
from n3match.nn import MatchFilter
from n3match.nn.context_norm import ContextNormReLU
from n3match.nn.synchronised import synchronise_statistics
from n3match.pipelines.processes import joined_processes
data = torch.load(sys.argv[1], weights_only=True)
with joined_processes("cpu") as processes:
    r = processes.rank
    norm = ContextNormReLU(data["x"].shape[2]).double()
    synchronise_statistics(norm, processes.group)
    x = data["x"][r::2].clone().requires_grad_()
    out = norm(x, data["mask"][r::2])
    (out * data["cotangent"][r::2]).sum().backward()
    torch.save({"out": out.detach(), "grad": x.grad, "var": norm.running_var},
               f"{sys.argv[2]}/{r}.pt")
"""


@pytest.mark.slow  # two more processes; the test above would fail as well
def test_statistics_and_gradients_are_those_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, 11, 5, dtype=torch.float64) * torch.tensor([0.02, 1.0, 0.1, 3.0]).view(
        4, 1, 1
    )
    counts = torch.tensor([11, 4, 7, 2])
    mask = (torch.arange(11) < counts[:, None])[..., None].double()
    cotangent = torch.randn_like(x) * mask
    torch.save({"x": x, "mask": mask, "cotangent": cotangent}, tmp_path / "data.pt")
    finish(launch(_STATISTICS, [tmp_path / "data.pt", tmp_path], 2))
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
        train(config, tmp_path / "run", device="cpu")
