"""N³Net beside one DnCNN of 17 layers: time and peak memory on the same images.

Weights are as initialised: neither time nor memory depends on what they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from n3match.denoising import Denoiser, denoise
from n3match.nn import PRESETS, N3Net
from n3match.pipelines.benchmarks.measure import Limits, peak_bytes, seconds_within
from n3match.weights import save_weights

NETWORKS = ("dncnn-17", "n3net")


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


def run(sides: Sequence[int], limits: Limits) -> list[dict]:
    rows = []
    threads = torch.get_num_threads()
    for side in sides:
        calls = {name: prepare(name, side, threads) for name in NETWORKS}
        seconds = seconds_within(calls, limits.repeats, limits.seconds)
        row = {"image": f"{side}²"}
        row |= {f"{name}, s": f"{seconds[name]:.3g}" for name in NETWORKS}
        row["n3net / dncnn-17"] = f"{seconds['n3net'] / seconds['dncnn-17']:.2f}"
        if limits.memory:
            peaks = {name: peak_bytes(prepare, name, side, threads) for name in NETWORKS}
            row |= {f"{name}, MB": f"{peaks[name] / 1e6:.0f}" for name in NETWORKS}
        rows.append(row)
    return rows
