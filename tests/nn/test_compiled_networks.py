"""Networks as one compiled graph, with the gradients and statistics of the uncompiled ones."""

import copy

import pytest
import torch

from n3match.nn import MatchFilter, MatchFilterConfig, PruningConfig
from n3match.nn.image_n3_block import ImageN3Block
from n3match.nn.n3_block import PointN3Block
from n3match.nn.n3net import N3Net, N3NetConfig

SMALL = MatchFilterConfig(
    width=16, blocks=3, n3_after=(2,), embedding_width=8, embedding_channels=4
)


def _loss(found):
    """Of a tensor, or of the logits that aren't −inf, and the essential matrix up to its sign."""
    if isinstance(found, torch.Tensor):
        return found.square().sum()
    total = found.essential[:, 0].square().sum()
    for logits in (*found.earlier_logits, found.logits):
        total = total + logits.masked_fill(logits.isinf(), 0.0).square().sum()
    return total


def _agree(net, *arguments, **options):
    torch.compiler.reset()
    twin = copy.deepcopy(net)
    plain = _loss(net(*arguments, **options))
    graph = torch.compile(twin, fullgraph=True, backend="aot_eager")
    compiled = _loss(graph(*arguments, **options))
    torch.testing.assert_close(compiled, plain)
    plain.backward()
    compiled.backward()
    for a, b in zip(twin.parameters(), net.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-6)
    for a, b in zip(twin.buffers(), net.buffers()):
        torch.testing.assert_close(a, b)


def test_n3_block():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 11, 8), torch.rand(2, 11) > 0.2
    _agree(PointN3Block(8, 2, 8, 4), x, mask)


@pytest.mark.parametrize("training", [True, False])
def test_image_block(training):
    torch.manual_seed(0)
    block = ImageN3Block(2, 3, patch_size=4, stride=2, window=3, embedding_features=4)
    _agree(block.train(training), torch.randn(1, 2, 14, 19))


@pytest.mark.parametrize("training", [True, False])
def test_match_filter(training):
    torch.manual_seed(0)
    points0, points1 = torch.randn(2, 23, 2).double(), torch.randn(2, 23, 2).double()
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, 15:] = False
    net = MatchFilter(SMALL).double().train(training)
    torch.nn.init.constant_(net.trunk.head.bias, 3.0)  # enough positive weights for a matrix
    _agree(net, points0, points1, mask=mask)


def test_filter_that_prunes():
    torch.manual_seed(0)
    config = MatchFilterConfig(
        pruning=PruningConfig(
            widths=(8, 6), blocks=1, neighbours=2, embedding_channels=4, value_channels=3,
            verdict_width=4,
        )
    )
    net = MatchFilter(config).double()
    for head in (net.pruning.head, *(stage.head for stage in net.pruning.stages)):
        torch.nn.init.constant_(head.bias, 3.0)
    _agree(net, torch.randn(2, 43, 2).double(), torch.randn(2, 43, 2).double())


def test_denoiser():
    torch.manual_seed(0)
    net = N3Net(
        N3NetConfig(
            local_networks=2, depth=2, features=4, block_channels=2, neighbours=2, patch_size=4,
            stride=2, window=3, embedding_features=4,
        )
    )
    _agree(net, torch.rand(1, 1, 14, 19))
