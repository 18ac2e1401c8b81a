"""Training state on disk: written to a temporary file and renamed, read back without pickle."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def save_checkpoint(path: Path, state: dict) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts) so that a kill loses nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: torch.device) -> dict:
    """Reads what `save_checkpoint` wrote; refuses anything but plain data.

    Raises:
        ValueError: where the file isn't such a checkpoint, naming it.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises several unrelated types for damaged files
        raise ValueError(f"{path} is not a training checkpoint of n3match: {error}") from error
