"""The bundled photographs as files, and arguments that keep tests short."""

import contextlib
import io
import json
import os
import subprocess
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest

from n3match.pipelines.cli import main

FOLDER = Path(str(resources.files("n3match.pipelines"))) / "demo_data"
PHOTO0, PHOTO1 = FOLDER / "img_4885.jpg", FOLDER / "img_4929.jpg"
PAIR = json.loads((FOLDER / "pair.json").read_text(encoding="utf-8"))
R, T = np.array(PAIR["R"]), np.array(PAIR["t"])


def intrinsics(scale: float = 1.0) -> str:
    """--intrinsics of the demo's camera for an image resized by `scale`."""
    K = np.array(PAIR["images"][0]["K"])
    focal = K[0, 0] * scale
    cx, cy = (K[:2, 2] + 0.5) * scale - 0.5
    return f"{focal},{focal},{cx},{cy}"


CAMERAS = ["--intrinsics0", intrinsics(), "--intrinsics1", intrinsics()]


def write_image(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def blank(path: Path, height: int = 240, width: int = 320) -> Path:
    return write_image(path, np.full((height, width), 127, np.uint8))


def one_thread() -> dict[str, str]:
    """This environment, for a subprocess that shares the machine with other tests."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_command(*argv, cwd: Path) -> subprocess.CompletedProcess:
    """`n3match ARGV` in the folder `cwd`, in this process: status, output, error output."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        status = main([str(word) for word in argv])
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())
