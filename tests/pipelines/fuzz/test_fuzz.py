"""Short runs of `n3match fuzz` with a fixed seed, and whether it would see what is wrong."""

import inspect
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import is_gone

from n3match.pipelines.cli import main
from n3match.pipelines.fuzz import calls, files, kills, watched
from n3match.pipelines.fuzz.damage import damage_some
from n3match.pipelines.fuzz.draws import Draw
from n3match.pipelines.fuzz.outcomes import (
    CLEAR,
    CRASH,
    FOREIGN,
    GOOD,
    HANG,
    NONFINITE,
    RESULT,
    judge_error,
    judge_result,
)
from n3match.pipelines.fuzz.spoiled import spoiled


def told(tally: watched.Tally) -> list:
    return [alike[0] for alike in tally.kinds()]


def run(make, **options) -> watched.Tally:
    """Copies of this process, which has loaded everything."""
    return watched.run_watched(make, (0,), method="fork", **options)


def test_every_public_function_is_called_or_has_a_reason_not_to_be():
    public = {f"{module}.{name}": name for module, name in calls.public_callables()}
    assert len(public) > 150
    untold = [
        known for known, name in public.items()
        if known not in calls.TARGETS and name not in calls.EXEMPT
    ]
    assert not untold, "tell of these in pipelines/fuzz/calls.py"
    assert not set(calls.EXEMPT) - set(public.values()), "these are no longer there"
    assert not set(calls.TARGETS) - set(public)


def drawn(target, number):
    """Its arguments, and the function."""
    arguments = target.make(Draw(np.random.default_rng(number)))
    return arguments, target._function(arguments)


_FOR_MESSAGES = {"n3match.geometry.guess_intrinsics": {"name"}}


@pytest.mark.parametrize("name", calls.TARGETS)
def test_every_argument_is_given_now_and_then(name):
    wanted, seen = {""}, set()
    for number in range(200):
        arguments, function = drawn(calls.TARGETS[name], number)
        wanted = {
            parameter.name for parameter in inspect.signature(function).parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        } - _FOR_MESSAGES.get(name, set())
        seen |= arguments.keys()
        if wanted <= seen:
            return
    raise AssertionError(f"never given: {wanted - seen}")


_NO_FLAGS = (
    np.array(["a", "b"]), np.zeros(0), torch.ones(2, 2), torch.ones(2, device="meta"), [1, [2]],
    b"x", 3.5, {"sift": 1}, np.array([None, object()]),
)


@pytest.mark.filterwarnings("ignore:filter_matches")  # drawn arguments that have no effect
@pytest.mark.parametrize("name", calls.TARGETS)
def test_what_is_no_flag_and_no_name_is_told_by_its_argument(name):
    target = calls.TARGETS[name]
    for parameter in inspect.signature(drawn(target, 0)[1]).parameters.values():
        kind = str(getattr(parameter.annotation, "__name__", parameter.annotation))
        if not re.search(r"\b(bool|str)\b", kind):
            continue
        for value in _NO_FLAGS:
            arguments, function = drawn(target, 1)
            try:
                function(*arguments.pop("*", ()), **{**arguments, parameter.name: value})
            except Exception as error:
                names = {*calls._names(arguments), *inspect.signature(function).parameters}
                names |= {*calls._texts(arguments)}
                outcome, told = judge_error(error, names)
                assert outcome == CLEAR, f"{parameter.name}={calls.shown(value)}: {told}"


def test_calls_with_damaged_arguments_end_in_results_or_clear_errors():
    tally = run(calls.cases, seconds=12, most=4000)
    assert not told(tally)
    assert tally.counts[RESULT] > 100 and tally.counts[CLEAR] > 100


def test_damaged_files_end_in_results_or_clear_errors():
    tally = run(files.cases, seconds=10, most=400)
    assert not told(tally)
    assert tally.counts[CLEAR] > 20


@pytest.mark.parametrize("command", ["filter-h5", "denoise", "filter-colmap"])
def test_killed_commands_leave_no_half_file_and_go_on(command):
    case = kills.cases(3, command)
    for number in range(2):
        outcome, what = case(number)
        assert outcome == RESULT, what


@pytest.mark.parametrize("most", [1924, 5900])  # an error at closing; a segmentation fault
def test_hdf5_on_a_full_disk_ends_in_an_error_and_leaves_nothing(tmp_path, most):
    command = next(command for command in kills.COMMANDS if command.name == "filter-h5")
    (tmp_path / "out").mkdir()
    command.write(tmp_path)
    assert kills._run(command, tmp_path, lambda: kills._limit_files(most)) == 2
    assert kills.contents(tmp_path / "out", command) == {}


def test_same_case_is_the_same_again():
    first, second = (calls.cases(5) for _ in "01")
    for number in range(20):
        assert first(number)[0] == second(number)[0]
    assert spoiled(bytes(1000), np.random.default_rng(1)) == spoiled(
        bytes(1000), np.random.default_rng(1)
    )
    damaged = [
        damage_some({"a": np.ones(3), "b": 1}, np.random.default_rng(2)) for _ in "01"
    ]
    assert repr(damaged[0]) == repr(damaged[1])


def raised(function) -> BaseException:
    with pytest.raises(BaseException) as caught:
        function()
    return caught.value


def test_errors_of_others_are_told_from_ours():
    from n3match.geometry import guess_intrinsics

    ours = raised(lambda: guess_intrinsics((1, 2, 3)))
    assert judge_error(ours, {"size"})[0] == CLEAR
    assert judge_error(ours, {"focal"})[0] == FOREIGN  # names another
    assert judge_error(raised(lambda: np.zeros(3).reshape(2)), {"size"})[0] == FOREIGN
    # Of this file, not of the package; of the package, but not raised by it.
    assert judge_error(raised(lambda: exec("raise ValueError('size')")), {"size"})[0] == FOREIGN
    assert judge_error(raised(Path("/nowhere/size").read_text), {"/nowhere/size"})[0] == CLEAR


def test_results_that_are_not_finite_are_seen_however_deep():
    nested = {"a": [np.ones(2), (torch.ones(2), 1.0)]}
    assert judge_result(nested, {"x": 1}) == RESULT
    for bad in (np.array([np.nan]), torch.tensor(float("inf")), float("nan"), 1e400):
        assert judge_result({"a": [nested, (bad,)]}, {"x": 1}) == NONFINITE
        assert judge_result({"a": bad}, {"x": 1}, ("a",)) == RESULT  # documented
        assert judge_result({"a": bad}, {"x": np.nan}) == RESULT
        assert judge_result({"a": bad}, {"x": 1e300}) == RESULT


def troubled(seed):
    """Cases that end in all the ways that a process has to be watched for."""

    def case(number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3:
            time.sleep(100)
        if number == 5:
            return FOREIGN, "f(x=1): ValueError at numpy"
        return RESULT, ""

    return case


def test_crashes_and_hangs_are_seen_and_the_run_goes_on():
    tally = run(troubled, seconds=60, most=8, hang_s=0.5)
    assert tally.counts == {RESULT: 5, CRASH: 1, HANG: 1, FOREIGN: 1}
    assert [(number, outcome) for number, outcome, _ in sorted(tally.failures)] == [
        (1, CRASH), (3, HANG), (5, FOREIGN)
    ]


def test_cases_end_with_whoever_started_them(tmp_path):
    def run_and_be_killed():
        watched.run_watched(endless, (str(tmp_path / "process"),), seconds=1000, method="fork")

    parent = multiprocessing.get_context("fork").Process(target=run_and_be_killed)
    parent.start()
    while not (tmp_path / "process").exists():
        time.sleep(0.02)
    parent.kill()
    parent.join()
    child = int((tmp_path / "process").read_text())
    assert any(is_gone(child) or time.sleep(0.05) for _ in range(2000))


def endless(path):
    def case(number):
        Path(f"{path}.new").write_text(str(os.getpid()))
        Path(f"{path}.new").rename(path)
        time.sleep(0.01)
        return RESULT, ""

    return case


def test_command_counts_and_runs_one_case_again(monkeypatch, capsys):
    from n3match.pipelines.fuzz import command

    monkeypatch.setattr(command, "makers", lambda: {"calls": lambda seed, only: troubled(seed)})
    assert main(["fuzz", "--what", "calls", "--case", "5"]) == 1
    assert "calls 5: error that isn't ours: f(x=1): ValueError" in capsys.readouterr().out
    assert main(["fuzz", "--what", "calls", "--case", "0"]) == 0
    assert main(["fuzz", "--what", "calls", "--seconds", "0"]) == 2
    assert set(GOOD) == {RESULT, CLEAR}


def test_counts_add_up_over_restarts_and_seeds(monkeypatch, capsys, tmp_path):
    from n3match.pipelines.fuzz import command

    monkeypatch.setattr(command, "makers", lambda: {"calls": counted})
    path = tmp_path / "counts.jsonl"

    def fuzz(*words):
        status = main(["fuzz", "--what", "calls", "--counts", str(path), *words])
        return status, capsys.readouterr().out

    assert fuzz("--cases", "3")[0] == 0
    status, said = fuzz("--cases", "8")  # goes on with case 3; 5 is a failure
    assert status == 1 and "calls, seed 0: 5 in" in said and f"calls in {path}: 8 in" in said
    assert "1 times error that isn't ours, as case 5: f(5)" in said
    assert "calls, seed 0: 0 in" in fuzz("--cases", "8")[1]  # all are done
    assert f"calls in {path}: 10 in" in fuzz("--cases", "2", "--seed", "1")[1]
    path.write_text(path.read_text() + "half a li")
    assert main(["fuzz", "--counts", str(path)]) == 2
    assert "isn't of counts" in capsys.readouterr().err


def counted(seed, only):
    return lambda number: (FOREIGN if number == 5 and not seed else RESULT, f"f({number})")


def test_a_case_that_ends_while_it_is_looked_at_is_no_hang():
    class Clock:  # shared with the process, which sets it to 0 between two cases
        seen = iter([time.monotonic(), 0.0, 0.0, 0.0])

        def __getitem__(self, place):
            return next(self.seen)

    class Connection:
        polls = iter([False])

        def poll(self, seconds):
            try:
                return next(self.polls)
            except StopIteration:
                raise EOFError from None

    class Process:
        exitcode = 0
        join = kill = staticmethod(lambda: None)

    ended = watched._watch(Process, Connection(), Clock(), watched.Tally(), 60.0, lambda: None)
    assert ended is None
