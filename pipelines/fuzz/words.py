"""Command lines with options that are nothing, on inputs that aren't there: no work is done."""

from __future__ import annotations

import argparse
import contextlib
import io
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import numpy as np

from n3match.pipelines import cli
from n3match.pipelines.fuzz.outcomes import CLEAR, FOREIGN, RESULT, judge_error

#: Commands that work without any input, and this one.
_WITHOUT_INPUT = ("demo", "benchmark", "fuzz")
_TEXTS = (
    "", "0", "-1", "1", "2", "1e9", "nan", "inf", "-inf", "x", "ü" * 50, "9" * 30, "9" * 5000,
    "0.5", "1,2,3,4", "1,2", ",", "a/../b", "../x", "nowhere/x.png", "x.h5", "x.db", "x.csv", ".",
    "/dev/null", "/dev/zero", "/dev/full", "sift", "cuda:9", "meta", "cpu", "poselib", "http://x/y",
    "\udcff", "%s", "--", "-", "a=b", "x" * 300,
)  # fmt: skip


@dataclass(frozen=True)
class CommandLine:
    """One command, as a target among the public functions."""

    name: str
    rate: float = 0.02

    def run(self, rng: np.random.Generator) -> tuple[str, str]:
        """One line of words for it: what became of it, and what is to be said."""
        command = self.name.removeprefix("n3match ")
        words = [command, *_words(command, rng)]
        names = {word.lstrip("-").replace("-", sep) for word in words for sep in "-_"} - {""}
        names |= {form for word in words for form in (word or ".", repr(word)[1:-1])}
        names |= {action.dest for action in _actions(command)}
        names |= {action.metavar for action in _actions(command) if isinstance(action.metavar, str)}
        said = io.StringIO()
        told = f"{self.name}({' '.join(repr(word)[:80] for word in words[1:])})"
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                status = cli.main(["--traceback", *words])
        except Exception as error:
            outcome, what = judge_error(error, names)
            return outcome, f"{told}: {what}"
        if status in (0, 1):
            return RESULT, told
        lines = said.getvalue().strip().splitlines()
        if status == 2 and lines and lines[-1].startswith("n3match: error: "):
            return CLEAR, told
        return FOREIGN, f"{told}: ended with {status}, saying {lines[-3:]}"


def _words(command: str, rng: np.random.Generator) -> list[str]:
    actions = _actions(command)
    words = []
    for action in actions:
        if not action.option_strings:
            words += [f"missing{len(words)}"] if rng.random() < 0.8 else [_text(rng)]
    options = [action for action in actions if action.option_strings and action.dest != "help"]
    for _ in range(int(rng.integers(4)) if options else 0):
        option = options[int(rng.integers(len(options)))]
        words.append(option.option_strings[-1])
        if option.nargs != 0:
            is_choice = option.choices and rng.random() < 0.5
            choices = [str(choice) for choice in option.choices or ()]
            text = choices[int(rng.integers(len(choices)))] if is_choice else _text(rng)
            words.append(text)
    # Which alone needs no input: it generates pairs.
    return [*words, "--pairs", "missing.h5"] if command == "train-filter" else words


def _text(rng: np.random.Generator) -> str:
    return _TEXTS[int(rng.integers(len(_TEXTS)))]


@lru_cache
def _actions(command: str) -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    import_module(f"n3match.pipelines.{cli.COMMANDS[command][0]}").add_arguments(parser)
    return parser._actions


def command_lines() -> list[CommandLine]:
    """All commands but those that need no input."""
    return [CommandLine(f"n3match {name}") for name in cli.COMMANDS if name not in _WITHOUT_INPUT]
