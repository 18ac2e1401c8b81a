"""The trunk's blocks in place, as without gradients on a CPU, against the blocks as written."""

import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig, PruningConfig
from n3match.nn.passes import ResidualBlock

pytestmark = pytest.mark.arithmetic

SMALL = {"width": 16, "blocks": 4, "embedding_width": 8, "embedding_channels": 4}


@pytest.mark.parametrize(
    "config",
    [
        MatchFilterConfig(**SMALL, n3_after=()),
        MatchFilterConfig(
            **SMALL, n3_after=(1, 3), consensus=True, keypoint_change=True,
            min_log_temperature=-1.0, refine=True, refinements=2,
            side_info=("ratio", "mutual"), mutual_only=True,
        ),
    ],
)
@pytest.mark.parametrize("counts", [(70, 70), (70, 41)])
def test_in_place_is_the_same(config, counts, in_place):
    torch.manual_seed(0)
    net = MatchFilter(config).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # what normalisation takes away
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.3, 2.0)
    net.eval()
    points = torch.rand(2, 70, 4, dtype=torch.float64)
    side_info = torch.rand(2, 70, 2, dtype=torch.float64).round() if config.side_info else None
    change = torch.randn(2, 70, 3, dtype=torch.float64)
    mask = torch.arange(70) < torch.tensor(counts)[:, None]
    arguments = (points[..., :2], points[..., 2:], side_info, mask, change)
    before = points.clone(), change.clone()
    wanted = net.logits(*arguments)
    assert wanted.requires_grad  # the blocks as written
    assert not in_place
    with torch.inference_mode():
        found = net.logits(*arguments)
    assert len(in_place) == 4 * (1 + config.refine * config.refinements)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-9)
    assert found[mask].unique().numel() > 40
    torch.testing.assert_close((points, change), before, rtol=0, atol=0)


def test_what_is_not_plain_is_left_as_written(in_place):
    torch.manual_seed(0)
    net = MatchFilter(MatchFilterConfig(**SMALL, n3_after=())).eval()
    points = torch.rand(1, 50, 4)
    arguments = (points[..., :2], points[..., 2:])

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with torch.no_grad():
        plain = net.logits(*arguments)
        assert len(in_place) == 4
        with torch.autocast("cpu", torch.bfloat16):
            net.logits(*arguments)
        net.trunk.blocks[1].linear1 = Doubled(16, 16)
        assert not torch.allclose(net.logits(*arguments), plain)
    assert len(in_place) == 4


@pytest.mark.parametrize(
    ("network", "whole"),
    [
        ({"n3_after": ()}, {"trunk.lift"}),
        (
            {"n3_after": (2,), "consensus": True},
            {
                "trunk.lift", "trunk.consensus.place", "trunk.consensus.temperature",
                "trunk.n3_blocks.2.place",
            },
        ),
        (
            {"n3_after": (), "pruning": PruningConfig(widths=(16, 16), blocks=1)},
            {
                "pruning.judge",
                *(f"pruning.stages.{i}.{n}" for i in (0, 1) for n in ("lift", "edges.place")),
            },
        ),
    ],
)
def test_coordinates_keep_their_digits_under_autocast(network, whole):
    """Layers that see coordinates answer as they do without autocast; the others are in
    bfloat16."""
    torch.manual_seed(0)
    net = MatchFilter(MatchFilterConfig(**SMALL, **network)).eval()
    seen = {}
    for name, module in net.named_modules():
        if type(module) is torch.nn.Linear:
            module.register_forward_hook(
                lambda layer, given, out, name=name: seen.update({name: (layer, given[0], out)})
            )
    points = torch.rand(1, 100, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net.logits(points[..., :2], points[..., 2:])
    assert {name for name, (*_, out) in seen.items() if out.dtype == torch.float32} == whole
    for layer, given, out in (seen[name] for name in whole):
        torch.testing.assert_close(out, layer(given), rtol=0, atol=0)


def test_points_in_half_precision_under_autocast():
    torch.manual_seed(0)
    net = MatchFilter(MatchFilterConfig(**SMALL, n3_after=())).eval()
    points = torch.rand(1, 50, 4).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = net.logits(points[..., :2], points[..., 2:])
        wanted = net.logits(points[..., :2].float(), points[..., 2:].float())
    torch.testing.assert_close(logits.float(), wanted.float(), rtol=0.02, atol=0.02)


@pytest.fixture
def in_place(monkeypatch):
    """The blocks that were run in place, so far."""
    calls = []
    run = ResidualBlock.in_place
    monkeypatch.setattr(
        ResidualBlock, "in_place", lambda self, *given: calls.append(self) or run(self, *given)
    )
    return calls


def test_training_statistics_without_gradients_are_kept():
    torch.manual_seed(0)
    net = MatchFilter(MatchFilterConfig(**SMALL, n3_after=())).train()
    points = torch.rand(1, 50, 4)
    with torch.no_grad():
        net.logits(points[..., :2], points[..., 2:])
    changed = [b for n, b in net.named_buffers() if n.endswith("running_var")]
    assert all(not torch.equal(b, torch.ones_like(b)) for b in changed)
