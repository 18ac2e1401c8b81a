"""The weights that the training of a filter starts from, made to fit its network."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import Tensor

from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn import MatchFilter, MatchFilterConfig
from n3match.nn.passes import EVIDENCE_COLUMNS
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.weights import load_weights


def with_refinements(config: TrainingConfig) -> TrainingConfig:
    """Where the number of refinements isn't given: that of the weights to start from."""
    if config.refinements or not config.refine or not config.initial:
        return config
    try:
        _, described, _ = load_weights(config.initial)
    except FileNotFoundError:  # no harm for a run that only goes on; a new one says so itself
        return config
    return replace(config, refinements=described.get("refinements", 1))


def load_initial(net: MatchFilter, name_or_path: str) -> None:
    """Weights to fine-tune; what they lack of passes, keypoint changes, consensus is added.

    Raises:
        FileNotFoundError, ValueError: no such weights, or those of another network.
    """
    _, described, state = load_weights(name_or_path)
    found = MatchFilterConfig(**described)
    # Only a lift can be widened: in a refinement pass other columns come after these, and a
    # consensus has them for every neighbour.
    can_widen = not (found.refine or found.consensus or found.pruning)
    if net.config.keypoint_change and not found.keypoint_change and can_widen:
        # Weights that don't know of keypoint changes yet: they start by ignoring them.
        found = replace(found, keypoint_change=True)
        _add_columns(state, "trunk.lift.weight", CHANGE_COLUMNS)
    # These have no weights.
    found = replace(
        found,
        mutual_only=net.config.mutual_only,
        second_nearest=net.config.second_nearest,
        binary_descriptors=net.config.binary_descriptors,
        min_log_temperature=net.config.min_log_temperature,
    )
    if found.refine:
        found = replace(found, refinements=net.config.refinements)
    if found.pruning and net.config.pruning:
        found = replace(found, pruning=replace(
            found.pruning,
            mutual_stages=net.config.pruning.mutual_stages,
            verdict_neighbours=net.config.pruning.verdict_neighbours,
        ))
        edges = "pruning.edges."  # the verdict's neighbours start as they come
        if not any(name.startswith(edges) for name in state):
            new = net.state_dict()
            state |= {name: tensor for name, tensor in new.items() if name.startswith(edges)}
    if net.config.consensus and not found.consensus:
        found = replace(found, consensus=True)
        state |= {
            name: tensor
            for name, tensor in net.state_dict().items()
            if ".consensus." in name or ".place." in name  # they start without effect
        }
    if net.config.refine and not found.refine:
        # The refinement pass starts as a copy of the first.
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
