"""Fixtures shared by all tests."""

from pathlib import Path

import interpreter
import pytest
import torch

interpreter.switch_on()

# Tests run beside each other; one thread each keeps their times and sums steady.
torch.set_num_threads(1)

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scenes and golden arrays; tests that need it skip where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("the shared data folder (real scenes, golden arrays) is not beside the project")
    return _SHARED
