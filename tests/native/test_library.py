"""Whether the compiled library is there, and that nothing needs it."""

import importlib.machinery
import os
import shutil
import subprocess
import sys

import pytest
import torch

from n3match import native, ops
from n3match.native import integers, library


@pytest.fixture
def found_anew():
    """The library is looked for again, in the test and after it."""
    _forget()
    yield
    _forget()


def _forget():
    for looked_up in (library._library, library._functions, integers._function):
        looked_up.cache_clear()


def test_a_compiler_at_install_time_means_a_library():
    if os.environ.get("N3MATCH_NATIVE") == "0" or not shutil.which("cc"):
        pytest.skip("unwanted, or no compiler")
    assert native.available()


def _aggregate():
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 30, c, generator=gen, requires_grad=True) for c in (3, 3, 5))
    z = ops.n3_aggregate(q, k, v, 3)
    return [z, *torch.autograd.grad(z.square().sum(), (q, k, v))]


def _assert_tensors_alone_serve():
    assert not native.available()
    found = _aggregate()
    _forget()
    for a, b in zip(found, _aggregate()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_missing_library(tmp_path, monkeypatch, found_anew):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(library, "__file__", str(tmp_path / "library.py"))
        assert not native.available()
    _assert_tensors_alone_serve()


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_broken_library(tmp_path, monkeypatch, found_anew, content):
    (tmp_path / ("_kernels" + importlib.machinery.EXTENSION_SUFFIXES[0])).write_bytes(content)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(library, "__file__", str(tmp_path / "library.py"))
        assert not native.available()
    _assert_tensors_alone_serve()


def test_a_library_of_another_version(monkeypatch, found_anew):
    with monkeypatch.context() as later:
        later.setattr(library, "_INTERFACE", library._INTERFACE + 1)
        assert not native.available()
    _assert_tensors_alone_serve()


def test_a_library_without_a_function(monkeypatch, found_anew):
    with monkeypatch.context() as later:
        later.setitem(library._SIGNATURES, "of_a_later_version", "P")
        assert not native.available()
    _assert_tensors_alone_serve()


def test_the_environment_can_leave_it_aside():
    code = "from n3match import native; print(native.available())"
    environment = {**os.environ, "N3MATCH_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
