"""The pruning filter: what its stages look at, equivariance, padding, what learns."""

from dataclasses import asdict, replace

import pytest
import torch

from n3match import MatchFilter, export_program
from n3match.export import input_names
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilterConfig, PruningConfig
from n3match.nn.pruning import GlobalGraph, better

SMALL = PruningConfig(
    widths=(16, 12, 8), blocks=1, neighbours=3, embedding_channels=6, value_channels=5,
    verdict_width=8,
)
CONFIG = MatchFilterConfig(
    pruning=SMALL, side_info=SIDE_INFO, keypoint_change=True, min_log_temperature=-4.0
)
ON_ALL = replace(SMALL, mutual_stages=True, verdict_neighbours=2)
SELECTIONS = ["n3", "knn", "concrete", "none"]


def make_net(selection="n3", dtype=torch.float64, pruning=SMALL, **options):
    torch.manual_seed(0)
    config = replace(CONFIG, pruning=replace(pruning, selection=selection), **options)
    net = MatchFilter(config)
    for module in net.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 1.0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "temperature" in name:
                parameter.normal_(std=0.3)
        for stage in net.pruning.stages:  # so that many are kept
            stage.head.bias += 1
        net.pruning.head.bias += 1
    return net.to(dtype).eval()


def make_matches(b, n, dtype=torch.float64, seed=1):
    gen = torch.Generator().manual_seed(seed)
    points0, points1 = torch.rand(2, b, n, 2, generator=gen, dtype=dtype) - 0.5
    side_info = torch.rand(b, n, len(SIDE_INFO), generator=gen, dtype=dtype)
    side_info[..., 1] = (side_info[..., 1] < 0.6).to(dtype)
    change = torch.rand(b, n, 3, generator=gen, dtype=dtype) - 0.5
    known = {"side_info": side_info, "keypoint_change": change}
    return {"points0": points0, "points1": points1, **known}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("count", "looked_at"), [(300, [300, 150, 75]), (50, [50, 32, 32])])
def test_each_stage_looks_at_the_better_half(selection, count, looked_at):
    out = make_net(selection)(**make_matches(2, count))
    looked = [logits.isfinite() for logits in out.earlier_logits]
    assert [chosen.sum(1).tolist() for chosen in looked] == [[m, m] for m in looked_at]
    assert bool(out.logits.isfinite().all())
    for before, chosen in zip(out.earlier_logits, looked[1:]):
        for row, kept in zip(before, chosen):
            left_out = row[~kept]
            assert not len(left_out) or row[kept].min() >= left_out.max()


@pytest.mark.parametrize(
    ("selection", "pruning"), [("n3", SMALL), ("n3", ON_ALL), ("knn", SMALL), ("none", SMALL)]
)
@pytest.mark.parametrize("training", [False, True])
def test_match_order_does_not_matter(selection, pruning, training):
    net = make_net(selection, pruning=pruning).train(training)
    matches = make_matches(2, 80)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    out = net(**matches)
    again = net(**{name: t[:, order] for name, t in matches.items()})
    torch.testing.assert_close(again.logits, out.logits[:, order])
    for first, second in zip(out.earlier_logits, again.earlier_logits, strict=True):
        torch.testing.assert_close(second, first[:, order])


@pytest.mark.parametrize(
    ("selection", "pruning"), [("n3", SMALL), ("n3", ON_ALL), ("none", SMALL)]
)
def test_padding_does_not_matter(selection, pruning):
    """A ragged batch gives each pair what it gets alone, down to no match at all."""
    net = make_net(selection, pruning=pruning)
    matches, counts = make_matches(6, 90), (90, 70, 33, 7, 1, 0)
    mask = torch.arange(90) < torch.tensor(counts)[:, None]
    padded = {name: t.clone() for name, t in matches.items()}
    for tensor in padded.values():
        tensor[~mask] = float("nan")
    out = net(**padded, mask=mask)
    for logits in (out.logits, *out.earlier_logits):
        assert bool((logits[~mask] == float("-inf")).all())
    for i, count in enumerate(counts):
        alone = net(**{name: t[i : i + 1, :count] for name, t in matches.items()})
        torch.testing.assert_close(out.logits[i, :count], alone.logits[0])
        for padded_logits, logits in zip(out.earlier_logits, alone.earlier_logits):
            torch.testing.assert_close(padded_logits[i, :count], logits[0])


@pytest.mark.parametrize("pruning", [SMALL, ON_ALL])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9])
def test_few_matches_are_fine_forth_and_back(count, pruning):
    net = make_net(pruning=pruning).train()
    out = net(**make_matches(1, count))
    total = sum(logits[logits.isfinite()].sum() for logits in (out.logits, *out.earlier_logits))
    (total + out.essential.sum()).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients and all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize(
    ("selection", "pruning"), [("n3", SMALL), ("n3", ON_ALL), ("concrete", SMALL)]
)
def test_the_choice_of_neighbours_learns(selection, pruning):
    """Gradients reach the embedding and the temperature of every stage, and all else but what a
    mean subtraction takes away again."""
    net = make_net(selection, pruning=pruning).train()
    out = net(**make_matches(2, 120))
    sum(x[x.isfinite()].square().mean() for x in (out.logits, *out.earlier_logits)).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith(("linear1.bias", "linear2.bias")) for name in dead), dead


def test_hard_neighbours_teach_the_embedding_nothing():
    net = make_net("knn").train()
    out = net(**make_matches(2, 120))
    sum(x[x.isfinite()].square().mean() for x in (out.logits, *out.earlier_logits)).backward()
    edges = net.pruning.stages[0].edges
    assert edges.embedding.weight.grad is None or not edges.embedding.weight.grad.any()
    assert edges.value.weight.grad.any()


def test_noise_is_drawn_in_training_alone():
    net, matches = make_net("concrete"), make_matches(1, 60)
    torch.testing.assert_close(net.logits(**matches), net.logits(**matches))
    net.train()
    first = net.logits(**matches)
    assert not torch.allclose(net.logits(**matches), first)


def test_the_global_graph_is_the_product_with_a_matrix_of_rank_one():
    torch.manual_seed(1)
    graph, x = GlobalGraph(6).double(), torch.randn(2, 9, 6, dtype=torch.float64)
    w = torch.sigmoid(graph.weight(x))
    joined = (w @ w.mT) / w.square().sum(1, keepdim=True)
    # Every row of the product is a multiple of one vector, w of it: the bias is so weighted, too.
    bias = torch.relu((joined @ x) / w @ graph.linear.weight.T + graph.linear.bias)
    torch.testing.assert_close(graph(x, None), x + w * bias)


@pytest.mark.parametrize("counts", [(40, 17), (100, 0)])
def test_better_halves_of_ragged_pairs(counts):
    logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(100) < torch.tensor(counts)[:, None]
    chosen, real = better(logits.masked_fill(~mask, float("-inf")), mask, 0.5)
    wanted = [min(count, max(32, -(-count // 2))) for count in counts]
    assert real.sum(1).tolist() == wanted
    for row, places, there, count in zip(logits, chosen, real, wanted):
        assert set(places[there].tolist()) <= set(range(100))
        best = row[: max(counts)] if count else row[:0]
        assert not count or row[places[there]].min() >= best[: len(best)].min()


def test_mutual_ones_are_judged_as_if_alone():
    plain, strict = make_net(), make_net(mutual_only=True)
    matches = make_matches(1, 150)
    mutual = matches["side_info"][0, :, 1] > 0
    found = strict(**matches)
    wanted = plain(**{name: t[:, mutual] for name, t in matches.items()})
    torch.testing.assert_close(found.logits[0, mutual], wanted.logits[0])
    assert bool((found.logits[0, ~mutual] < 0).all())


def test_stages_keep_to_mutual_matches_and_the_verdict_is_on_all():
    plain, judge = make_net(), make_net(pruning=ON_ALL)
    judge.pruning.stages.load_state_dict(plain.pruning.stages.state_dict())
    matches = make_matches(2, 150)
    mutual = matches["side_info"][..., 1] > 0
    assert mutual[0].sum() != mutual[1].sum()  # ragged
    out = judge(**matches)
    assert bool(out.logits.isfinite().all())
    for pair in range(2):
        alone = {name: t[pair : pair + 1, mutual[pair]] for name, t in matches.items()}
        for found, wanted in zip(out.earlier_logits, plain(**alone).earlier_logits, strict=True):
            torch.testing.assert_close(found[pair, mutual[pair]], wanted[0])
            assert bool((found[pair, ~mutual[pair]] == float("-inf")).all())
    # Where no match is known to be mutual the stages look at all.
    matches["side_info"][..., 1] = 0
    assert bool(judge(**matches).earlier_logits[0].isfinite().all())


def test_the_verdict_sees_how_the_last_stages_matches_move():
    """A match of its own place and kind is judged by what those beside it do."""
    net, matches = make_net(pruning=ON_ALL), make_matches(1, 120)
    seen = []
    net.pruning.edges.register_forward_hook(lambda _, given, out: seen.append((*given, out)))
    net(**matches)
    x, columns, real, place, out = seen[0]
    assert real is None and place.shape == (1, 32)  # the last stage's, of 120
    others = [i for i in range(120) if i not in place[0]]
    moved = columns.clone()
    moved[0, others[:50]] += 0.3  # nobody's neighbours: the rest see no difference
    again = net.pruning.edges(x, moved, real, place)
    torch.testing.assert_close(again[0, others[50:]], out[0, others[50:]])
    moved[0, place[0, 0]] += 0.3
    assert not torch.allclose(net.pruning.edges(x, moved, real, place)[0, others[50:]],
                              out[0, others[50:]])  # fmt: skip


def test_frozen_stages_stay_as_they_are():
    net = make_net(pruning=ON_ALL)
    net.pruning.freeze_stages()
    before = {name: t.clone() for name, t in net.pruning.stages.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net.train()
    logits = net(**make_matches(2, 90))
    assert not any(earlier.requires_grad for earlier in logits.earlier_logits)
    logits.logits.square().mean().backward()
    optimizer.step()
    assert all(torch.equal(t, before[n]) for n, t in net.pruning.stages.state_dict().items())
    assert net.pruning.edges.embedding.weight.grad.any()


def test_unknown_columns_are_neutral():
    net, matches = make_net(), make_matches(1, 40)
    known = net.logits(matches["points0"], matches["points1"])
    neutral = torch.tensor([1.0, 0, 1, 0, 0]).double().expand(1, 40, 5)
    nothing = torch.zeros(1, 40, 3).double()
    torch.testing.assert_close(net.logits(matches["points0"], matches["points1"], neutral,
                                         keypoint_change=nothing), known)  # fmt: skip


def test_a_configuration_comes_back_from_json(tmp_path):
    from n3match.weights import save_weights

    net = make_net(dtype=torch.float32)
    assert MatchFilterConfig(**asdict(net.config)) == net.config
    save_weights(tmp_path / "prune.safetensors", net)
    again = MatchFilter.from_pretrained(tmp_path / "prune.safetensors")
    matches = make_matches(1, 70, torch.float32)
    torch.testing.assert_close(again.logits(**matches), net.logits(**matches))


@pytest.mark.parametrize("options", [{"mutual_only": True}, {"pruning": ON_ALL}])
def test_the_exported_graph_says_the_same(options):
    net = make_net(dtype=torch.float32, **options)
    program = export_program(net).module()
    for b, n in ((2, 130), (1, 75)):
        given = make_matches(b, n, torch.float32, seed=n)
        given["mask"] = torch.arange(n).expand(b, n) < n - 9
        with torch.inference_mode():
            wanted = net.logits(**given)
        found = program(*(given[name] for name in input_names(net)))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "nearest"}, "selection"), ({"widths": ()}, "widths"),
        ({"widths": (8, 0)}, "widths"), ({"neighbours": 0}, "neighbours"),
        ({"kept_share": 0.0}, "kept_share"), ({"verdict_neighbours": -1}, "verdict_neighbours"),
        ({"verdict_neighbours": 2, "selection": "none"}, "verdict_neighbours"),
    ],
)
def test_impossible_configurations(options, message):
    with pytest.raises(ValueError, match=message):
        PruningConfig(**options)


def test_mutual_stages_need_the_mutual_flag():
    with pytest.raises(ValueError, match="mutual_stages"):
        replace(CONFIG, pruning=ON_ALL, side_info=("ratio",))


def test_a_second_pass_has_no_place_beside_it():
    with pytest.raises(ValueError, match="refine"):
        MatchFilter(replace(CONFIG, refine=True))
