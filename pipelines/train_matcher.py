"""`n3match train-matcher`: trains a match filter on stored real pairs and generated geometry.

A run lives in one folder: `state.pt` (everything needed to go on), `log.csv`, with --validation
also `validation.csv` and `best.safetensors`, and at the end `filter.safetensors`: the best weights
by validation, the last ones without. Started again with the same options, it goes on where it was:
batch number s depends on the seed and s alone, so a killed run gives the same curve.

Protocols set the options that aren't given: "published" is that of CNNet and N³ (coordinates
alone, real pairs, class-balanced loss, distance of essential matrices after 20 000 steps); "modern"
adds side information, keypoint shapes, augmentation, generated pairs, a second pass, a loss on
virtual matches, warm-up and cosine, and a bound of the temperatures (--coldest=-inf: none).

Several processes, on one machine or more: `torchrun --nproc-per-node 4 -m n3match.pipelines.cli
train-matcher …`. The batch is that of all of them together. TensorBoard scalars are written where
the package tensorboard is installed (pip install 'n3match[tensorboard]').
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

import torch

from n3match.pipelines.training.config import (
    NETWORKS,
    PRECISIONS,
    PROTOCOLS,
    SCHEDULES,
    TrainingConfig,
    parse_pairs,
)
from n3match.pipelines.training.loop import train

# Options of the run that are plain numbers or switches, each a flag of the same name.
NUMBERS = (
    "steps", "batch", "refinements", "min_matches", "max_matches", "coldest", "drop_side",
    "drop_candidates", "drop_shape", "hard", "rate", "warmup", "label_threshold", "balance",
    "not_mutual", "essential_weight", "geometric_weight", "essential_after", "swapped_weight",
    "ema", "clip", "validate_every", "validation_pairs", "patience", "seed",
)
SWITCHES = ("refine", "side_information", "keypoint_shape", "mutual_only", "augment")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, help="folder of the run; an existing run goes on")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="modern")
    parser.add_argument(
        "--pairs", nargs="*", default=[], metavar="H5[:WEIGHT]",
        help="stores written by build-pairs, or OANet dumps; weights say how often each is drawn "
        "(without: by the number of its scenes and pairs)",
    )
    parser.add_argument("--network", choices=tuple(NETWORKS))
    parser.add_argument(
        "--initial", default="", metavar="WEIGHTS",
        help="fine-tune these weights (a shipped name or a file) instead of starting at random",
    )
    parser.add_argument(
        "--generated", type=float, default=None,
        help="share of generated pairs (default: the protocol's with --pairs, else 1)",
    )
    parser.add_argument(
        "--validation", nargs="*", default=[], metavar="H5",
        help="stores that aren't trained on: the weights best there are kept",
    )
    parser.add_argument(
        "--validation-estimator", metavar="ESTIMATOR", help="as in evaluate-pose"
    )
    parser.add_argument("--schedule", choices=SCHEDULES, help="of the rate, after the warm-up")
    parser.add_argument(
        "--precision", choices=("auto", *PRECISIONS), default="auto",
        help="of the network's matrix products (auto: bfloat16 on a GPU)",
    )
    for name in SWITCHES:
        parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, default=None)
    for name in NUMBERS:
        kind = type(getattr(TrainingConfig(generated=1.0), name))
        parser.add_argument(_flag(name), type=kind, metavar=kind.__name__.upper())
    parser.add_argument("--device", help="cpu, cuda, … (default: a GPU where there is one)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between states")
    parser.add_argument(
        "--loaders", type=int, default=None,
        help="processes that make batches (default: a thread on a CPU, several for a GPU)",
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")


def main(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    for name, least in (("save_every", 1), ("loaders", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"{_flag(name)} must be at least {least}, got {value}")
    device = torch.device(
        arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    )
    loaders = arguments.loaders
    if loaders is None:
        loaders = 0 if device.type == "cpu" else _loaders_beside_a_gpu()
    path = train(
        config_from(arguments, device),
        arguments.out,
        save_every=arguments.save_every,
        device=device,
        loaders=loaders,
    )
    if os.environ.get("RANK", "0") == "0":
        print(path, file=sys.stdout)
    return 0


def config_from(arguments: argparse.Namespace, device: torch.device) -> TrainingConfig:
    """The protocol's options, those given in their place."""
    stores, weights = parse_pairs(arguments.pairs)
    options = dict(PROTOCOLS[arguments.protocol])
    options |= {"pairs": stores, "pair_weights": weights, "validation": arguments.validation}
    options["validation"] = tuple(options["validation"])
    if not stores:
        options["generated"] = 1.0
    precision = arguments.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    options["precision"] = precision
    names = {field.name for field in fields(TrainingConfig)} - set(options)
    for name in (*names, *PROTOCOLS[arguments.protocol], "generated"):
        value = getattr(arguments, name, None)
        if value is not None:
            options[name] = value
    return TrainingConfig(**options)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _loaders_beside_a_gpu() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, min(8, share - 1))
