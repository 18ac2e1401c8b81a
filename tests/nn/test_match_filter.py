"""The match filter: published shapes, equivariance to order and padding, ragged lists, refusals."""

from dataclasses import replace
from pathlib import Path

import prepared
import pytest
import torch
from putative_scenes import K0, K1, make_scene

from n3match.geometry import undistort_points
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter, MatchFilterConfig
from n3match.two_view import PairMatches, logits_of_many
from n3match.weights import save_weights

pytestmark = pytest.mark.arithmetic

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"width": 16, "blocks": 4, "embedding_width": 8, "embedding_channels": 4}
CONFIGS = [
    MatchFilterConfig(**SMALL, n3_after=()),
    MatchFilterConfig(**SMALL, n3_after=(2,)),
    MatchFilterConfig(**SMALL, n3_after=(1, 3), side_info=("ratio", "mutual")),
    MatchFilterConfig(**SMALL, n3_after=(2,), refine=True),
    MatchFilterConfig(**SMALL, n3_after=(2,), consensus=True, side_info=("ratio", "mutual")),
]


def _net(config, dtype=torch.float64):
    torch.manual_seed(0)
    net = MatchFilter(config)
    # Running variances other than 1, as after training.
    for module in net.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 1.0)
    for parameter in net.parameters():
        if not parameter.any():  # parts that start without effect
            torch.nn.init.normal_(parameter, std=0.3)
    # Positive weights for most matches, so that they determine an essential matrix.
    torch.nn.init.ones_(net.trunk.head.bias)
    if config.refine:
        torch.nn.init.ones_(net.refinement.trunk.head.bias)
    return net.to(dtype).eval()


def _matches(b, n, config, dtype=torch.float64, seed=1):
    gen = torch.Generator().manual_seed(seed)
    points0, points1 = torch.randn(2, b, n, 2, generator=gen, dtype=dtype)
    side_info = None
    if config.side_info:
        side_info = torch.rand(b, n, len(config.side_info), generator=gen, dtype=dtype)
    return points0, points1, side_info


def test_published_networks():
    """CNNet: 4→128, twelve blocks of two 128→128, 128→1. N³: block 6 ends in 32 channels, plus
    two nets of three layers."""
    layer = 128 * 128 + 128
    cnnet = MatchFilter(MatchFilterConfig(n3_after=()))
    assert sum(p.numel() for p in cnnet.parameters()) == 4 * 128 + 128 + 24 * layer + 129
    n3 = MatchFilter(MatchFilterConfig())
    narrow = (128 * 32 + 32) + (32 * 32 + 32)
    embedding = (32 * 128 + 128) + layer + (128 * 32 + 32)
    temperature = (32 * 128 + 128) + layer + 129
    assert sum(p.numel() for p in n3.parameters()) == (
        4 * 128 + 128 + 22 * layer + narrow + embedding + temperature + 129
    )


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("training", [False, True])
def test_match_order_does_not_matter(config, training):
    net = _net(config).train(training)
    points0, points1, side_info = _matches(2, 23, config)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(2))
    out = net(points0, points1, side_info)
    shuffled = None if side_info is None else side_info[:, order]
    again = net(points0[:, order], points1[:, order], shuffled)
    torch.testing.assert_close(again.logits, out.logits[:, order])
    torch.testing.assert_close(again.weights, out.weights[:, order])
    sign = (again.essential * out.essential).sum((1, 2)).sign()[:, None, None]
    torch.testing.assert_close(again.essential * sign, out.essential)


@pytest.mark.parametrize("config", CONFIGS)
def test_padding_does_not_matter(config):
    """A ragged batch gives each pair what it gets alone, whatever the padding holds."""
    net = _net(config)
    points0, points1, side_info = _matches(3, 19, config)
    counts = (19, 12, 1)
    mask = torch.arange(19) < torch.tensor(counts)[:, None]
    padded = [None if t is None else t.clone() for t in (points0, points1, side_info)]
    for tensor in padded:
        if tensor is not None:
            tensor[~mask] = float("nan")
    out = net(*padded, mask=mask)
    assert (out.logits[~mask] == float("-inf")).all()
    assert (out.weights[~mask] == 0).all()
    for i, count in enumerate(counts):
        alone = net(
            points0[i : i + 1, :count],
            points1[i : i + 1, :count],
            None if side_info is None else side_info[i : i + 1, :count],
        )
        torch.testing.assert_close(out.logits[i, :count], alone.logits[0])


@pytest.mark.parametrize("config", CONFIGS)
def test_training_batch_ignores_padding(config):
    """In training the batch statistics, hence all gradients, must ignore padding too."""
    points0, points1, side_info = _matches(2, 15, config)
    mask = torch.arange(15) < torch.tensor([15, 9])[:, None]
    grads = []
    for filler in (0.0, 7.0):
        net = _net(config).train()
        p0 = points0.masked_fill(~mask[..., None], filler)
        net(p0, points1, side_info, mask).weights.square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads))
    assert any(g.abs().max() > 0 for g in grads[0])


def test_every_parameter_learns():
    net = _net(CONFIGS[2]).train()
    points0, points1, side_info = _matches(2, 40, CONFIGS[2])
    net(points0, points1, side_info).logits.square().sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # The last block's biases and such vanish in a mean subtraction: biases before a context norm.
    assert all(name.endswith(("linear1.bias", "linear2.bias")) for name in dead), dead


def test_backward_is_finite_when_all_matches_are_one():
    net = _net(CONFIGS[2]).train()
    points = torch.zeros(1, 30, 2, dtype=torch.float64)
    out = net(points, points)
    (out.essential.sum() + out.logits.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_float32_close_to_float64():
    config = CONFIGS[2]
    points0, points1, side_info = _matches(1, 50, config)
    exact = _net(config)(points0, points1, side_info).logits
    rough = _net(config, torch.float32)(points0.float(), points1.float(), side_info.float()).logits
    torch.testing.assert_close(rough.double(), exact, rtol=1e-4, atol=1e-4)


def test_no_matches():
    out = _net(CONFIGS[2])(torch.zeros(2, 0, 2).double(), torch.zeros(2, 0, 2).double())
    assert out.logits.shape == (2, 0)
    assert torch.isfinite(out.essential).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"points0": torch.zeros(5, 2)}, ValueError, r"points0 must have shape \(B, N, 2\)"),
        ({"points1": torch.zeros(1, 4, 2)}, ValueError, "one shape"),
        ({"points0": torch.zeros(1, 5, 2, dtype=torch.int32)}, TypeError, "points0 must be float"),
        ({"points0": torch.full((1, 5, 2), float("nan"))}, ValueError, "points0 holds NaN"),
        ({"points1": torch.full((1, 5, 2), 1e20)}, ValueError, "points1 holds numbers as far"),
        ({"side_info": torch.zeros(1, 5, 6)}, ValueError, "side_info must have shape"),
        (
            {"keypoint_change": torch.zeros(1, 5, 2)}, ValueError,
            r"keypoint_change must have shape \(B, N, 3\)",
        ),
        ({"keypoint_change": torch.full((1, 5, 3), torch.nan)}, ValueError, "change holds NaN"),
        ({"mask": torch.zeros(1, 5)}, ValueError, "mask must be bool"),
        ({"points0": [[1, 2]]}, TypeError, "points0 must be a torch.Tensor"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {"points0": torch.zeros(1, 5, 2), "points1": torch.zeros(1, 5, 2)}
    with pytest.raises(error, match=message):
        _net(CONFIGS[2], torch.float32)(**{**good, **change})


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0}, {"n3_after": (12,)}, {"n3_after": (0,)}, {"width": 30}, {"neighbours": 0},
        {"refined_share": 0.0}, {"refined_share": 1.5},
    ],
)
def test_impossible_configurations(options):
    with pytest.raises(ValueError, match=r"width|n3_after|neighbours|refined_share"):
        MatchFilterConfig(**options)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MatchFilter(
        MatchFilterConfig(
            width=16, blocks=3, n3_after=(2,), embedding_width=8, embedding_channels=4,
            side_info=("ratio", "mutual"), keypoint_change=True, mutual_only=True,
        )
    ).eval()


@pytest.mark.parametrize("batch_matches", [1, 130, 1 << 15])
def test_pairs_of_unequal_length_are_as_if_alone(net, batch_matches):
    gen = torch.Generator().manual_seed(1)
    lengths = [40, 0, 7, 61, 1, 40]
    points0, points1, side_info = (
        [torch.rand(n, 2, generator=gen).round(decimals=1) for n in lengths] for _ in range(3)
    )
    change = [torch.rand(n, 3, generator=gen) for n in lengths]
    calls = []
    hook = net.trunk.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    with torch.inference_mode():
        found = net.logits_of_many(points0, points1, side_info, change, batch_matches=batch_matches)
        hook.remove()
        for i, n in enumerate(lengths):
            assert found[i].shape == (n,)
            if n:
                wanted = net.logits(
                    points0[i][None], points1[i][None], side_info[i][None], None, change[i][None]
                )
                torch.testing.assert_close(found[i], wanted[0], rtol=1e-4, atol=1e-5)
    assert calls == {1: [1] * 5, 130: [2, 3], 1 << 15: [5]}[batch_matches]


def test_lists_that_do_not_fit_are_named(net):
    points = [torch.rand(4, 2), torch.rand(5, 2)]
    with pytest.raises(ValueError, match="points1 must have a row"):
        net.logits_of_many(points, points[::-1])
    with pytest.raises(ValueError, match="side_info must have a row"):
        net.logits_of_many(points, points, points[:1])
    with pytest.raises(ValueError, match="batch_matches"):
        net.logits_of_many(points, points, batch_matches=0)
    assert net.logits_of_many([], []) == []


def test_torch_hub(tmp_path):
    code = (
        f"import torch; net = torch.hub.load({str(ROOT)!r}, 'match_filter', source='local'); "
        "assert not net.training; print(type(net).__name__, *net.side_info)"
    )
    assert prepared.run(code, tmp_path / "output") == 0
    assert (tmp_path / "output").read_text().split() == ["MatchFilter", *SIDE_INFO]


def test_how_many_refinement_passes_may_be_chosen(tmp_path):
    torch.manual_seed(0)
    config = MatchFilterConfig(
        width=16, blocks=3, n3_after=(2,), embedding_width=8, embedding_channels=4, refine=True
    )
    points = torch.rand(1, 200, 4)
    two, one = tmp_path / "two.safetensors", tmp_path / "one.safetensors"
    save_weights(two, MatchFilter(config))
    save_weights(one, MatchFilter(replace(config, refine=False)))
    nets = [MatchFilter.from_pretrained(two, refinements=n) for n in (None, 1, 3)]
    outputs = [net(points[..., :2], points[..., 2:]) for net in nets]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits)
    torch.testing.assert_close(outputs[0].logits, outputs[2].earlier_logits[1])
    assert len(outputs[2].earlier_logits) == 3
    with pytest.raises(ValueError, match=r"refinements: .*one\.safetensors has no .* pass, got 2"):
        MatchFilter.from_pretrained(one, refinements=2)
    with pytest.raises(ValueError, match="refinements must be at least 1, got 0"):
        MatchFilter.from_pretrained(two, refinements=0)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("name", ["sift", "sift-cnnet"])
def test_half_precision_keeps_the_same_matches(dtype, name):
    scene = make_scene(150, 350, seed=1)
    points = [undistort_points(p, K) for p, K in ((scene.points0, K0), (scene.points1, K1))]
    pair = PairMatches(*points, scene.side_info)
    net = MatchFilter.from_pretrained(name)
    (wanted,) = logits_of_many(net, [pair])
    net = net.to(dtype)
    assert next(net.parameters()).dtype == dtype and net.dtype == torch.float32
    (found,) = logits_of_many(net, [pair])
    assert ((found > 0) == (wanted > 0)).mean() > 0.97
    given = [torch.from_numpy(p)[None].to(dtype) for p in (*points, scene.side_info)]
    out = net(*given)
    assert out.essential.isfinite().all()
    assert ((out.logits[0].detach().numpy() > 0) == (wanted > 0)).mean() > 0.9
