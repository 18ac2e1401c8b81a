"""The match filter as a graph of its own: `torch.export` and ONNX.

Inputs of the graph, B pairs of N matches each: `points0`, `points1` (B, N, 2) calibrated
coordinates, `side_info` (B, N, S) and `keypoint_change` (B, N, 3) where the filter has them, `mask`
(B, N) bool, True for real matches. Output: `logits` (B, N), −inf where the mask is False; above 0:
keep. B and N are chosen anew with each call. The metadata of an ONNX file says, as
`n3match_inputs`, which version of these names it has (`INPUTS_VERSION`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from n3match.files.whole import whole_file
from n3match.geometry.eigenvector import eigh_of_tensors
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn.match_filter import MatchFilter
from n3match.ops import reference
from n3match.ops.dense.problem import Saved
from n3match.two_view import as_filter

# Of the names of the graph's inputs; 1, in files without it: side for side_info, shape for
# keypoint_change.
INPUTS_VERSION = 2


class _Logits(nn.Module):
    """`MatchFilter.logits` with the inputs of the graph, in their order."""

    def __init__(self, net: MatchFilter):
        super().__init__()
        self.net = net
        self.names = input_names(net)

    def forward(self, *given: Tensor) -> Tensor:
        return self.net.logits(**dict(zip(self.names, given)))


def input_names(filter: MatchFilter) -> tuple[str, ...]:
    """Names of the graph's inputs, in their order.

    Args:
        filter: whose graph it is: which inputs there are depends on its configuration.
    """
    config = filter.config
    wanted = {
        "points0": True,
        "points1": True,
        "side_info": bool(config.side_info),
        "keypoint_change": config.keypoint_change,
        "mask": True,
    }
    return tuple(name for name, there in wanted.items() if there)


def export_program(
    filter: MatchFilter | str | os.PathLike = "sift",
) -> torch.export.ExportedProgram:
    """The filter as a program of `torch.export`, for the CPU, in float32.

    `program.module()` is called with the inputs of the graph in their order, see `input_names`.
    Values aren't checked: NaN in, NaN out. Refinement passes go over the same matches as in
    `MatchFilter`, but carry the others along, which takes longer.

    Args:
        filter: a `MatchFilter`, a shipped name or a path.

    Raises:
        FileNotFoundError, ValueError, TypeError: see `MatchFilter.from_pretrained`.
    """
    net = _copy_for_cpu(as_filter(filter))
    b, n = 2, 130  # any numbers above 1: both are free
    points = torch.zeros(2, b, n, 2)
    examples = {
        "points0": points[0],
        "points1": points[1],
        "side_info": torch.zeros(b, n, len(net.side_info)),
        "keypoint_change": torch.zeros(b, n, CHANGE_COLUMNS),
        "mask": torch.ones(b, n, dtype=torch.bool),
    }
    given = tuple(examples[name] for name in input_names(net))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(
            _Logits(net).eval(), given, dynamic_shapes={"given": tuple(free for _ in given)}
        )


def export_onnx(filter: MatchFilter | str | os.PathLike, path: str | os.PathLike) -> Path:
    """Writes the filter as one ONNX file, weights inside, for onnxruntime and others.

    The N³ operator becomes plain tensor operations in float64 that hold B·N·N numbers a few times
    over: 32 MB each for one pair of 2000 matches.

    Args:
        filter: a `MatchFilter`, a shipped name or a path.
        path: of the file; written to a temporary file and renamed.

    Returns:
        The path.

    Raises:
        ImportError: the packages onnx and onnxscript are missing (`pip install n3match[onnx]`).
        FileNotFoundError, ValueError, TypeError: see `MatchFilter.from_pretrained`. OSError: the
            file can't be written.
    """
    try:
        import onnx  # noqa: F401  (torch.onnx needs both, and says so less clearly)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX export needs the package {error.name}: pip install 'n3match[onnx]'"
        ) from error
    path = Path(path)
    net = as_filter(filter)
    program = export_program(net).run_decompositions(_plain_operations())
    exported = torch.onnx.export(
        program,
        input_names=list(input_names(net)),
        output_names=["logits"],
        dynamo=True,
        verbose=False,
    )
    assert exported is not None  # only the exporter that dynamo=False chooses gives none
    exported.model.metadata_props["n3match_inputs"] = str(INPUTS_VERSION)
    with whole_file(path) as temporary:
        exported.save(temporary, external_data=False)
    return path


def _plain_operations() -> dict:
    """What stands in for operators that ONNX doesn't have."""
    table = torch.export.default_decompositions()
    table[torch.ops.n3match.dense.default] = dense_forward
    table[torch.ops.aten.linalg_eigh.default] = eigh_of_tensors
    table[torch.ops.aten._linalg_eigh.default] = eigh_of_tensors
    table[torch.ops.aten.sort.stable] = _sort
    table[torch.ops.aten.where.self] = _where
    return table


def dense_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_t: Tensor,
    mask: Tensor | None,
    k: int,
    exclude_self: bool,
    recursion: str,
) -> tuple[Tensor, ...]:
    """The dense form out of plain tensor operations, for graphs of programs that know no others.

    A graph that leaves PyTorch, as ONNX does, can't call the custom operator `n3match::dense`. The
    formula is `reference`'s, in float64, with distances from one matrix product instead of
    differences (whose embedding dimension would multiply the memory): B·M·N doubles, a few times
    over. It gives what the operator gives; what that saves for a way back is blank.
    """
    (b, m, _), n = query.shape, key.shape[1]
    alive = query.new_ones(b, m, n, dtype=torch.bool)
    if mask is not None:
        alive = alive & mask[:, None]
        key, value = (t.masked_fill(~mask[..., None], 0.0) for t in (key, value))
    if exclude_self:
        items = torch.arange(n, device=query.device)
        alive = alive & (items[:, None] != items)
    q, x, v = query.double(), key.double(), value.double()
    lengths = q.square().sum(-1)[..., None] + x.square().sum(-1)[:, None]
    d = (lengths - 2 * (q @ x.mT)).clamp(min=0.0)
    weights = reference.weights_in_double(
        d, k, log_t.double(), alive, recursion, selection="n3", noise=(None, None)
    )
    out = torch.stack([w @ v for w in weights.unbind(-1)], 2)
    return out.to(value.dtype), *Saved.blank(b, m, k, query).tensors()


def _sort(
    x: Tensor, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    # Becomes TopK, which puts the first of equals first.
    return torch.ops.aten.sort.default(x, dim, descending)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Any:
    # onnxruntime chooses between numbers, not between truth values.
    if a.dtype != torch.bool:
        return NotImplemented
    return (condition & a) | (~condition & b)


def _copy_for_cpu(net: MatchFilter) -> MatchFilter:
    copy = MatchFilter(net.config)
    copy.load_state_dict(net.state_dict())
    return copy.float().eval().requires_grad_(False)
