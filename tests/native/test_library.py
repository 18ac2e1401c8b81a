"""Whether the compiled library is there, and that nothing needs it."""

import importlib.machinery
import os
import shutil

import pytest
import torch
from compiled_levels import forget_library

from n3match import native, ops
from n3match.native import library

pytestmark = pytest.mark.arithmetic


@pytest.fixture
def found_anew():
    """The library is looked for again, in the test and after it."""
    forget_library()
    yield
    forget_library()


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
    forget_library()
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


def test_the_environment_can_leave_it_aside(monkeypatch, found_anew):
    monkeypatch.setenv("N3MATCH_NATIVE", "0")
    assert not native.available()
    assert native.level() is None


@pytest.mark.skipif(not native.available(), reason="no compiled library")
def test_the_environment_can_hold_the_level(monkeypatch, found_anew):
    monkeypatch.setenv("N3MATCH_NATIVE", "1")
    best = native.LEVELS.index(native.level())
    for i, name in enumerate(native.LEVELS):
        forget_library()
        monkeypatch.setenv("N3MATCH_NATIVE", name)
        assert native.level() == native.LEVELS[min(i, best)]


def test_every_level_gives_the_same_results(monkeypatch, found_anew):
    monkeypatch.setenv("N3MATCH_NATIVE", "0")
    truth = _aggregate()
    for name in native.LEVELS:
        forget_library()
        monkeypatch.setenv("N3MATCH_NATIVE", name)
        for a, b in zip(_aggregate(), truth):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", ["", "2", "AVX2", "sse"])
def test_an_unknown_level(monkeypatch, found_anew, value):
    monkeypatch.setenv("N3MATCH_NATIVE", value)
    with pytest.raises(ValueError, match=r"N3MATCH_NATIVE.*must be one of '0', '1', 'plain'"):
        native.available()
