"""The state of a run on disk: all that is needed to go on, read back without pickle."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import torch

from n3match.files.given import parse_json
from n3match.files.whole import whole_file
from n3match.pipelines.common.plain_torch import load_plain
from n3match.pipelines.training.config import RunConfig
from n3match.weights.store import with_present_names

_PARTS = {"config", "net", "optimizer", "progress"}  # and `averaged`, where a mean is kept


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # the next one
    skipped: int = 0  # steps without finite gradients so far
    best: tuple[float, ...] = ()  # the best validation's marks; (): none yet
    since_best: int = 0  # validations since then
    stopped: bool = False  # early


def save_state(path: Path, config: RunConfig, progress: Progress, **parts: dict) -> None:
    """Writes a state that a kill leaves whole; parts: state dictionaries of `net`, `optimizer` and,
    where there is one, `averaged`."""
    state = {"config": json.dumps(asdict(config)), "progress": asdict(progress), **parts}
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path, config: RunConfig, weights: Path) -> dict | None:
    """What `save_state` wrote, on the CPU; None where there is no such file.

    States of version 0.1 are read as well; the best weights of such a run are moved to `weights`.

    Raises:
        ValueError: no checkpoint, or that of a run with other options, naming them.
    """
    if not path.exists():
        return None
    state = load_plain(path, "a training checkpoint of n3match")
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a training checkpoint of n3match")
    if "step" in state:  # a denoiser's, of version 0.1
        state["progress"] = {name: state.pop(name) for name in ("step", "skipped")}
    missing = _PARTS - set(state)
    if missing:
        raise ValueError(f"{path} is not a state of a training: it has no {sorted(missing)}")
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    if not isinstance(state["config"], str) or not isinstance(state["progress"], dict):
        raise ValueError(f"{path} is not a state of a training: damaged")
    told = parse_json(state["config"], f"{path}: config")
    found = _plain(defaults) | with_present_names(told)
    wanted = _plain(config)
    if found != wanted:
        other = [
            f"{name} {found.get(name)!r}, here {wanted.get(name)!r}"
            for name in sorted({*found, *wanted})
            if found.get(name) != wanted.get(name)
        ]
        raise ValueError(
            f"{path.parent} holds a run with other options: {'; '.join(other)}; "
            "give the same ones, or another folder"
        )
    best = path.with_name("best.safetensors")  # in version 0.1, until the run was over
    if best.exists():
        best.replace(weights)
    progress = state["progress"]
    try:
        state["progress"] = Progress(**progress | {"best": tuple(progress.get("best", ()))})
    except TypeError as error:
        raise ValueError(f"{path} is not a state of a training: {error}") from error
    return state


def _plain(value):
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=asdict))
