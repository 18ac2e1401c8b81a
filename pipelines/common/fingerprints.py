"""What results depend on, as text that changes when it does."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from pathlib import Path

from n3match import weights


def hash_of(value: object) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def hash_of_files(*paths: Path) -> str:
    """Of the contents of files, one after the other.

    Raises:
        FileNotFoundError: one isn't there.
    """
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hash_of_weights(name_or_path: str) -> str:
    """Changes when weights are trained again, but not with the place of their file."""
    return hash_of_files(weights.find(name_or_path))


def versions(*packages: str) -> list[str]:
    """As in ["opencv 5.0.0"]; without those that aren't installed."""
    found = []
    for name in packages:
        if name == "opencv":  # its wheels have several names
            import cv2

            found.append(f"opencv {cv2.__version__}")
        else:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def file_state(path: Path | None) -> list:
    """Path, size and time of a file, or of those in a folder: where reading all takes too long."""
    if path is None:
        return []
    if path.is_dir():
        return [file_state(file) for file in sorted(path.rglob("*")) if file.is_file()]
    stat = path.stat()
    return [str(path.absolute()), stat.st_size, stat.st_mtime_ns]
