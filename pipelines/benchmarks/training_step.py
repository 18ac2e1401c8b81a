"""A training step of the network with N³ blocks beside one of the network without, on this CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from n3match.nn import MatchClassifier
from n3match.pipelines.benchmarks.measure import median_seconds
from n3match.pipelines.training import objective
from n3match.pipelines.training.config import TrainingConfig
from n3match.pipelines.training.sources import TrainingBatches

MATCHES = (1250,)
_NETWORK, _PLAIN = "n3-consensus", "cnnet"
_PASSES = {1: "one pass", 2: "two passes"}
_PAIRS = 8
_OPERATOR = ("n3match::tiled", "n3match::tiled_backward")


def run(sizes: Sequence[int], repeats: int) -> list[dict]:
    """For each number of matches a row with one pass of either network and a row with two."""
    return [_row(matches, passes, repeats) for matches in sizes for passes in _PASSES]


def _row(matches: int, passes: int, repeats: int) -> dict:
    steps = {
        network: _step(
            TrainingConfig(
                network=network, refine=passes == 2, generated=1.0, batch=_PAIRS,
                min_matches=matches, max_matches=matches,
            )
        )
        for network in (_NETWORK, _PLAIN)
    }
    seconds = median_seconds(steps, repeats)
    return {
        "training step": f"{_PAIRS} pairs of {matches} matches, {_PASSES[passes]}",
        **{f"{network}, s": f"{s:.3g}" for network, s in seconds.items()},
        f"{_NETWORK} / {_PLAIN}": round(seconds[_NETWORK] / seconds[_PLAIN], 2),
        "the operator's share": f"{100 * operator_share(steps[_NETWORK]):.0f} %",
    }


def _step(config: TrainingConfig) -> Callable[[], object]:
    """All that a step does once its batch is there, with every loss."""
    torch.manual_seed(config.seed)
    net = MatchClassifier(config.classifier).train()
    batch = TrainingBatches(config)[0]
    optimizer = torch.optim.Adam(net.parameters(), lr=config.rate)

    def step() -> None:
        total, _ = objective.losses(net, batch, config, config.essential_after)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimizer.step()

    return step


def operator_share(call: Callable[[], object]) -> float:
    """Share of a call's time that the dense operator takes, forward and backward."""
    whole = "whole call"
    with profile(activities=[ProfilerActivity.CPU]) as profiled, record_function(whole):
        call()
    events = profiled.events()
    total = sum(e.time_range.elapsed_us() for e in events if e.name == whole)
    return sum(e.time_range.elapsed_us() for e in events if _is_operator(e)) / total


def _is_operator(event: FunctionEvent) -> bool:
    """Called by others: the operator's own layers are events inside each other."""
    parent = event.cpu_parent
    return event.name in _OPERATOR and (parent is None or parent.name not in _OPERATOR)
