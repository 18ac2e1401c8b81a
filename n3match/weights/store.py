"""Weights on disk: safetensors, with the network's configuration as JSON in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from n3match.files.given import check_regular, parse_json
from n3match.files.whole import whole_file

if TYPE_CHECKING:
    from torch import nn  # the list of shipped weights is asked for without waiting for torch

FORMAT = "n3match-weights-1"
# What `denoise` takes unless it is given others: of grey images, and of colour ones.
DEFAULT_DENOISER = "n3net"
COLOUR_DENOISER = "n3net-colour"
FAST_DENOISER = "n3net-fast"  # of grey images, where time counts
_MAX_BYTES = 1 << 30
_MAX_HEADER_TEXT = 1 << 16

# Networks and options (of networks and of trainings) in files of 0.1, and what they are called now.
_RENAMED = {
    "MatchClassifier": "MatchFilter",
    "side_information": "side_info",
    "drop_side": "drop_side_info",
    "coldest": "min_log_temperature",
    "keypoint_shape": "keypoint_change",
    "drop_shape": "drop_keypoint_change",
}


def with_present_names(options: dict) -> dict:
    """Options as a file has them, under the names that they have now."""
    return {_RENAMED.get(name, name): value for name, value in options.items()}


def shipped() -> tuple[str, ...]:
    """Names of the weights inside the package."""
    folder = resources.files(__package__)
    files = (Path(entry.name) for entry in folder.iterdir())
    return tuple(sorted(file.stem for file in files if file.suffix == ".safetensors"))


def default_denoiser(channels: int) -> str:
    """Name of the weights that `denoise` takes unless it is given others.

    Args:
        channels: of the image.
    """
    return COLOUR_DENOISER if channels == 3 else DEFAULT_DENOISER


def default_filter(*, binary: bool) -> str:
    """Name of the shipped match filter for a kind of features.

    Args:
        binary: whether their descriptors are bits (ORB, BRISK, AKAZE).
    """
    return "orb" if binary else "sift"


def find(name_or_path: str | os.PathLike) -> Path:
    """The file behind a shipped name or a path.

    Args:
        name_or_path: a name of `shipped`, or the path of a file.

    Raises:
        FileNotFoundError: where it is neither, listing the shipped names. TypeError: no text, nor
            a path.
    """
    if str(name_or_path) in shipped():
        return Path(str(resources.files(__package__) / f"{name_or_path}.safetensors"))
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            f"name_or_path must be a name or a path, got {type(name_or_path).__name__}"
        )
    path = Path(name_or_path)
    if not os.path.isfile(path):  # which pathlib doesn't answer for every text
        raise FileNotFoundError(
            f"name_or_path: {str(name_or_path)!r} is neither a file nor one of the shipped weights "
            f"{shipped()}"
        )
    return path


def save_weights(path: str | os.PathLike, net: nn.Module, **notes: Any) -> None:
    """Writes `net` (whose `config` is a dataclass of plain values) to a .safetensors file.

    Args:
        path: of the file; written to a temporary file and renamed.
        net: the network.
        notes: plain values kept beside the configuration, e.g. what it was trained on.
    """
    from safetensors.torch import save

    config: Any = net.config
    metadata = {
        "format": FORMAT,
        "network": type(net).__name__,
        "config": json.dumps(asdict(config)),
        "notes": json.dumps(notes),
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}
    # Written by ourselves: the library's own writer makes files that only their owner reads.
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def build(
    network: type[nn.Module], config: Callable[..., Any], fields: dict, state: dict, where: str
) -> Any:
    """A network with weights, of which no more is made than the weights fill.

    Args:
        network: its class. config: that of its configuration.
        fields: the configuration as a file has it.
        state: the weights.
        where: what is said not to fit.

    Raises:
        ValueError: a configuration that is none, or is not that of the weights.
    """
    import torch

    try:
        options = config(**fields)
        with torch.device("meta"):  # nothing is allocated
            net = network(options)
        net.load_state_dict(state, assign=True)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{where} doesn't fit: {error}"[:2000]) from error
    return net.float()


def load_weights(name_or_path: str | os.PathLike) -> tuple[str, dict, dict]:
    """(class name of the network, its configuration, its state dictionary).

    Args:
        name_or_path: a name of `shipped`, or the path of a file of at most 1 GiB.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    path = check_regular(find(name_or_path), _MAX_BYTES)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(
                    f"{path} has format {metadata.get('format')!r}: {FORMAT!r} wanted"
                )
            text = metadata["config"]
            if len(text) > _MAX_HEADER_TEXT:
                raise ValueError(f"{path}: configuration of {len(text)} characters")
            config = with_present_names(parse_json(text, f"{path}: config"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, RuntimeError, AttributeError, UnicodeError) as error:
        raise ValueError(f"{path} holds no weights of n3match: {error}") from error
    for name, tensor in state.items():
        if tensor.is_complex() or not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: {name} holds NaN or infinite numbers: finite ones wanted")
    network = metadata.get("network", "")
    return _RENAMED.get(network, network), config, state
