# ruff: noqa: E402 (what is set first must be so before numpy is loaded)
"""Fixtures shared by all tests."""

import multiprocessing
import os
from pathlib import Path

# Tests run beside each other, one worker a core: one thread each keeps them out of each other's
# way, and sums in one order. Read when numpy, torch and OpenCV are loaded; processes that tests
# start inherit it.
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(_threads, "1")

import cv2
import interpreter
import prepared
import pytest
import torch

interpreter.switch_on()
torch.set_num_threads(1)
cv2.setNumThreads(1)

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def prepared_processes(monkeypatch):
    """New processes, of a pool or of torch's loaders, have loaded torch when they start."""
    for module in (multiprocessing, torch.multiprocessing):
        monkeypatch.setattr(module, "get_context", lambda method: prepared.context)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scenes and golden arrays; tests that need it skip where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("the shared data folder (real scenes, golden arrays) is not beside the project")
    return _SHARED
