"""Options of a run: protocols, weighted sources, validation, half precision, more networks."""

import argparse
import csv
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_evaluate_pose import make_record, write_store

from n3match import MatchFilter
from n3match.nn import ClassifierConfig, MatchClassifier, considered
from n3match.pipelines import train_matcher
from n3match.pipelines.losses import classification_loss, geometric_loss
from n3match.pipelines.training import loop, objective
from n3match.pipelines.training.config import NETWORKS, TrainingConfig, parse_pairs
from n3match.pipelines.training.loop import train
from n3match.pipelines.training.run_folder import load_initial, with_refinements
from n3match.pipelines.training.sources import RealPairs, TrainingBatches, stream
from n3match.pipelines.training.validation import Validation
from n3match.weights import save_weights

TINY = TrainingConfig(
    generated=1.0, steps=6, batch=2, min_matches=64, max_matches=96, warmup=2, essential_after=3
)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def parse(*words):
    parser = argparse.ArgumentParser()
    train_matcher.add_arguments(parser)
    arguments = parser.parse_args(["out", *words])
    return train_matcher.config_from(arguments, torch.device("cpu"))


def test_protocols_set_what_is_not_given():
    published = parse("--protocol", "published", "--pairs", "a.h5", "--steps", "7")
    assert (published.batch, published.steps, published.generated) == (32, 7, 0.0)
    assert published.classifier == ClassifierConfig()  # coordinates alone, N³ after block 6
    assert (published.essential_weight, published.essential_after) == (0.1, 20_000)
    modern = parse("--pairs", "a.h5:2", "b.h5:1", "--no-refine", "--network", "cnnet")
    assert modern.pairs == ("a.h5", "b.h5")
    assert modern.pair_weights == (2, 1)
    assert modern.geometric_weight > 0
    assert modern.essential_weight == 0
    assert not modern.refine
    assert modern.classifier.n3_after == ()
    assert parse().generated == 1.0
    assert parse("--pairs", "a.h5", "--generated", "0.1").generated == 0.1


def test_stores_and_weights_are_told_apart():
    assert parse_pairs(["a.h5", "C:/b.h5"]) == (("a.h5", "C:/b.h5"), ())
    assert parse_pairs(["a.h5:2", "b:c.h5:.5"]) == (("a.h5", "b:c.h5"), (2.0, 0.5))
    with pytest.raises(ValueError, match="1 weights for 2 stores"):
        parse_pairs(["a.h5:2", "b.h5"])


def test_stores_are_drawn_by_their_weights(tmp_path):
    stores = [
        write_store(tmp_path / name, [make_record(true=20 + i, seed=i) for i in range(count)])
        for name, count in (("a.h5", 1), ("b.h5", 9))
    ]
    rng = np.random.default_rng(0)

    def share_of_first(weights):
        data = RealPairs(stores, weights)
        drawn = [len(data.draw(rng)["x"]) for _ in range(2000)]
        assert set(drawn) == set(range(20, 29))
        # 20 matches: the only pair of the first store, and the first of nine in the second.
        return (drawn.count(20) - drawn.count(21)) / len(drawn)

    assert share_of_first((3, 1)) == pytest.approx(0.75, abs=0.04)
    assert share_of_first(()) == pytest.approx(0.25, abs=0.04)  # √1 against √9


def test_processes_make_the_shares_of_one_batch(tmp_path):
    store = write_store(tmp_path / "a.h5", [make_record(true=70, seed=i) for i in range(3)])
    config = replace(TINY, pairs=(str(store),), generated=0.5, batch=4)
    whole = TrainingBatches(config)[3]
    shares = [TrainingBatches(config, rank, 2)[3] for rank in range(2)]
    for place in range(4):
        share, row = shares[place % 2], place // 2
        count = int(whole["mask"][place].sum())
        assert count == share["mask"][row].sum()
        for name in ("points0", "side", "shape", "distances"):
            assert torch.equal(whole[name][place, :count], share[name][row, :count])
    assert not torch.equal(whole["E"][0], whole["E"][1])
    with pytest.raises(ValueError, match="4 pairs for 3"):
        TrainingBatches(config, 0, 3)


@pytest.mark.parametrize("loaders", [0, 1])
def test_batches_made_ahead_are_those_asked_for(loaders):
    batches = TrainingBatches(TINY)
    made = list(stream(batches, 3, loaders))
    assert len(made) == 3
    for step, batch in zip((3, 4, 5), made):
        assert all(torch.equal(batch[name], value) for name, value in batches[step].items())


def test_no_augmentation_leaves_the_pairs_as_they_are(tmp_path):
    record = make_record(true=70)
    config = replace(
        TINY, pairs=(str(write_store(tmp_path / "a.h5", [record])),), generated=0.0, augment=False
    )
    batch = TrainingBatches(config)[0]
    x = torch.cat([batch["points0"], batch["points1"]], -1)[0]
    known = {tuple(row) for row in record.xs.astype(np.float32).tolist()}
    assert len(x) >= 64
    assert all(tuple(row) in known for row in x.tolist())


@pytest.fixture
def store(tmp_path):
    return write_store(
        tmp_path / "val.h5", [make_record(true=60, false=40, seed=i) for i in range(3)]
    )


def test_validation_agrees_with_evaluate_pose(tmp_path, store):
    from n3match.pipelines.evaluate_pose import evaluate_pose

    torch.manual_seed(0)
    net = MatchClassifier(TINY.classifier)
    # All matches are kept: enough for a pose.
    torch.nn.init.constant_(net.trunk.head.bias, 5.0)
    save_weights(tmp_path / "net.safetensors", net)
    found = Validation([store], "opencv_usac", 2)(net, loop.Processes())
    results = evaluate_pose(
        [store], filters=[str(tmp_path / "net.safetensors")], estimators=["opencv_usac"], limit=2,
        progress=False,
    )
    errors = np.array([r.error_deg for r in results])
    assert found["mAP@5"] == np.mean(errors < 5)
    assert found["precision"] == pytest.approx(np.mean([r.kept_right / r.kept for r in results]))
    assert net.training


def scripted(monkeypatch, marks):
    """Validations that give these mAP@5 by the step; returns the weights they saw."""
    seen = {}

    def validate(self, net, processes):
        step = validate.steps[-1]
        seen[step] = {name: t.clone() for name, t in net.state_dict().items()}
        return {name: marks[step] for name in ("mAP@5", "mAP@10", "mAP@20", "precision", "recall")}

    real = objective.losses

    def losses(net, batch, config, step, processes):
        validate.steps.append(step + 1)
        return real(net, batch, config, step, processes)

    validate.steps = []
    monkeypatch.setattr(Validation, "__call__", validate)
    monkeypatch.setattr(objective, "losses", losses)
    return seen


def test_best_weights_are_kept_and_the_run_stops(tmp_path, store, monkeypatch):
    config = replace(TINY, validation=(str(store),), validate_every=1, patience=2, steps=60)
    seen = scripted(monkeypatch, {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3})
    path = train(config, tmp_path / "run", device="cpu")
    marks = [row["mAP@5"] for row in rows(tmp_path / "run" / "validation.csv")]
    assert marks == ["0.1", "0.3", "0.2", "0.3"]
    assert len(rows(tmp_path / "run" / "log.csv")) == 4
    best = MatchFilter.from_pretrained(path).state_dict()
    assert all(torch.equal(best[name], seen[2][name]) for name in best)
    assert not torch.equal(seen[4]["trunk.head.weight"], best["trunk.head.weight"])
    # Started again, it is still over.
    before = (tmp_path / "run" / "log.csv").read_text()
    assert train(config, tmp_path / "run", device="cpu") == path
    assert (tmp_path / "run" / "log.csv").read_text() == before


def test_a_run_with_validation_resumes_to_the_same_end(tmp_path, store, monkeypatch):
    config = replace(TINY, validation=(str(store),), validate_every=2, validation_pairs=2)
    train(config, tmp_path / "whole", device="cpu")
    real = objective.losses

    def dies(net, batch, config, step, processes):
        if step == 3:
            raise KeyboardInterrupt
        return real(net, batch, config, step, processes)

    monkeypatch.setattr(objective, "losses", dies)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", device="cpu")
    monkeypatch.undo()
    train(config, tmp_path / "cut", device="cpu")
    for name in ("log.csv", "validation.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()
    whole, cut = (
        MatchFilter.from_pretrained(tmp_path / run / "filter.safetensors").state_dict()
        for run in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert [row["step"] for row in rows(tmp_path / "cut" / "validation.csv")] == ["2", "4", "6"]


def test_what_cannot_be_validated_on_is_named(tmp_path, store):
    with pytest.raises(ValueError, match=r"val\.h5 is trained on as well"):
        replace(TINY, pairs=(str(store),), validation=(str(store),))
    with pytest.raises(ValueError, match="patience: needs validation stores"):
        replace(TINY, patience=3)
    with pytest.raises(ValueError, match="estimators: 'magic' is none of"):
        train(
            replace(TINY, validation=(str(store),), validation_estimator="magic"), tmp_path / "run"
        )


def test_half_precision_stops_at_the_logits():
    torch.manual_seed(0)
    config = replace(TINY, refine=True, geometric_weight=0.5, essential_after=0)
    batch = TrainingBatches(config)[0]
    found = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        net = MatchClassifier(config.classifier)
        chosen = replace(config, precision=precision)
        out = objective.run_network(net, batch, chosen)
        assert out.logits.dtype == out.weights.dtype == out.essential.dtype == torch.float32
        total, numbers = objective.losses(net, batch, chosen, 0)
        total.backward()
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())
        assert all(bool(p.grad.isfinite().all()) for p in net.parameters())
        found[precision] = out.logits.detach(), numbers["classification"]
    (exact, loss), (half, half_loss) = found.values()
    assert not torch.equal(exact, half)
    assert half_loss == pytest.approx(loss, rel=0.05)


def test_every_network_by_name_trains(tmp_path):
    config = replace(TINY, essential_after=0)
    batch = TrainingBatches(config)[0]
    for name in NETWORKS:
        net = MatchClassifier(replace(config, network=name).classifier)
        objective.losses(net, batch, replace(config, network=name), 0)[0].backward()
        assert all(p.grad is not None for p in net.parameters())


def test_pruning_weights_are_fine_tuned_as_they_are(tmp_path):
    config = replace(TINY, network="n3-prune", refine=True)  # as the modern protocol says
    torch.manual_seed(0)
    before = MatchClassifier(config.classifier)
    save_weights(tmp_path / "prune.safetensors", before)
    net = MatchClassifier(config.classifier)
    load_initial(net, str(tmp_path / "prune.safetensors"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name])
    with pytest.raises(ValueError, match=r"initial: .* is a network of"):
        other = MatchClassifier(replace(config, network="cnnet-prune").classifier)
        load_initial(other, str(tmp_path / "prune.safetensors"))


def test_hard_pairs_are_drawn_more_often(tmp_path):
    """By the share of right ones among the mutual matches: 20 of 20 + i wrong ones."""
    kept = [make_record(true=20, false=false, seed=i) for i, false in enumerate((0, 60))]
    store = write_store(tmp_path / "a.h5", kept)
    rng = np.random.default_rng(0)

    def share_of_hard(hard):
        data = RealPairs([store], hard=hard)
        return np.mean([len(data.draw(rng)["x"]) == 80 for _ in range(2000)])

    shares = []
    for record in kept:
        right = record.distances_squared[record.mutual] < 1e-4
        shares.append(right.mean())
    for hard in (0.0, 0.5, 1.0):
        easy, difficult = (share**-hard for share in shares)
        assert share_of_hard(hard) == pytest.approx(difficult / (easy + difficult), abs=0.04)


def test_consensus_starts_as_the_network_without(tmp_path):
    torch.manual_seed(0)
    plain = MatchClassifier(TINY.classifier).eval()
    save_weights(tmp_path / "plain.safetensors", plain)
    net = MatchClassifier(replace(TINY, network="n3-consensus").classifier).eval()
    load_initial(net, str(tmp_path / "plain.safetensors"))
    batch = TrainingBatches(TINY)[0]
    side = objective.side_of(batch, net.config)
    arguments = (batch["points0"], batch["points1"], side, batch["mask"], batch["shape"])
    torch.testing.assert_close(net.score(*arguments), plain.score(*arguments))
    block = net.trunk.n3_blocks["6"]
    torch.nn.init.normal_(block.consensus.out.weight)
    moved = net.score(*arguments)
    assert not torch.allclose(moved, plain.score(*arguments))
    torch.nn.init.normal_(block.place.weight)
    assert not torch.allclose(net.score(*arguments), moved)


@pytest.mark.parametrize("network", ["n3", "n3-consensus"])
def test_second_pass_starts_as_a_copy_of_the_first(tmp_path, network):
    torch.manual_seed(0)
    plain = MatchClassifier(replace(TINY, network=network).classifier).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_weights(tmp_path / "plain.safetensors", plain)
    net = MatchClassifier(replace(TINY, network=network, refine=True).classifier).eval()
    load_initial(net, str(tmp_path / "plain.safetensors"))
    batch = TrainingBatches(TINY)[0]
    batch["side"] = objective.side_of(batch, net.config)
    matches = net._inputs(*(batch[n] for n in ("points0", "points1", "side", "mask", "shape")))
    first = plain.trunk(matches, batch["mask"])
    torch.testing.assert_close(net.trunk(matches, batch["mask"]), first)
    # Evidence of the first pass isn't looked at as yet.
    seen = torch.cat([matches, torch.randn(*matches.shape[:2], 2)], -1)
    again = net.refinement.trunk(seen, batch["mask"])
    torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)


def test_shapes_are_added_to_one_plain_pass_alone(tmp_path):
    for fields in ({}, {"network": "n3-consensus"}, {"refine": True}):
        before = replace(TINY, keypoint_shape=False, **fields)
        save_weights(tmp_path / "plain.safetensors", MatchClassifier(before.classifier))
        net = MatchClassifier(replace(before, keypoint_shape=True).classifier)
        if not fields:
            load_initial(net, str(tmp_path / "plain.safetensors"))
            continue
        with pytest.raises(ValueError, match=r"initial: .* is a network of"):
            load_initial(net, str(tmp_path / "plain.safetensors"))


def test_looks_have_no_weights_and_each_is_learned_from(tmp_path):
    torch.manual_seed(0)
    config = replace(TINY, refine=True, geometric_weight=0.5, essential_weight=0, essential_after=0)
    save_weights(tmp_path / "one.safetensors", MatchClassifier(config.classifier))
    twice = replace(config, refinements=2)
    net = MatchClassifier(twice.classifier)
    load_initial(net, str(tmp_path / "one.safetensors"))
    assert net.config.refinements == 2
    batch = TrainingBatches(config)[0]
    once = MatchClassifier(config.classifier)
    once.load_state_dict(net.state_dict())
    # The first two passes are the same, and a third adds its own losses.
    totals = [objective.losses(n.eval(), batch, c, 0)[0] for n, c in ((once, config), (net, twice))]
    out = objective.run_network(net, batch, twice)
    before = objective.run_network(once, batch, config).logits
    torch.testing.assert_close(before, out.earlier_logits[1])
    mask = considered(batch["side"], net.config, batch["mask"])
    positive = (batch["distances"] < twice.label_threshold) & mask
    weight = objective.importance(batch, positive, twice)
    usable = positive.sum(1) >= 8
    seen = (batch["points0"], batch["points1"], batch["E"], positive, usable)
    added = classification_loss(out.logits, positive, mask, twice.balance, weight)
    added = added + 0.5 * geometric_loss(out.essential, *seen)
    torch.testing.assert_close(totals[1] - totals[0], added)
    assert parse("--refinements", "3").classifier.refinements == 3
    with pytest.raises(ValueError, match="refinements: 3 of them need refine, got False"):
        parse("--no-refine", "--refinements", "3")


def test_fine_tuning_looks_as_often_as_the_weights_did(tmp_path):
    config = replace(TINY, refine=True, refinements=3)
    save_weights(tmp_path / "three.safetensors", MatchClassifier(config.classifier))
    tuned = replace(TINY, refine=True, initial=str(tmp_path / "three.safetensors"), steps=1)
    path = train(tuned, tmp_path / "run")
    assert MatchFilter.from_pretrained(path).config.refinements == 3
    assert with_refinements(replace(tuned, refinements=2)).refinements == 2
    assert with_refinements(replace(tuned, initial="")).classifier.refinements == 1


def test_a_bound_of_temperatures_has_no_weights(tmp_path):
    save_weights(tmp_path / "plain.safetensors", MatchClassifier(TINY.classifier))
    net = MatchClassifier(replace(TINY, coldest=-4.0).classifier)
    load_initial(net, str(tmp_path / "plain.safetensors"))
    assert net.config.coldest == net.trunk.n3_blocks["6"].coldest == -4.0
    assert parse().classifier.coldest == -4.0
    assert parse("--coldest=-inf").classifier.coldest is None
    assert parse("--protocol", "published", "--pairs", "a.h5").classifier.coldest is None


def test_tensorboard_has_the_numbers_where_it_is_installed(tmp_path, store):
    config = replace(TINY, validation=(str(store),), validate_every=3, validation_pairs=1)
    train(config, tmp_path, device="cpu")
    if importlib.util.find_spec("tensorboard") is None:
        assert not (tmp_path / "tensorboard").exists()
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = events.Scalars("train/classification")
    assert [e.step for e in losses] == list(range(6))
    assert losses[2].value == pytest.approx(
        float(rows(tmp_path / "log.csv")[2]["classification"]), rel=1e-4
    )
    assert [e.step for e in events.Scalars("validation/mAP@5")] == [3, 6]
