"""Kernels that fail, or answer wrongly, aren't chosen."""

from importlib import import_module

import pytest
import torch
from backends import HAS_TRITON, INTERPRETED

from n3match import ops
from n3match.ops import dispatch
from n3match.ops.triton import trial

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed, or has no GPU"),
    pytest.mark.filterwarnings("ignore:overflow|invalid|divide:RuntimeWarning"),
]

DEVICE = "cpu" if INTERPRETED else "cuda"
FORMS = {
    "dense": "dense",
    "candidates": "candidates",
    "candidates knn": "candidates",
    "candidates noise": "candidates",
    "window": "window",
    "window knn": "window",
    "window noise": "window",
}


@pytest.fixture(autouse=True)
def small_and_forgotten(monkeypatch):
    monkeypatch.setattr(trial, "DENSE", ((1, 20, 4),) * 3)
    monkeypatch.setattr(trial, "NEAR", 6)
    monkeypatch.setattr(trial, "WINDOW", ((1, 1, 6, 7),) * 3)
    monkeypatch.setattr(trial, "LAYOUT", (4, 2, 3))
    trial._failure.cache_clear()
    yield
    trial._failure.cache_clear()


@pytest.mark.parametrize("form", FORMS)
def test_good_kernels_pass(form):
    assert trial.failure(form, DEVICE, None) == ""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("off", [1.01, float("nan")])
def test_wrong_results_are_seen_and_told_once(form, off, monkeypatch, recwarn):
    module = import_module(f"n3match.ops.triton.{FORMS[form]}")
    kernel = module.aggregate
    monkeypatch.setattr(module, "aggregate", lambda *given: kernel(*given) * off)
    for _ in range(2):
        assert f"the {form} form differ from theirs" in trial.failure(form, DEVICE, None)
    told = [w for w in recwarn if "the tiles serve instead of Triton" in str(w.message)]
    assert len(told) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_that_does_not_compile_is_told(form, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such instruction")

    module = import_module(f"n3match.ops.triton.{FORMS[form]}")
    monkeypatch.setattr(module, "aggregate", broken)
    with pytest.warns(UserWarning, match="no such instruction"):
        assert "RuntimeError" in trial.failure(form, DEVICE, None)


def test_each_selection_of_the_window_form_has_a_trial_of_its_own(monkeypatch):
    tried = []
    monkeypatch.setattr(dispatch, "distrust", lambda form, query: tried.append(form) or "no")
    image = torch.rand(1, 1, 9, 8, device=DEVICE)
    for options in (
        {}, {"selection": "concrete"}, {"selection": "knn"},
        {"selection": "concrete", "generator": torch.Generator()},
    ):
        ops.n3_window_aggregate(image, image, image, 2, 0.0, 4, 2, 3, **options)
    assert tried == ["window", "window", "window knn", "window noise"]


def test_the_choice_follows_the_trial(monkeypatch):
    query = torch.zeros(1, 5, 2)
    assert dispatch.choose(None, "refused", "dense", query) == "tiled"
    monkeypatch.setattr(dispatch, "distrust", lambda form, query: "")
    assert dispatch.choose(None, "", "dense", query) == "triton"
    monkeypatch.setattr(dispatch, "distrust", lambda form, query: "it fails")
    assert dispatch.choose(None, "", "dense", query) == "tiled"
    assert dispatch.choose("triton", "", "dense", query) == "triton"


@pytest.mark.skipif(not INTERPRETED, reason="the interpreter is off where there is a GPU")
def test_the_interpreter_is_never_chosen(monkeypatch):
    monkeypatch.setattr(trial, "failure", lambda *_: "")
    query = torch.randn(1, 6, 2)
    assert dispatch.choose(None, "", "dense", query) == "tiled"
    z = ops.n3_aggregate(query, query, query, 2)
    torch.testing.assert_close(z, ops.n3_aggregate(query, query, query, 2, backend="tiled"))


@pytest.mark.skipif(not INTERPRETED, reason="the choice is made by the device itself")
def test_the_trial_may_fall_into_the_compilation_of_a_graph(monkeypatch):
    failure = trial.failure
    monkeypatch.setattr(dispatch, "distrust", lambda *_: failure("dense", "cpu", None))
    leaves = [torch.randn(1, 9, 3, requires_grad=True) for _ in range(3)]

    def run(query, key, value):
        return ops.n3_aggregate(query, key, value, 2).square()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves)
    found = torch.autograd.grad(compiled.sum(), leaves)
    assert trial._failure.cache_info().currsize == 1
    monkeypatch.undo()
    wanted = torch.autograd.grad(run(*leaves).sum(), leaves)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b)
