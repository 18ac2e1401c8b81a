"""What determines a run, whatever it trains, and the options that set it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from n3match.pipelines.common.arguments import output_folder

SCHEDULES = ("constant", "cosine")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What determines a run's curve; each task adds its own.

    An option that is added later has a default that changes nothing: it is what checkpoints
    without it were trained with.
    """

    initial: str = ""  # weights to start from: a shipped name or a file; "": random
    steps: int
    rate: float = 1e-3
    schedule: str = "cosine"  # after the warm-up
    warmup: int = 200  # steps in which the rate rises linearly
    ema: float = 0.0  # memory of the running mean of weights that is kept; 0: the last ones
    clip: float = 0.0  # largest gradient norm; 0: any
    precision: str = "float32"  # of the network's matrix products
    seed: int = 0

    def __post_init__(self):
        self._check_known(schedule=SCHEDULES, precision=PRECISIONS)
        self._check_least(1, "steps")
        self._check_least(0, "warmup", "clip", "seed")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in 0 … 1, got {self.ema}")

    def _check_known(self, **known: Iterable[str]) -> None:
        for name, values in known.items():
            if getattr(self, name) not in values:
                found = getattr(self, name)
                raise ValueError(f"{name} must be one of {tuple(values)}, got {found!r}")

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def _check_weights(self, what: str, weights: Sequence[float], of: Sequence[str]) -> None:
        """One for each of some files or folders, or none at all."""
        if weights and len(weights) != len(of):
            raise ValueError(
                f"{what}: {len(weights)} weights for {len(of)}: give one for each or none "
                "(PATH:WEIGHT)"
            )
        if not all(0 < w < math.inf for w in weights):
            raise ValueError(f"{what}: weights must be positive numbers, got {weights}")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then the rate itself, or a cosine down to 1 % of it."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.rate
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def flag(name: str) -> str:
    """The option that sets a field."""
    return "--" + name.replace("_", "-")


def add_run_arguments(
    parser: argparse.ArgumentParser,
    config: type[RunConfig],
    numbers: Sequence[str],
    helps: Mapping[str, str],
) -> None:
    """Options of every training; numbers: the task's fields that are plain numbers, each an option
    of the same name; helps: what some of them are."""
    parser.add_argument(
        "out", type=output_folder, help="folder of the run; an existing run goes on"
    )
    parser.add_argument(
        "--initial", metavar="WEIGHTS",
        help="start from these weights (a shipped name or a file) instead of at random",
    )
    parser.add_argument("--schedule", choices=SCHEDULES, help="of the rate, after the warm-up")
    for name in numbers:
        kind = type(getattr(config, name))
        parser.add_argument(
            flag(name), type=kind, metavar=kind.__name__.upper(), help=helps.get(name)
        )
    parser.add_argument("--device", help="cpu, cuda, … (default: a GPU where there is one)")
    parser.add_argument(
        "--save-every", type=int, default=100, metavar="STEPS", help="default: %(default)s"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument(
        "--compile", action="store_true",
        help="put the network through torch.compile: a minute or two at every start (on a CPU it "
        "wants a C++ compiler), then faster steps of networks that see all matches, or images",
    )


def given_options(arguments: argparse.Namespace, config: type[RunConfig]) -> dict[str, Any]:
    """Those fields of a configuration that the command line set."""
    given = {name: getattr(arguments, name, None) for name in config.__dataclass_fields__}
    return {name: value for name, value in given.items() if value is not None}


def parse_weighted(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Files or folders and weights from PATH or PATH:WEIGHT; no weights where none is given."""
    paths, weights = [], []
    for text in texts:
        path, colon, tail = text.rpartition(":")
        try:
            weight = float(tail) if colon and path else None
        except ValueError:
            weight = None
        paths.append(text if weight is None else path)
        if weight is not None:
            weights.append(weight)
    return tuple(paths), tuple(weights)
