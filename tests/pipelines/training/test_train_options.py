"""Options of a run: protocols, weighted sources, validation, half precision, more networks."""

import argparse
import copy
import csv
import importlib.util
import itertools
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_pairs import make_record, write_store

from n3match.datasets.pairs.store_writer import PairStoreWriter
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter, MatchFilterConfig, mutual_mask
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.training import train_filter
from n3match.pipelines.training.config import parse_weighted
from n3match.pipelines.training.filter import objective
from n3match.pipelines.training.filter.batches import RealPairs, TrainingBatches
from n3match.pipelines.training.filter.config import NETWORKS, TrainingConfig
from n3match.pipelines.training.filter.initial import load_initial, with_refinements
from n3match.pipelines.training.filter.losses import classification_loss, geometric_loss
from n3match.pipelines.training.filter.task import FilterTask
from n3match.pipelines.training.filter.validation import Validation
from n3match.pipelines.training.run import stream, train
from n3match.weights import save_weights

pytestmark = pytest.mark.arithmetic

TINY = TrainingConfig(
    generated=1.0, steps=6, batch=2, min_matches=64, max_matches=96, warmup=2, essential_after=3
)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def parse(*words):
    parser = argparse.ArgumentParser()
    train_filter.add_arguments(parser)
    arguments = parser.parse_args(["out", *words])
    return train_filter.config_from(arguments, "cpu")


def test_protocols_set_what_is_not_given():
    published = parse("--protocol", "published", "--pairs", "a.h5", "--steps", "7")
    assert (published.batch, published.steps, published.generated) == (32, 7, 0.0)
    assert published.net == MatchFilterConfig()  # coordinates alone, N³ after block 6
    assert (published.essential_weight, published.essential_after) == (0.1, 20_000)
    modern = parse("--pairs", "a.h5:2", "b.h5:1", "--no-refine", "--network", "cnnet")
    assert modern.pairs == ("a.h5", "b.h5")
    assert modern.pair_weights == (2, 1)
    assert modern.geometric_weight > 0
    assert modern.essential_weight == 0
    assert not modern.refine
    assert modern.net.n3_after == ()
    assert parse().generated == 1.0
    assert parse("--pairs", "a.h5", "--generated", "0.1").generated == 0.1


def test_stores_and_weights_are_told_apart():
    assert parse_weighted(["a.h5", "C:/b.h5"]) == (("a.h5", "C:/b.h5"), ())
    assert parse_weighted(["a.h5:2", "b:c.h5:.5"]) == (("a.h5", "b:c.h5"), (2.0, 0.5))
    with pytest.raises(ValueError, match="pairs: 1 weights for 2"):
        parse("--pairs", "a.h5:2", "b.h5")


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
        for name in ("points0", "side_info", "keypoint_change", "distances"):
            assert torch.equal(whole[name][place, :count], share[name][row, :count])
    assert not torch.equal(whole["E"][0], whole["E"][1])
    with pytest.raises(ValueError, match="4 pairs for 3"):
        TrainingBatches(config, 0, 3)


@pytest.mark.parametrize("loaders", [0, 1])
def test_batches_made_ahead_are_those_asked_for(loaders, prepared_processes):
    batches = TrainingBatches(TINY)
    made = list(stream(batches, range(3, 6), loaders))
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


def test_the_share_of_generated_pairs_and_the_number_of_matches_are_drawn(tmp_path):
    record = make_record(true=100)
    store = write_store(tmp_path / "a.h5", [record])
    fields = {"pairs": (str(store),), "augment": False, "batch": 4}

    def drawn(share):
        batches = TrainingBatches(replace(TINY, generated=share, **fields))
        made = [batches[step] for step in range(20)]
        real = torch.cat([(b["R"] - torch.as_tensor(record.R)).abs().amax((1, 2)) for b in made])
        return (real > 1e-5).float().mean().item(), [b["mask"].shape[1] for b in made]

    assert [drawn(share)[0] for share in (0.0, 1.0)] == [0, 1]
    share, counts = drawn(0.25)
    assert 0.1 < share < 0.4
    assert 64 <= min(counts) < 70 and 90 < max(counts) <= 96


def test_batches_for_a_network_of_mutual_matches_hold_no_others(tmp_path):
    """Where mutual matches are known: a pair of which they aren't is there with all of its own."""
    record = make_record(true=300, false=300)
    record.mutual[::3] = False
    unknown = replace(record, mutual=np.zeros_like(record.mutual))
    stores = [
        str(write_store(tmp_path / name, [r])) for name, r in (("a.h5", record), ("b.h5", unknown))
    ]
    config = TrainingConfig(
        pairs=tuple(stores), generated=0.4, batch=12, mutual_only=True, min_matches=64,
        max_matches=200,
    )
    batches = TrainingBatches(config)
    for step in range(3):
        batch = batches[step]
        mutual, mask = batch["side_info"][..., SIDE_INFO.index("mutual")] > 0, batch["mask"]
        known = mutual.any(1)
        assert 0 < known.sum() < 12
        assert (mutual | ~mask)[known].all()
        # No padding but for pairs that have fewer than the number drawn.
        assert batch["mask"].shape[1] <= 200 and mask.float().mean() > 0.9
    every = TrainingBatches(replace(config, mutual_only=False, generated=0.0))[0]
    assert not (every["side_info"][..., SIDE_INFO.index("mutual")] > 0).all()


@pytest.mark.parametrize(
    ("features", "binary"),
    [(("opencv-orb",), True), (("opencv-orb", "opencv-akaze"), True),
     (("opencv-orb", "opencv-sift-root"), False), (("unknown",), False)],
)
def test_weights_say_whether_they_learnt_from_binary_descriptors(tmp_path, features, binary):
    stores = []
    for number, feature in enumerate(features):
        writer = PairStoreWriter(tmp_path / f"{number}.h5", {"feature": feature})
        writer.write_part("all", [make_record(true=60, false=60)])
        stores.append(str(writer.finish(["all"])))
    config = replace(TINY, pairs=tuple(stores), generated=0.0, network="cnnet-prune", steps=1)
    train(FilterTask(config), tmp_path / "run")
    net = MatchFilter.from_pretrained(tmp_path / "run" / "filter.safetensors")
    assert net.config.binary_descriptors == binary


def test_second_nearest_neighbours_are_drawn_and_withheld_as_asked(tmp_path):
    record = make_record(true=60, false=30)
    known = {
        "back_ratio": np.full(90, 0.8), "apart": np.full(90, 9.0),
        "near_mutual": np.arange(90) % 3 > 0, "mutual": np.arange(90) % 3 == 1,
    }
    known["near_mutual"][70:] = True
    known["mutual"][70:] = False
    # Those that are near both ways, but not the nearest, are behind another candidate.
    known["ratio"] = np.where(np.arange(90) < 70, record.ratio, 1.3)
    known["back_ratio"][known["near_mutual"] & ~known["mutual"]] = 1.4
    record = replace(record, **known).split(70)
    store = write_store(tmp_path / "pairs.h5", [record])
    both, mutual = record.with_second().near_mutual.sum(), record.mutual.sum()
    assert both > mutual + 30
    config = TrainingConfig(
        network="n3-prune", pairs=(str(store),), generated=0, batch=8, mutual_only=True,
        second_nearest=True, min_matches=200, max_matches=200,
    )
    assert config.net.second_nearest
    assert not replace(config, second_nearest=False).net.second_nearest
    ratio = SIDE_INFO.index("ratio")
    for second, wanted in ((True, both), (False, mutual)):
        plain = replace(config, augment=False, second_nearest=second)
        assert TrainingBatches(plain)[0]["mask"].sum(1).tolist() == [wanted] * 8
    for drop in (0.0, 1.0):
        chosen = replace(config, drop_second=drop, drop_side_info=0.5)
        batches = [TrainingBatches(chosen)[step]["side_info"] for step in range(3)]
        withheld = torch.cat([(b[..., ratio] == 1).all(1) for b in batches])
        # Who knows second nearest neighbours knows what descriptors say.
        assert bool(withheld.any()) == bool(drop)
        assert any(bool((b[..., ratio] > 1).any()) for b in batches) == (not drop)
    older = write_store(tmp_path / "older.h5", [make_record()])
    with pytest.raises(ValueError, match=r"pairs: .*older.h5: no second nearest neighbours"):
        TrainingBatches(replace(config, pairs=(str(older),)))
    with pytest.raises(ValueError, match="second_nearest: needs mutual_only"):
        TrainingConfig(generated=1, second_nearest=True)
    with pytest.raises(ValueError, match="drop_second must lie in 0 … 1, got 2"):
        TrainingConfig(generated=1, drop_second=2)


def test_the_thread_that_makes_batches_ends_and_passes_errors_on():
    class Broken:
        def __getitem__(self, step):
            raise KeyError(step)

    batches = stream(TrainingBatches(TINY), range(6), 0)
    assert len(list(itertools.islice(batches, 3))) == 3
    batches.close()
    with pytest.raises(KeyError):
        next(stream(Broken(), range(1), 0))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.fixture
def store(tmp_path):
    return write_store(
        tmp_path / "val.h5", [make_record(true=60, false=40, seed=i) for i in range(3)]
    )


def test_validation_agrees_with_evaluate_pose(tmp_path, store):
    from n3match.pipelines.evaluation.pose_evaluation import evaluate_pose

    torch.manual_seed(0)
    net = MatchFilter(TINY.net)
    # All matches are kept: enough for a pose.
    torch.nn.init.constant_(net.trunk.head.bias, 5.0)
    save_weights(tmp_path / "net.safetensors", net)
    found = Validation([store], "opencv_usac", 2)(net, Processes())
    results = evaluate_pose(
        [store], filters=[str(tmp_path / "net.safetensors")], estimators=["opencv_usac"], limit=2,
        progress=False,
    )
    errors = np.array([r.error_deg for r in results])
    assert found["mAP@5"] == np.mean(errors < 5)
    assert found["precision"] == pytest.approx(np.mean([r.kept_right / r.kept for r in results]))
    assert net.training


class Scripted(FilterTask):
    """Validations give these mAP@5 by the step; `seen` are the weights that they saw."""

    def __init__(self, config, found):
        super().__init__(config)
        self.found, self.seen, self.done = found, {}, 0

    def losses(self, net, batch, step, processes):
        self.done = step + 1
        return super().losses(net, batch, step, processes)

    def validation(self):
        if not self.config.validation:
            return None

        def validate(net, processes):
            self.seen[self.done] = {name: t.clone() for name, t in net.state_dict().items()}
            return {"mAP@5": self.found[self.done], "mAP@10": 0.0, "mAP@20": 0.0}

        return validate


def test_best_weights_are_kept_and_the_run_stops(tmp_path, store):
    config = replace(TINY, validation=(str(store),), validate_every=1, patience=2, steps=60)
    task = Scripted(config, {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3})
    path = train(task, tmp_path / "run", device="cpu")
    marks = [row["mAP@5"] for row in rows(tmp_path / "run" / "validation.csv")]
    assert marks == ["0.1", "0.3", "0.2", "0.3"]
    assert len(rows(tmp_path / "run" / "log.csv")) == 4
    best = MatchFilter.from_pretrained(path).state_dict()
    assert all(torch.equal(best[name], task.seen[2][name]) for name in best)
    assert not torch.equal(task.seen[4]["trunk.head.weight"], best["trunk.head.weight"])
    # Started again, it is still over.
    before = (tmp_path / "run" / "log.csv").read_text()
    assert train(task, tmp_path / "run", device="cpu") == path
    assert (tmp_path / "run" / "log.csv").read_text() == before


class Dies(FilterTask):
    def losses(self, net, batch, step, processes):
        if step == 3:
            raise KeyboardInterrupt
        return super().losses(net, batch, step, processes)


def test_a_run_with_validation_resumes_to_the_same_end(tmp_path, store):
    config = replace(TINY, validation=(str(store),), validate_every=2, validation_pairs=2)
    train(FilterTask(config), tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(Dies(config), tmp_path / "cut", device="cpu")
    train(FilterTask(config), tmp_path / "cut", device="cpu")
    for name in ("log.csv", "validation.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()
    whole, cut = (
        MatchFilter.from_pretrained(tmp_path / run / "filter.safetensors").state_dict()
        for run in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert [row["step"] for row in rows(tmp_path / "cut" / "validation.csv")] == ["2", "4", "6"]


@pytest.mark.parametrize("validated", [False, True])
def test_runs_of_version_0_1_go_on(tmp_path, store, validated):
    """Their options had other names, or weren't there; the best weights had a name of their own."""
    config = replace(TINY, ema=0.5, drop_keypoint_change=0.3)
    if validated:
        config = replace(config, validation=(str(store),), validate_every=2, patience=5)
    found = dict.fromkeys(range(7), 0.0) | {2: 0.5}

    class Scripts(Scripted, Dies):
        pass

    whole = train(Scripted(config, found), tmp_path / "whole", device="cpu")
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(Scripts(config, found), cut, save_every=2, device="cpu")
    state = torch.load(cut / "state.pt", weights_only=True)
    options = json.loads(state["config"])
    for new, old in (
        ("side_info", "side_information"), ("min_log_temperature", "coldest"),
        ("keypoint_change", "keypoint_shape"), ("drop_keypoint_change", "drop_shape"),
    ):
        options[old] = options.pop(new)
    del options["not_mutual"], options["drop_candidates"], options["hard"]
    torch.save(state | {"config": json.dumps(options)}, cut / "state.pt")
    if validated:
        (cut / "filter.safetensors").rename(cut / "best.safetensors")
    else:
        (cut / "filter.safetensors").unlink()
    resumed = train(Scripted(config, found), cut, device="cpu")
    assert rows(cut / "log.csv") == rows(tmp_path / "whole" / "log.csv")
    a, b = (MatchFilter.from_pretrained(path).state_dict() for path in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match=r"options: drop_keypoint_change 0\.3, here 0\.1; give"):
        train(Scripted(replace(config, drop_keypoint_change=0.1), found), cut)


def test_what_cannot_be_validated_on_is_named(tmp_path, store):
    with pytest.raises(ValueError, match=r"val\.h5 is trained on as well"):
        replace(TINY, pairs=(str(store),), validation=(str(store),))
    with pytest.raises(ValueError, match="patience: needs validation stores"):
        replace(TINY, patience=3)
    with pytest.raises(ValueError, match="estimators: 'magic' is none of"):
        config = replace(TINY, validation=(str(store),), validation_estimator="magic")
        train(FilterTask(config), tmp_path / "run")


class _RoundedLinear(torch.nn.Linear):
    """A linear layer as autocast computes it: operands and result are rounded to bfloat16."""

    def forward(self, x):
        bias = None if self.bias is None else _rounded(self.bias)
        return _rounded(torch.nn.functional.linear(_rounded(x), _rounded(self.weight), bias))


def _rounded(x):
    return x.to(torch.bfloat16).to(x.dtype)


def in_double(net, rounding=False):
    """A copy in float64; with `rounding`, linear layers alone lose what bfloat16 loses, but for
    those that see coordinates."""
    net = copy.deepcopy(net).double()
    if rounding:
        for name, module in net.named_modules():
            if type(module) is torch.nn.Linear and not name.endswith("lift"):
                module.__class__ = _RoundedLinear
    return net


def test_half_precision_stops_at_the_logits():
    torch.manual_seed(0)
    config = replace(TINY, refine=True, geometric_weight=0.5, essential_after=0)
    half = replace(config, precision="bfloat16")
    batch = TrainingBatches(config)[0]
    double = {n: t.double() if t.is_floating_point() else t for n, t in batch.items()}
    torch.manual_seed(1)
    net = MatchFilter(config.net)
    with torch.no_grad():
        truth = objective.run_network(in_double(net), double, config)
        expected = objective.run_network(in_double(net, rounding=True), double, config)
    out = objective.run_network(net, batch, half)
    assert out.logits.dtype == out.weights.dtype == out.essential.dtype == torch.float32

    def apart(a, b):  # in the first pass: the second is over other matches where logits differ
        difference = a.earlier_logits[0].double() - b.earlier_logits[0]
        return float(difference.detach()[batch["mask"]].square().mean().sqrt())

    # What is lost is what rounding before and after each linear layer loses, and no more: the sums
    # in between, which processors take in different orders, and all other layers add little.
    lost = apart(expected, truth)
    assert 0.5 * lost < apart(out, truth) < 1.5 * lost
    assert apart(out, expected) < 0.6 * lost

    total, numbers = objective.losses(net, batch, half, 0)
    total.backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())
    # The losses of these logits have float32's digits.
    logits = out.logits.detach().double()
    positive = (double["distances"] < config.label_threshold) & batch["mask"]
    weight = objective.importance(double, positive, config)
    wanted = classification_loss(logits, positive, batch["mask"], config.balance, weight)
    assert numbers["classification"].item() == pytest.approx(float(wanted), rel=1e-5)
    seen = (double["points0"], double["points1"], double["E"], positive, positive.sum(1) >= 8)
    wanted = geometric_loss(objective.essential_of(double, logits), *seen)
    assert numbers["geometric"].item() == pytest.approx(float(wanted), rel=1e-3)


def test_every_network_by_name_trains(tmp_path):
    config = replace(TINY, essential_after=0)
    batch = TrainingBatches(config)[0]
    for name in NETWORKS:
        net = MatchFilter(replace(config, network=name).net)
        objective.losses(net, batch, replace(config, network=name), 0)[0].backward()
        assert all(p.grad is not None for p in net.parameters())


def test_pruning_weights_are_fine_tuned_as_they_are(tmp_path):
    config = replace(TINY, network="n3-prune", refine=True)  # as the modern protocol says
    torch.manual_seed(0)
    before = MatchFilter(config.net)
    save_weights(tmp_path / "prune.safetensors", before)
    net = MatchFilter(config.net)
    load_initial(net, str(tmp_path / "prune.safetensors"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name])
    with pytest.raises(ValueError, match=r"initial: .* is a network of"):
        other = MatchFilter(replace(config, network="cnnet-prune").net)
        load_initial(other, str(tmp_path / "prune.safetensors"))


def test_a_verdict_on_all_is_learnt_on_stages_that_stay(tmp_path):
    """Weights of mutual matches alone become ones whose verdict is on all."""
    config = replace(TINY, network="n3-prune", mutual_only=True, steps=2)
    torch.manual_seed(0)
    save_weights(tmp_path / "mutual.safetensors", MatchFilter(config.net))
    before = MatchFilter.from_pretrained(tmp_path / "mutual.safetensors").state_dict()
    initial = str(tmp_path / "mutual.safetensors")
    config = replace(
        config, network="n3-prune-all", mutual_only=False, verdict_only=True, initial=initial
    )
    net = MatchFilter.from_pretrained(train(FilterTask(config), tmp_path / "run", device="cpu"))
    assert net.config.pruning.mutual_stages and not net.config.mutual_only
    changed = {n for n, t in net.state_dict().items() if n in before and not t.equal(before[n])}
    assert changed and not any(name.startswith("pruning.stages.") for name in changed)
    assert any(name.startswith("pruning.edges.") for name in net.state_dict())
    with pytest.raises(ValueError, match="verdict_only: wanted a network that prunes"):
        replace(config, network="n3")
    with pytest.raises(ValueError, match=r"verdict_only: .* weights to start from"):
        replace(config, initial="")


def test_hard_pairs_are_drawn_more_often(tmp_path):
    """By the share of right ones among the mutual matches: 20 of 20 + i wrong ones."""
    kept = [make_record(true=20, false=false, seed=i) for i, false in enumerate((0, 60))]
    store = write_store(tmp_path / "a.h5", kept)
    rng = np.random.default_rng(0)

    def share_of_hard(hard):
        data = RealPairs([store], hard=hard)
        return np.mean([len(data.draw(rng)["x"]) == 80 for _ in range(2000)])

    shares = [(record.distances_squared[record.mutual] < 1e-4).mean() for record in kept]
    for hard in (0.0, 0.5, 1.0):
        easy, difficult = (share**-hard for share in shares)
        assert share_of_hard(hard) == pytest.approx(difficult / (easy + difficult), abs=0.04)


def test_consensus_starts_as_the_network_without(tmp_path):
    torch.manual_seed(0)
    plain = MatchFilter(TINY.net).eval()
    save_weights(tmp_path / "plain.safetensors", plain)
    net = MatchFilter(replace(TINY, network="n3-consensus").net).eval()
    load_initial(net, str(tmp_path / "plain.safetensors"))
    batch = TrainingBatches(TINY)[0]
    batch["side_info"] = objective.side_info_of(batch, net.config)
    names = ("points0", "points1", "side_info", "mask", "keypoint_change")
    arguments = [batch[name] for name in names]
    torch.testing.assert_close(net.logits(*arguments), plain.logits(*arguments))
    block = net.trunk.n3_blocks["6"]
    torch.nn.init.normal_(block.consensus.out.weight)
    moved = net.logits(*arguments)
    assert not torch.allclose(moved, plain.logits(*arguments))
    torch.nn.init.normal_(block.place.weight)
    assert not torch.allclose(net.logits(*arguments), moved)


@pytest.mark.parametrize("network", ["n3", "n3-consensus"])
def test_second_pass_starts_as_a_copy_of_the_first(tmp_path, network):
    torch.manual_seed(0)
    plain = MatchFilter(replace(TINY, network=network).net).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_weights(tmp_path / "plain.safetensors", plain)
    net = MatchFilter(replace(TINY, network=network, refine=True).net).eval()
    load_initial(net, str(tmp_path / "plain.safetensors"))
    batch = TrainingBatches(TINY)[0]
    batch["side_info"] = objective.side_info_of(batch, net.config)
    # In float64: the second pass's first layer has two columns more, of weight zero, and sums of
    # other lengths are taken in another order, which these weights amplify.
    plain, net = plain.double(), net.double()
    columns = (batch[n] for n in ("points0", "points1", "side_info", "mask", "keypoint_change"))
    matches = net._inputs(*(t.double() if t.is_floating_point() else t for t in columns))
    first = plain.trunk(matches, batch["mask"])
    torch.testing.assert_close(net.trunk(matches, batch["mask"]), first)
    # Evidence of the first pass isn't looked at as yet.
    seen = torch.cat([matches, torch.randn(*matches.shape[:2], 2)], -1)
    torch.testing.assert_close(net.refinement.trunk(seen, batch["mask"]), first)


def test_keypoint_changes_are_added_to_one_plain_pass_alone(tmp_path):
    for fields in ({}, {"network": "n3-consensus"}, {"refine": True}):
        before = replace(TINY, keypoint_change=False, **fields)
        save_weights(tmp_path / "plain.safetensors", MatchFilter(before.net))
        net = MatchFilter(replace(before, keypoint_change=True).net)
        if not fields:
            load_initial(net, str(tmp_path / "plain.safetensors"))
            continue
        with pytest.raises(ValueError, match=r"initial: .* is a network of"):
            load_initial(net, str(tmp_path / "plain.safetensors"))


def test_looks_have_no_weights_and_each_is_learned_from(tmp_path):
    torch.manual_seed(0)
    config = replace(TINY, refine=True, geometric_weight=0.5, essential_weight=0, essential_after=0)
    save_weights(tmp_path / "one.safetensors", MatchFilter(config.net))
    twice = replace(config, refinements=2)
    net = MatchFilter(twice.net)
    load_initial(net, str(tmp_path / "one.safetensors"))
    assert net.config.refinements == 2
    batch = TrainingBatches(config)[0]
    once = MatchFilter(config.net)
    once.load_state_dict(net.state_dict())
    # The first two passes are the same, and a third adds its own losses.
    totals = [objective.losses(n.eval(), batch, c, 0)[0] for n, c in ((once, config), (net, twice))]
    out = objective.run_network(net, batch, twice)
    before = objective.run_network(once, batch, config).logits
    torch.testing.assert_close(before, out.earlier_logits[1])
    mask = mutual_mask(batch["side_info"], net.config, batch["mask"])
    positive = (batch["distances"] < twice.label_threshold) & mask
    weight = objective.importance(batch, positive, twice)
    usable = positive.sum(1) >= 8
    seen = (batch["points0"], batch["points1"], batch["E"], positive, usable)
    added = classification_loss(out.logits, positive, mask, twice.balance, weight)
    added = added + 0.5 * geometric_loss(out.essential, *seen)
    torch.testing.assert_close(totals[1] - totals[0], added)
    assert parse("--refinements", "3").net.refinements == 3
    with pytest.raises(ValueError, match="refinements: 3 of them need refine, got False"):
        parse("--no-refine", "--refinements", "3")
    with pytest.raises(ValueError, match="refinements: n3-prune has stages in their place, got 2"):
        parse("--network", "n3-prune", "--refinements", "2")
    assert not parse("--network", "n3-prune").net.refine


def test_fine_tuning_looks_as_often_as_the_weights_did(tmp_path):
    config = replace(TINY, refine=True, refinements=3)
    save_weights(tmp_path / "three.safetensors", MatchFilter(config.net))
    tuned = replace(TINY, refine=True, initial=str(tmp_path / "three.safetensors"), steps=1)
    path = train(FilterTask(tuned), tmp_path / "run")
    assert MatchFilter.from_pretrained(path).config.refinements == 3
    assert with_refinements(replace(tuned, refinements=2)).refinements == 2
    assert with_refinements(replace(tuned, initial="")).net.refinements == 1


def test_a_bound_of_temperatures_has_no_weights(tmp_path):
    save_weights(tmp_path / "plain.safetensors", MatchFilter(TINY.net))
    net = MatchFilter(replace(TINY, min_log_temperature=-4.0).net)
    load_initial(net, str(tmp_path / "plain.safetensors"))
    assert net.config.min_log_temperature == net.trunk.n3_blocks["6"].min_log_temperature == -4.0
    assert parse().net.min_log_temperature == -4.0
    assert parse("--min-log-temperature=-inf").net.min_log_temperature is None
    published = parse("--protocol", "published", "--pairs", "a.h5")
    assert published.net.min_log_temperature is None


def test_tensorboard_has_the_numbers_where_it_is_installed(tmp_path, store):
    config = replace(TINY, validation=(str(store),), validate_every=3, validation_pairs=1)
    train(FilterTask(config), tmp_path, device="cpu")
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
