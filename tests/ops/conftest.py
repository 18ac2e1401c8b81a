"""Fixtures of the operator's tests."""

import pytest
import torch

from n3match import native
from n3match.ops.window import cells, cells_compiled, cells_tensors, gathered


@pytest.fixture(params=["compiled cells", "cells", "gathering"])
def path(request, monkeypatch):
    """Every way to a result, whatever the machine would choose: a function that tells which of
    them have been gone since."""
    gone = []

    def noting(name, function):
        def run(*arguments, **options):
            gone.append(name)
            return function(*arguments, **options)

        return run

    if request.param == "compiled cells" and not native.available():
        pytest.skip("no compiled library")
    if request.param == "cells":
        monkeypatch.setattr(native, "serves", lambda *_: False)
    if request.param == "gathering":
        monkeypatch.setattr(cells, "usable", lambda grid: False)
    for name, module in (("compiled cells", cells_compiled), ("cells", cells_tensors)):
        monkeypatch.setattr(module, "Images", noting(name, module.Images))
    monkeypatch.setattr(gathered, "forward", noting("gathering", gathered.forward))

    def check(layout):
        *_, patch, stride, _ = layout
        wanted = request.param if patch % stride == 0 else "gathering"
        assert set(gone) == {wanted}

    return check


@pytest.fixture
def memory_full_of_nan(monkeypatch):
    """So that an element never written shows."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
