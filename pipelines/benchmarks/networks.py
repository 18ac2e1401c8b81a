"""Networks with the operator beside plain ones: an image denoised, a step of training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from n3match.denoising import Denoiser, denoise
from n3match.nn import PRESETS, MatchFilter, N3Net
from n3match.pipelines.benchmarks.measure import (
    Limits,
    median_seconds,
    peak_bytes,
    seconds_in_turns,
)
from n3match.pipelines.training.filter import objective
from n3match.pipelines.training.filter.batches import TrainingBatches
from n3match.pipelines.training.filter.config import TrainingConfig
from n3match.weights import save_weights

_NETWORK, _PLAIN = "n3-consensus", "cnnet"
_PASSES = {1: "one pass", 2: "two passes"}
_PAIRS = 8
_OPERATOR = ("n3match::dense", "n3match::dense_backward")
_BESIDE, NETWORKS = "dncnn-17", ("n3net", "n3net-fast")


def loaded(name: str) -> Denoiser:
    """A network as it comes from a file: batch norms folded into the convolutions."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save_weights(path, N3Net(PRESETS[name]).eval())
        return Denoiser.from_pretrained(path)


def prepare(name: str, side: int, threads: int) -> Callable[[], object]:
    """A call that denoises a random image, side × side."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    net = loaded(name)
    image = np.random.default_rng(0).random((side, side), dtype=np.float32)
    # What a first call loads and keeps is no matter of the image's size.
    denoise(image[:64, :64], weights=net)
    return lambda: denoise(image, weights=net)


def denoising_rows(sides: Sequence[int], limits: Limits) -> list[dict]:
    """N³Net and its fast form beside one DnCNN of 17 layers, all as they come from a file: least
    CPU seconds, of all threads, and peak memory on the same images.

    Weights are as initialised: neither time nor memory depends on what they are.
    """
    rows = []
    threads = torch.get_num_threads()
    names = (_BESIDE, *NETWORKS)
    for side in sides:
        calls = {name: prepare(name, side, threads) for name in names}
        turns = seconds_in_turns(calls, limits.repeats, limits.seconds, time.process_time)
        seconds = {name: min(values) for name, values in turns.items()}
        row = {"image": f"{side}²"}
        row |= {f"{name}, s": f"{seconds[name]:.3g}" for name in names}
        row |= {
            f"{name} / {_BESIDE}": f"{seconds[name] / seconds[_BESIDE]:.2f}" for name in NETWORKS
        }
        if limits.memory:
            peaks = {name: peak_bytes(prepare, name, side, threads) for name in names}
            row |= {f"{name}, MB": f"{peaks[name] / 1e6:.0f}" for name in names}
        rows.append(row)
    return rows


def training_rows(sizes: Sequence[int], repeats: int) -> list[dict]:
    """A training step of the network with N³ blocks beside one of the network without, on this CPU.

    For each number of matches a row with one pass of either network and a row with two.
    """
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
    net = MatchFilter(config.net).train()
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
