"""The filter as an exported graph: the same logits as uncompiled, whatever the input."""

import sys

import numpy as np
import pytest
import torch

from n3match import MatchFilter, export_onnx, export_program
from n3match.export.filter import INPUTS_VERSION, dense_forward, input_names
from n3match.geometry.eigenvector import eigh_of_tensors
from n3match.nn import MatchFilterConfig
from n3match.ops import n3_aggregate

SMALL = {"width": 16, "blocks": 2, "embedding_width": 8, "embedding_channels": 4}
CONFIGS = {
    "like sift": MatchFilterConfig(
        **SMALL, n3_after=(1,), consensus=True, side_info=("ratio", "mutual"),
        keypoint_change=True, mutual_only=True, refine=True,
    ),
    "like sift-cnnet": MatchFilterConfig(
        **SMALL, n3_after=(), side_info=("ratio", "mutual"), mutual_only=True, refine=True,
    ),
    "as published": MatchFilterConfig(**SMALL, n3_after=(1,)),
}
SIZES = [(2, 130), (1, 75), (3, 201)]
MUTUAL = ["some", "all", "none", "unlike"]


def make_filter(name: str) -> MatchFilter:
    """Both passes keep about seven tenths: with fewer than 8 kept, the first pass's essential
    matrix is one of many, and which one is anybody's guess."""
    torch.manual_seed(0)
    net = MatchFilter(CONFIGS[name]).eval()
    for parameter in net.parameters():
        if not parameter.any():  # parts that start without effect
            torch.nn.init.normal_(parameter, std=0.1)
    given = make_inputs(2, 200, "all", False)
    given = {name: given[name] for name in input_names(net)}
    with torch.no_grad():
        for trunk in (net.trunk, getattr(net.refinement, "trunk", None)):
            if trunk is not None:
                trunk.head.bias -= net.logits(**given).quantile(0.3)
    return net


def make_inputs(b: int, n: int, mutual: str, padded: bool) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(n)
    points = torch.rand(2, b, n, 2, generator=gen) - 0.5
    side_info = torch.rand(b, n, 2, generator=gen)
    chosen = {"some": 0.6, "all": 1.0, "none": 0.0, "unlike": 0.7}[mutual]
    side_info[..., 1] = (side_info[..., 1] < chosen).float()
    if mutual == "unlike":  # from pair to pair
        side_info[0, :, 1] = 0
    mask = torch.ones(b, n, dtype=torch.bool)
    if padded:
        mask[0, 2 * n // 3 :] = False
        points[:, ~mask], side_info[~mask] = 7.0, 1.0
    change = torch.rand(b, n, 3, generator=gen) - 0.5
    return {
        "points0": points[0], "points1": points[1],
        "side_info": side_info, "keypoint_change": change, "mask": mask,
    }


def cases(names):
    """All inputs that a graph with these inputs is tried on."""
    for b, n in SIZES:
        for mutual in MUTUAL if "side_info" in names else MUTUAL[:1]:
            for padded in (False, True):
                given = make_inputs(b, n, mutual, padded)
                yield {name: given[name] for name in names}


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def net(request):
    return make_filter(request.param)


def nets(quick: str):
    """One test for each filter; those but `quick` are slow."""
    marked = [pytest.param(name, marks=[pytest.mark.slow] * (name != quick)) for name in CONFIGS]
    return pytest.mark.parametrize("net", marked, indirect=True)


def logits_of(net, given):
    with torch.inference_mode():
        return net.logits(**given).clone()


@nets(quick="like sift")
def test_program(net):
    program = export_program(net).module()
    names = input_names(net)
    kept = []
    for given in cases(names):
        wanted = logits_of(net, given)
        same(program(*given.values()), wanted)
        kept.append(float((wanted > 0).float().mean()))
    assert min(kept) > 0.1 and max(kept) < 0.95


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch's exporter to itself
@nets(quick="as published")
def test_onnx(net, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    path = export_onnx(net, tmp_path / "filter.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["filter.onnx"]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = input_names(net)
    assert tuple(entry.name for entry in session.get_inputs()) == names
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["n3match_inputs"] == str(INPUTS_VERSION)
    for given in cases(names):
        (found,) = session.run(["logits"], {name: t.numpy() for name, t in given.items()})
        same(torch.from_numpy(found), logits_of(net, given))


@nets(quick="as published")
def test_compiled(net):
    torch.compiler.reset()
    graph = torch.compile(net.logits, fullgraph=True, dynamic=True, backend="aot_eager")
    for given in cases(input_names(net)):
        with torch.inference_mode():
            found = graph(**given)
        same(found, logits_of(net, given))


def test_onnx_export_without_its_packages_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", sys)
    with pytest.raises(ImportError, match=r"onnxscript.*pip install"):
        export_onnx(make_filter("as published"), tmp_path / "filter.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recursion", ["released", "poster"])
@pytest.mark.parametrize("temperature", [-30.0, -6.0, 0.0, 3.0])
def test_operator_of_tensors(recursion, temperature):
    gen = torch.Generator().manual_seed(5)
    query, value = (
        torch.randn(2, 23, c, generator=gen, dtype=torch.float64) for c in (5, 3)
    )
    mask = torch.rand(2, 23, generator=gen) > 0.3
    mask[1] = False
    mask[1, 4] = True  # nothing to choose for item 4 itself
    value[~mask] = float("nan")
    log_t = torch.full((2, 23, 1), temperature, dtype=torch.float64)
    found = dense_forward(query, query, value, log_t, mask, 3, True, recursion)[0]
    wanted = n3_aggregate(
        query, query, value, 3, log_t, mask=mask, exclude_self=True, recursion=recursion,
        backend="reference",
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("smallest", [0.0, 1e-9, 5e-8])
def test_eigenvector_of_tensors(smallest):
    gen = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(3, 9, 9, generator=gen, dtype=torch.float64))[0]
    values = np.array([smallest, 1e-7, 1e-5, 1e-3, 1e-2, 2e-2, 0.1, 0.2, 0.6])
    matrix = (basis * torch.from_numpy(values)) @ basis.mT
    vectors = eigh_of_tensors((matrix + matrix.mT) / 2)[1]
    along = (vectors[..., 0] * basis[..., 0]).sum(-1).abs()
    torch.testing.assert_close(along, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert vectors[..., 1:].isnan().all()
