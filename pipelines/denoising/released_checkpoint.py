"""The layout of the checkpoints that Plötz & Roth released for denoising, in terms of our `N3Net`.

A legacy PyTorch file of a dictionary: "net" (tensors by name), "epoch", "optimizer". Names:
`blocks.i` local networks (`conv1`, `layer1.*`, `conv2`; their `bn1` is never used), `nls.i` the
blocks between (`embedcnn.*`, `tempcnn.*`, and a one-channel batch norm of negated distances).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from n3match.files.whole import check_target
from n3match.nn import N3Net, N3NetConfig
from n3match.pipelines.common.plain_torch import load_plain
from n3match.weights import save_weights
from n3match.weights.tiny import without_tiny

_MAX_BYTES = 1 << 28
_MAX_TENSORS = 4096
_LOCAL = re.compile(r"blocks\.(\d+)\.(conv1|bn1|layer1\.(\d+)|conv2)\.(\w+)")
_BLOCK = re.compile(r"nls\.(\d+)\.(embedcnn|tempcnn)\.(\d+)\.(\w+)")
_DISTANCE = re.compile(r"nls\.(\d+)\.n3aggregation\.aggregation\.nnn\.bn\.(\w+)")
_OURS = {"embedcnn": "embedding", "tempcnn": "temperature"}


@dataclass(frozen=True)
class Released:
    """A checkpoint as read: tensors by the authors' names."""

    tensors: dict[str, Tensor]
    epoch: int | None


def convert_checkpoint(source: Path, target: Path, **known) -> N3NetConfig:
    """Reads a released checkpoint and writes `target` (.safetensors); see `config_of`.

    Raises:
        ValueError, OSError: naming the file and what is wrong with it.
    """
    check_target(target, ".safetensors")
    released = read_released(source)
    try:
        net = as_network(released, **known)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    save_weights(target, net, converted_from=source.name, epoch=released.epoch)
    return net.config


def read_released(path: str | Path) -> Released:
    """Reads a checkpoint as plain data: no code in it is run.

    Raises:
        FileNotFoundError: no such file. ValueError: another kind of file, or too large a one.
    """
    path = Path(path)
    found = load_plain(path, "a PyTorch file of plain data", _MAX_BYTES)
    net = found.get("net") if isinstance(found, dict) else None
    if not isinstance(net, dict) or not 0 < len(net) <= _MAX_TENSORS:
        raise ValueError(f'{path}: wanted a dictionary with tensors under "net"')
    for name, tensor in net.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {name!r} is no named tensor")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {name} holds NaN or infinite numbers")
    epoch = found.get("epoch")
    return Released(net, epoch if isinstance(epoch, int) else None)


def our_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by our names, tiny numbers set to zero.

    What has no effect is left out: the unused norm, and the mean and bias of the distances' norm.

    Raises:
        ValueError: a name that isn't of this layout, or a distance scale that isn't positive.
    """
    depth = _depth(tensors)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if match := _LOCAL.fullmatch(name):
            index, layer, inner, kind = match.groups()
            if layer == "bn1":
                continue
            place = {"conv1": 0, "conv2": 2 + 3 * (depth - 2)}.get(layer)
            place = 2 + int(inner) if place is None else place
            state[f"local_networks.{index}.layers.{place}.{kind}"] = tensor
        elif match := _BLOCK.fullmatch(name):
            index, network, place, kind = match.groups()
            state[f"blocks.{index}.{_OURS[network]}.{place}.{kind}"] = tensor
        elif match := _DISTANCE.fullmatch(name):
            index, kind = match.groups()
            if kind == "weight":
                if tensor.numel() != 1 or not tensor.item() > 0:
                    raise ValueError(f"{name}: found {tensor}, wanted one positive number")
                state[f"blocks.{index}.distance_scale.gain"] = tensor.reshape(())
            elif kind == "running_var":
                state[f"blocks.{index}.distance_scale.running_var"] = tensor.reshape(())
        else:
            raise ValueError(f"{name}: no tensor of a released denoising network has this name")
    return without_tiny(state)


def config_of(tensors: dict[str, Tensor], **known) -> N3NetConfig:
    """The configuration that the tensors' shapes tell.

    Args:
        known: fields that they don't tell, e.g. `sigma`, `window`.

    Raises:
        ValueError: shapes that fit no network of this kind.
    """
    try:
        first = tensors["blocks.0.conv1.weight"]
        count = 1 + max(int(m[1]) for n in tensors if (m := _LOCAL.fullmatch(n)))
        channels = tensors[f"blocks.{count - 1}.conv2.weight"].shape[0]
        fields = {
            "channels": channels,
            "maps": {0: (), 1: ("sigma",), 2: ("a", "b")}[first.shape[1] - channels],
            "local_networks": count,
            "depth": _depth(tensors),
            "features": first.shape[0],
        }
        if count > 1:
            narrow = tensors["blocks.0.conv2.weight"].shape[0]
            embedding = tensors["nls.0.embedcnn.6.weight"]
            fields |= {
                "block_channels": narrow,
                "neighbours": tensors["blocks.1.conv1.weight"].shape[1] // narrow - 1,
                "embedding_features": embedding.shape[1],
                "embedding_channels": embedding.shape[0],
            }
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"not the tensors of a released denoising network: {error!r} is missing or misshapen"
        ) from error
    return N3NetConfig(**fields | known)


def _depth(tensors: dict[str, Tensor]) -> int:
    inner = [
        int(m[3]) for n in tensors if (m := _LOCAL.fullmatch(n)) and m[3] and m[1] == "0"
    ]
    if not inner or max(inner) > 600:
        raise ValueError("blocks.0.layer1: no convolutions found")
    return 2 + max(inner) // 3 + 1


def as_network(released: Released, **known) -> N3Net:
    """The network itself, in eval mode; `known` as in `config_of`.

    Raises:
        ValueError: tensors that don't fit together.
    """
    net = N3Net(config_of(released.tensors, **known))
    missing, unexpected = _load(net, our_state(released.tensors))
    if missing or unexpected:
        raise ValueError(f"tensors missing: {missing}; not wanted: {unexpected}")
    return net.eval()


def _load(net: N3Net, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    try:
        missing, unexpected = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"tensors of the wrong shape: {error}") from error
    # Counters that old PyTorch versions didn't store.
    return [name for name in missing if not name.endswith("num_batches_tracked")], unexpected
