"""The files of a run: its state, its log, and the weights it starts from."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from n3match.nn import ClassifierConfig, MatchClassifier
from n3match.nn.classifier import SHAPE_COLUMNS
from n3match.nn.refinement import EVIDENCE_COLUMNS
from n3match.pipelines.averaged import AveragedWeights
from n3match.pipelines.checkpoint import load_checkpoint, save_checkpoint
from n3match.pipelines.training.config import TrainingConfig
from n3match.weights import load_weights, save_weights


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # the next one
    skipped: int = 0  # steps without finite gradients so far
    best: tuple[float, ...] = ()  # the best validation's marks; (): none yet
    since_best: int = 0  # validations since then
    stopped: bool = False  # early


def save_state(
    path: Path,
    config: TrainingConfig,
    net: MatchClassifier,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    averaged: AveragedWeights | None = None,
) -> None:
    """Writes everything that is needed to go on."""
    state = {
        "config": json.dumps(asdict(config)),
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
    }
    if averaged is not None:
        state["averaged"] = averaged.state
    save_checkpoint(path, state)


def load_state(path: Path, config: TrainingConfig) -> dict | None:
    """What `save_state` wrote, on the CPU; None where there is no such file.

    Raises:
        ValueError: no checkpoint, or that of a run with other options, naming them.
    """
    if not path.exists():
        return None
    state = load_checkpoint(path, torch.device("cpu"))
    missing = {"config", "net", "optimizer", "progress"} - set(state)
    if missing:
        raise ValueError(f"{path} is not a state of this version: it has no {sorted(missing)}")
    if state["config"] != json.dumps(asdict(config)):
        found, wanted = json.loads(state["config"]), json.loads(json.dumps(asdict(config)))
        other = [
            f"{name} {found.get(name)!r}, here {wanted.get(name)!r}"
            for name in sorted({*found, *wanted})
            if found.get(name) != wanted.get(name)
        ]
        raise ValueError(
            f"{path.parent} holds a run with other options: {'; '.join(other)}; "
            "give the same ones, or another folder"
        )
    return state


def save_filter(path: Path, net: MatchClassifier, config: TrainingConfig, **notes) -> None:
    """Weights with notes on how they were made.

    Only names: where files lay on the machine that trained is nobody's business.
    """
    made = asdict(config) | {
        "pairs": [Path(store).name for store in config.pairs],
        "validation": [Path(store).name for store in config.validation],
        "initial": Path(config.initial).name,
    }
    save_weights(path, net, training=made | notes)


def with_refinements(config: TrainingConfig) -> TrainingConfig:
    """Where the number of refinements isn't given: that of the weights to start from."""
    if config.refinements or not config.refine or not config.initial:
        return config
    try:
        _, described, _ = load_weights(config.initial)
    except FileNotFoundError:  # no harm for a run that only goes on; a new one says so itself
        return config
    return replace(config, refinements=described.get("refinements", 1))


def load_initial(net: MatchClassifier, name_or_path: str) -> None:
    """Weights to fine-tune; a second pass, shapes or consensus that they lack are added.

    Raises:
        FileNotFoundError, ValueError: no such weights, or those of another network.
    """
    _, described, state = load_weights(name_or_path)
    found = ClassifierConfig(**described)
    # Only a lift can be widened: in a second pass other columns come after these, and a consensus
    # has them for every neighbour.
    can_widen = not (found.refine or found.consensus or found.pruning)
    if net.config.keypoint_shape and not found.keypoint_shape and can_widen:
        # Weights that don't know of shapes yet: they start by not looking at them.
        found = replace(found, keypoint_shape=True)
        _add_columns(state, "trunk.lift.weight", SHAPE_COLUMNS)
    # These have no weights.
    found = replace(found, mutual_only=net.config.mutual_only, coldest=net.config.coldest)
    if found.refine:
        found = replace(found, refinements=net.config.refinements)
    if net.config.consensus and not found.consensus:
        found = replace(found, consensus=True)
        state |= {
            name: tensor
            for name, tensor in net.state_dict().items()
            if ".consensus." in name or ".place." in name  # they start without effect
        }
    if net.config.refine and not found.refine:
        # The second pass starts as a copy of the first.
        found = replace(found, refine=True, refinements=net.config.refinements)
        trunk = {name: t for name, t in state.items() if name.startswith("trunk.")}
        state |= {f"refinement.{name}": t.clone() for name, t in trunk.items()}
        for layer in ("lift", "consensus.place", "consensus.temperature"):
            name = f"refinement.trunk.{layer}.weight"
            if name in state:
                _add_columns(state, name, EVIDENCE_COLUMNS)
    if found != net.config:
        raise ValueError(
            f"initial: {name_or_path} is a network of {described}, {asdict(net.config)} wanted"
        )
    net.load_state_dict(state)


def _add_columns(state: dict[str, Tensor], name: str, count: int) -> None:
    """More input columns for a layer, which it doesn't look at as yet."""
    weight = state[name]
    state[name] = torch.cat([weight, weight.new_zeros(len(weight), count)], 1)


class CsvLog:
    """A row of numbers per step.

    Args:
        path: of the file; rows of step `start` and later are dropped, they will be run again.
        start: the first step that will be written.
    """

    def __init__(self, path: Path, start: int):
        self._path = path
        if path.exists():
            _cut(path, start)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *numbers])
            writer.writerow([step, *(f"{v:.6g}" for v in numbers.values())])


def _cut(path: Path, start: int) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    # A kill may leave half a row behind; it belongs to a step that will be run again.
    kept = [
        row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) < start
    ]
    if not kept:
        path.unlink()
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *kept])
    temporary.replace(path)
