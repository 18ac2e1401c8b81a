"""Weights on disk: safetensors, with the network's configuration as JSON in the header."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from n3match.whole_file import whole_file

if TYPE_CHECKING:
    from torch import nn  # the list of shipped weights is asked for without waiting for torch

FORMAT = "n3match-weights-1"
# What `denoise` takes unless it is given others.
DEFAULT_DENOISER = "n3net"
_MAX_BYTES = 1 << 30
_MAX_HEADER_TEXT = 1 << 16

# Networks and fields of their configuration in files of 0.1, and what they are called now.
_RENAMED = {
    "MatchClassifier": "MatchFilter",
    "coldest": "min_log_temperature",
    "keypoint_shape": "keypoint_change",
    "side_information": "side_info",
}


def shipped() -> tuple[str, ...]:
    """Names of the weights inside the package."""
    folder = resources.files(__package__)
    files = (Path(entry.name) for entry in folder.iterdir())
    return tuple(sorted(file.stem for file in files if file.suffix == ".safetensors"))


def find(name_or_path: str | os.PathLike) -> Path:
    """The file behind a shipped name or a path.

    Args:
        name_or_path: a name of `shipped`, or the path of a file.

    Raises:
        FileNotFoundError: where it is neither, listing the shipped names.
    """
    if str(name_or_path) in shipped():
        return Path(str(resources.files(__package__) / f"{name_or_path}.safetensors"))
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"name_or_path: {str(name_or_path)!r} is neither a file nor one of the shipped weights "
            f"{shipped()}"
        )
    return path


def save_weights(path: os.PathLike, net: nn.Module, **notes) -> None:
    """Writes `net` (whose `config` is a dataclass of plain values) to a .safetensors file.

    Args:
        path: of the file; written to a temporary file and renamed.
        net: the network.
        notes: plain values kept beside the configuration, e.g. what it was trained on.
    """
    from safetensors.torch import save

    metadata = {
        "format": FORMAT,
        "network": type(net).__name__,
        "config": json.dumps(asdict(net.config)),
        "notes": json.dumps(notes),
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}
    # Written by ourselves: the library's own writer makes files that only their owner reads.
    with whole_file(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))


def load_weights(name_or_path: str | os.PathLike) -> tuple[str, dict, dict]:
    """(class name of the network, its configuration, its state dictionary).

    Args:
        name_or_path: a name of `shipped`, or the path of a file of at most 1 GiB.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it.
    """
    path = find(name_or_path)
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} holds {path.stat().st_size} bytes: at most {_MAX_BYTES} wanted")
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
            config = {_RENAMED.get(key, key): x for key, x in json.loads(text).items()}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no weights of n3match: {error}") from error
    network = metadata.get("network", "")
    return _RENAMED.get(network, network), config, state
