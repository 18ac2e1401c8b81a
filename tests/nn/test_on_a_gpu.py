"""Networks on a GPU, without one: nothing in them waits for it, no shape depends on values."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from n3match.geometry.eigenvector import smallest_eigenvector
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import (
    MatchFilter,
    MatchFilterConfig,
    PruningConfig,
    match_filter,
    n3net,
    passes,
    pruning,
)
from n3match.nn.n3net import PRESETS, N3Net
from n3match.ops import checks

SMALL = {"width": 16, "blocks": 3, "n3_after": (2,), "embedding_width": 8, "embedding_channels": 4}
PRUNING = PruningConfig(
    widths=(16, 12, 8), blocks=1, neighbours=3, embedding_channels=6, value_channels=5,
    verdict_width=8,
)
KNOWN = {"side_info": SIDE_INFO, "keypoint_change": True}
CONFIGS = {
    "published": MatchFilterConfig(**SMALL),
    "refined": MatchFilterConfig(**SMALL, **KNOWN, consensus=True, refine=True, mutual_only=True),
    "pruning": MatchFilterConfig(**KNOWN, pruning=PRUNING, mutual_only=True),
    "pruning, no neighbours": MatchFilterConfig(
        **KNOWN, pruning=replace(PRUNING, selection="none")
    ),
}


# What needs a value, or has a shape that depends on one: the program would wait for the device. So
# it does for solvers that look whether they succeeded, and for numbers copied from the program
# (`lift_fresh`, of torch.tensor).
WAITING = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero",
    "aten::nonzero_static", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave",
    "aten::_linalg_check_errors", "aten::lift_fresh",
}


class NothingWaits(TorchDispatchMode):
    """Refuses operations that would wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            by_mask = any(i is not None and i.dtype == torch.bool for i in args[1])
        else:
            by_mask = False
        if name in WAITING or by_mask:
            raise AssertionError(f"{name} would wait for the GPU")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    for module in (match_filter, n3net, passes, pruning, checks):
        monkeypatch.setattr(module, "may_look", lambda tensor: False)


def _columns(b, n):
    return {
        "points0": torch.rand(b, n, 2), "points1": torch.rand(b, n, 2),
        "side_info": torch.rand(b, n, len(SIDE_INFO)), "keypoint_change": torch.rand(b, n, 3),
    }


def _given(net, b=2, n=300):
    columns = _columns(b, n)
    if not net.side_info:
        del columns["side_info"], columns["keypoint_change"]
    return columns


def _net(name):
    torch.manual_seed(0)
    net = MatchFilter(CONFIGS[name])
    with torch.no_grad():  # enough that are kept for one essential matrix
        for key, parameter in net.named_parameters():
            if key.endswith("head.bias"):
                parameter += 2
    return net


def _ragged(net):
    given = {key: column.double() for key, column in _given(net).items()}
    if net.side_info:
        given["side_info"][..., 1].round_()  # mutual or not
    mask = torch.ones(2, 300, dtype=torch.bool)
    mask[1, 170:] = False
    return given, mask


@pytest.mark.parametrize(
    "question",
    [
        lambda x: bool((x > 0).all()), lambda x: x[x > 0], lambda x: x.nonzero(),
        lambda x: torch.linalg.inv(x.diag()), lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    ],
)
def test_a_question_about_values_is_refused(question):
    with pytest.raises(AssertionError, match="would wait for the GPU"), NothingWaits():
        question(torch.ones(3))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_filter_waits_for_nothing_and_says_the_same(name, masked, as_on_a_gpu, monkeypatch):
    net = _net(name).double().eval()
    given, mask = _ragged(net)
    mask = mask if masked else None
    with torch.no_grad(), NothingWaits():
        found = net(**given, mask=mask)
    monkeypatch.undo()
    wanted = net(**given, mask=mask)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.essential.abs(), wanted.essential.abs())


@pytest.mark.parametrize("name", CONFIGS)
def test_nor_does_its_training(name, as_on_a_gpu):
    """Of the logits. The last essential matrix has a gradient, which wants all eigenvectors."""
    net = _net(name).double().train()
    given, mask = _ragged(net)
    with NothingWaits():
        logits = net.logits(**given, mask=mask)
        torch.where(mask, logits, 0.0).sum().backward()
    assert any(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nor_does_half_precision(dtype, as_on_a_gpu):
    net = _net("pruning").eval().to(dtype)
    with torch.no_grad(), NothingWaits():
        assert net(**_given(net)).logits.dtype == torch.float32


def test_nor_does_an_eigenvector_without_a_gradient():
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.add(function._schema.name)
            return function(*args, **(kwargs or {}))

    for wanted in (False, True):
        names = set()
        with Seen():
            smallest_eigenvector(torch.empty(2, 9, 9, device="meta", requires_grad=wanted))
        assert ("aten::_linalg_eigh" in names) == wanted


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["n3net", "knn-denoised"])
def test_nor_does_the_denoiser(name, training, as_on_a_gpu):
    net = N3Net(replace(PRESETS[name], local_networks=2, depth=2, features=4)).train(training)
    with NothingWaits():
        clean = net(torch.rand(2, 1, 45, 40))
        if training:
            clean.sum().backward()
    assert clean.shape == (2, 1, 45, 40)
