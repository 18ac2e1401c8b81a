"""Training: losses with known values, a curve that survives a kill, weights that load."""

import csv
import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig
from n3match.pipelines.cli import main
from n3match.pipelines.training.filter import objective
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.pipelines.training.filter.initial import load_initial
from n3match.pipelines.training.filter.losses import classification_loss, essential_loss
from n3match.pipelines.training.filter.task import FilterTask
from n3match.pipelines.training.run import train
from n3match.weights import save_weights

pytestmark = pytest.mark.arithmetic

TINY = TrainingConfig(
    generated=1.0, steps=6, batch=2, min_matches=64, max_matches=96, warmup=2, essential_after=3
)


def test_classification_loss_weighs_right_and_wrong_alike():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 9.0]])
    positive = torch.tensor([[True, False, False, False, False]])
    mask = torch.tensor([[True, True, True, True, False]])
    loss = classification_loss(logits, positive, mask)
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))
    # Three wrong matches judged wrongly weigh as much as one right match judged wrongly.
    a = classification_loss(torch.tensor([[-5.0, -5, -5, -5, 0]]), positive, mask)
    b = classification_loss(torch.tensor([[5.0, 5, 5, 5, 0]]), positive, mask)
    torch.testing.assert_close(a, b)


def test_unbalanced_loss_is_the_plain_mean():
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 9, generator=gen)
    positive = torch.arange(9)[None] < 2
    mask = torch.arange(9)[None] < 7
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[mask], positive[mask].float()
    )
    torch.testing.assert_close(classification_loss(logits, positive, mask, 0.0), plain)
    # In between, the share of right matches lies in between.
    shares = [
        classification_loss(torch.full((1, 9), 30.0), positive, mask, balance).item() / 30
        for balance in (0.0, 0.5, 1.0)
    ]
    assert shares == pytest.approx([5 / 7, 5**0.5 / (5**0.5 + 2**0.5), 0.5], abs=1e-5)


def test_right_matches_that_are_not_mutual_count_less_where_that_is_known():
    config = TrainingConfig(generated=1.0, not_mutual=0.25)
    side_info = torch.zeros(2, 4, 2)
    side_info[0, :2, 1] = 1  # nothing is known of the second pair
    positive = torch.tensor([[True, False, True, False]] * 2)
    batch = {"side_info": side_info, "distances": torch.zeros(2, 4)}
    found = objective.importance(batch, positive, config)
    assert found.tolist() == [[1, 1, 0.25, 1], [1, 1, 1, 1]]
    # Weights act within a kind: two right matches of weight 1 and ¼.
    logits = torch.tensor([[30.0, 30.0, -30.0, 30.0]])
    loss = classification_loss(
        logits, positive[:1], torch.ones(1, 4, dtype=torch.bool), 1.0, found[:1]
    )
    assert loss.item() == pytest.approx(0.5 * 30 * 0.25 / 1.25 + 0.5 * 30, abs=1e-4)


def test_padding_with_infinite_logits_has_no_gradient():
    logits = torch.tensor([[1.0, float("-inf")]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    classification_loss(logits, mask, mask).backward()
    assert logits.grad[0, 1] == 0
    assert torch.isfinite(logits.grad).all()


def test_essential_loss_ignores_sign_scale_and_unusable_pairs():
    gen = torch.Generator().manual_seed(0)
    e = torch.randn(3, 3, 3, generator=gen)
    unit = e / torch.linalg.matrix_norm(e)[:, None, None]
    usable = torch.tensor([True, True, False])
    truth = torch.stack([-7 * unit[0], 0.5 * unit[1], torch.full((3, 3), 1.0)])
    assert essential_loss(unit, truth, usable) < 1e-12


def test_learning_rate_warms_up_and_decays():
    config = TrainingConfig(generated=1.0, steps=100, warmup=10)
    assert config.learning_rate(0) == pytest.approx(1e-4)
    assert config.learning_rate(9) == pytest.approx(1e-3)
    assert config.learning_rate(99) < 2e-5
    constant = dataclasses.replace(config, schedule="constant")
    assert constant.learning_rate(0) == pytest.approx(1e-4)
    assert constant.learning_rate(99) == 1e-3


def _curve(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("network", "ema"), [("n3", 0.0), ("cnnet", 0.0), ("n3-consensus", 0.9), ("n3-prune", 0.9)]
)
def test_resumed_run_gives_the_same_curve_and_weights(tmp_path, network, ema):
    config = dataclasses.replace(TINY, network=network, ema=ema)
    whole = train(FilterTask(config), tmp_path / "whole", save_every=2, device="cpu")

    class Dies(FilterTask):
        def losses(self, net, batch, step, processes):
            if step == 5:
                raise KeyboardInterrupt
            return super().losses(net, batch, step, processes)

    with pytest.raises(KeyboardInterrupt):
        train(Dies(config), tmp_path / "cut", save_every=2, device="cpu")
    assert MatchFilter.from_pretrained(tmp_path / "cut" / "filter.safetensors")  # to be tried
    resumed = train(FilterTask(config), tmp_path / "cut", save_every=2, device="cpu")

    assert _curve(tmp_path / "cut") == _curve(tmp_path / "whole")
    a, b = (MatchFilter.from_pretrained(path).state_dict() for path in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [int(row["step"]) for row in _curve(tmp_path / "cut")] == list(range(6))


@pytest.mark.slow
def test_a_compiled_run_gives_the_same_curve_up_to_rounding(tmp_path):
    """Of the first two steps; from then on differences grow, since essential matrices from few
    matches are badly determined and Adam goes by the signs of gradients."""
    config = dataclasses.replace(TINY, network="n3", essential_after=0, seed=1, steps=2)
    curves = []
    torch._dynamo.utils.counters.clear()
    for compiled in (False, True):
        assert not torch._dynamo.utils.counters["stats"]
        train(FilterTask(config), tmp_path / str(compiled), device="cpu", compiled=compiled)
        names = ("classification", "essential", "gradient_norm")
        rows = _curve(tmp_path / str(compiled))
        curves.append(torch.tensor([[float(row[name]) for name in names] for row in rows]))
    plain, found = curves
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    "words",
    [
        ("train-filter", "--generated", 1, "--network", "cnnet"),
        ("train-denoiser", "--sigma", 25, "--crops", "24x1", "--images"),
    ],
)
def test_the_command_compiles_the_network_where_asked(words, tmp_path, monkeypatch):
    if words[-1] == "--images":
        cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 40), 99, np.uint8))
        words = (*words, tmp_path)
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compiled.append(type(net).__name__))
    for more, wanted in ((), 0), (("--compile",), 1):
        given = (words[0], tmp_path / f"run{wanted}", *words[1:], "--steps", 1, *more)
        assert main([*map(str, given), "--device", "cpu", "--quiet"]) == 0
        assert len(compiled) == wanted


def test_the_running_mean_is_kept(tmp_path):
    """The longer its memory, the farther behind the last weights it is."""
    runs = {}
    for ema in (0.0, 0.2, 0.99):
        config = dataclasses.replace(TINY, ema=ema)
        runs[ema] = train(FilterTask(config), tmp_path / str(ema), device="cpu")
    assert _curve(tmp_path / "0.0") == _curve(tmp_path / "0.2")  # training itself is the same
    last = MatchFilter.from_pretrained(runs[0.0]).state_dict()
    behind = {
        ema: sum(
            float((tensor - last[name]).square().sum())
            for name, tensor in MatchFilter.from_pretrained(runs[ema]).state_dict().items()
        )
        for ema in (0.2, 0.99)
    }
    assert 0 < behind[0.2] < behind[0.99]
    with pytest.raises(ValueError, match="ema must lie in 0"):
        dataclasses.replace(TINY, ema=1.0)


def test_fine_tuning_starts_from_the_weights_given(tmp_path):
    first = train(FilterTask(TINY), tmp_path / "first", device="cpu")
    still = dataclasses.replace(TINY, initial=str(first), rate=0.0, steps=1)
    second = train(FilterTask(still), tmp_path / "second", device="cpu")
    a, b = (MatchFilter.from_pretrained(path).state_dict() for path in (first, second))
    assert all(torch.equal(a[n], b[n]) for n in a if "running_var" not in n)
    other = dataclasses.replace(TINY, initial=str(first), network="cnnet")
    with pytest.raises(ValueError, match="initial"):
        train(FilterTask(other), tmp_path / "third", device="cpu")


def test_weights_that_know_no_keypoint_change_are_widened(tmp_path):
    """The start of a run from older weights gives the logits of those, whatever the change."""
    torch.manual_seed(0)
    config = MatchFilterConfig(side_info=("ratio", "mutual"))
    old = MatchFilter(config).eval()
    path = tmp_path / "old.safetensors"
    save_weights(path, old)
    new = MatchFilter(dataclasses.replace(config, keypoint_change=True)).eval()
    load_initial(new, str(path))
    points, side_info, change = torch.rand(1, 30, 4), torch.rand(1, 30, 2), torch.rand(1, 30, 3)
    torch.testing.assert_close(
        new.logits(points[..., :2], points[..., 2:], side_info, keypoint_change=change),
        old.logits(points[..., :2], points[..., 2:], side_info),
    )


def test_essential_loss_starts_when_told(tmp_path):
    train(FilterTask(TINY), tmp_path, device="cpu")
    essential = [float(row["essential"]) for row in _curve(tmp_path)]
    assert all(value == 0 for value in essential[:3])
    assert all(value > 0 for value in essential[3:])


def test_other_options_are_refused(tmp_path):
    train(FilterTask(TINY), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="run with other options"):
        train(FilterTask(dataclasses.replace(TINY, seed=5)), tmp_path, device="cpu")


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path):
    """The rows of both were in one log."""

    class Meanwhile(FilterTask):
        def notes(self):
            with pytest.raises(ValueError, match="run: in use: another run is writing"):
                train(FilterTask(TINY), tmp_path / "run")
            return super().notes()

    train(Meanwhile(TINY), tmp_path / "run")
    train(FilterTask(TINY), tmp_path / "run")  # it is over


def test_foreign_state_is_refused(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        train(FilterTask(TINY), tmp_path, device="cpu")


def test_steps_without_finite_gradients_are_skipped(tmp_path):
    class SometimesNan(FilterTask):
        def losses(self, net, batch, step, processes):
            total, numbers = super().losses(net, batch, step, processes)
            return (total * float("nan") if step == 1 else total), numbers

    path = train(SometimesNan(TINY), tmp_path, device="cpu")
    state = MatchFilter.from_pretrained(path).state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_run_without_finite_gradients_ends(tmp_path):
    class Nan(FilterTask):
        def losses(self, net, batch, step, processes):
            return next(net.parameters()).sum() * float("nan"), {"loss": torch.zeros(())}

    with pytest.raises(RuntimeError, match="diverged: 101 steps"):
        train(Nan(dataclasses.replace(TINY, steps=200)), tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"network": "other"}, "network"), ({"generated": 2.0}, "generated"), ({}, "pairs"),
        ({"steps": 0}, "steps"), ({"schedule": "x"}, "schedule"), ({"seed": -1}, "seed"),
        ({"generated": 1.0, "min_matches": 9, "max_matches": 8}, "min_matches"),
        ({"generated": 1.0, "min_matches": 7}, "min_matches"), ({"clip": -1.0}, "clip"),
    ],
)
def test_impossible_configurations(options, named):
    with pytest.raises(ValueError, match=named):
        TrainingConfig(**options)
