"""The classifier: published shapes, equivariance to order and padding, clear refusals."""

import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig

pytestmark = pytest.mark.arithmetic

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
        ({"side_info": torch.zeros(1, 5, 3)}, ValueError, "side_info must have shape"),
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
