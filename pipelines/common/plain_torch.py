"""PyTorch's files, without the pickles in them that could run code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from n3match.files.given import LARGEST, check_regular


def load_plain(path: Path, kind: str, most: int = 4 * LARGEST) -> Any:
    """Tensors, numbers, texts and containers of them, on the CPU.

    Args:
        path: of the file.
        kind: what it should be, for the message.
        most: bytes that it may have.

    Raises:
        FileNotFoundError: no such file. ValueError: something else, or damaged; a file that is
            packed, which PyTorch's own aren't: it could unpack to anything.
    """
    check_regular(path, most)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                packed = [entry.filename for entry in file.infolist() if entry.compress_type]
            if packed:
                raise ValueError(f"{packed[0]!r} in it is packed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several unrelated types for damaged files
        told = " ".join(str(error).split())[:500]
        raise ValueError(f"{path}: is not {kind}: {told}") from error
