"""The trunk's blocks in place, as without gradients on a CPU, against the blocks as written."""

import pytest
import torch

from n3match.nn import ClassifierConfig, MatchClassifier

SMALL = {"width": 16, "blocks": 4, "embedding_width": 8, "embedding_channels": 4}


@pytest.mark.parametrize(
    "config",
    [
        ClassifierConfig(**SMALL, n3_after=()),
        ClassifierConfig(
            **SMALL, n3_after=(1, 3), consensus=True, keypoint_shape=True, coldest=-1.0,
            refine=True, refinements=2, side_information=("ratio", "mutual"), mutual_only=True,
        ),
    ],
)
@pytest.mark.parametrize("counts", [(70, 70), (70, 41)])
def test_in_place_is_the_same(config, counts):
    torch.manual_seed(0)
    net = MatchClassifier(config).double()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # what normalisation takes away
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.3, 2.0)
    net.eval()
    points = torch.rand(2, 70, 4, dtype=torch.float64)
    side = torch.rand(2, 70, 2, dtype=torch.float64).round() if config.side_information else None
    shape = torch.randn(2, 70, 3, dtype=torch.float64)
    mask = torch.arange(70) < torch.tensor(counts)[:, None]
    arguments = (points[..., :2], points[..., 2:], side, mask, shape)
    before = points.clone(), shape.clone()
    wanted = net.score(*arguments)
    assert wanted.requires_grad  # the blocks as written
    with torch.inference_mode():
        found = net.score(*arguments)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-9)
    assert found[mask].unique().numel() > 40
    torch.testing.assert_close((points, shape), before, rtol=0, atol=0)


def test_training_statistics_without_gradients_are_kept():
    torch.manual_seed(0)
    net = MatchClassifier(ClassifierConfig(**SMALL, n3_after=())).train()
    points = torch.rand(1, 50, 4)
    with torch.no_grad():
        net.score(points[..., :2], points[..., 2:])
    changed = [b for n, b in net.named_buffers() if n.endswith("running_var")]
    assert all(not torch.equal(b, torch.ones_like(b)) for b in changed)
