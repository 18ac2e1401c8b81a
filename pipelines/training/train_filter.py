"""`n3match train-filter`: trains a match filter on stored real pairs and generated geometry.

A run lives in one folder: `state.pt` (everything needed to go on), `log.csv`, with --validation
also `validation.csv`, and `filter.safetensors`: the best weights by validation so far, without one
the last, written with each state. Started again with the same options, it goes on where it was:
batch number s depends on the seed and s alone, so a killed run gives the same curve.

Protocols set the options that aren't given: "published" is that of CNNet and N³ (coordinates
alone, real pairs, class-balanced loss, distance of essential matrices after 20 000 steps); "modern"
adds side information, keypoint changes, augmentation, generated pairs, a refinement pass, a loss on
virtual matches, warm-up and cosine, and a bound of the temperatures (--min-log-temperature=-inf:
none).

Several processes, on one machine or more: `torchrun --nproc-per-node 4 -m n3match.pipelines.cli
train-filter …`. The batch is that of all of them together. TensorBoard scalars are written where
the package tensorboard is installed (pip install 'n3match[tensorboard]').
"""

from __future__ import annotations

import argparse
import os

from n3match.pipelines.training.config import (
    PRECISIONS,
    add_run_arguments,
    flag,
    given_options,
)
from n3match.pipelines.training.filter.config import (
    NETWORKS,
    PROTOCOLS,
    TrainingConfig,
    parse_pairs,
)

# Fields that are plain numbers or switches, each an option of the same name.
NUMBERS = (
    "steps", "batch", "refinements", "min_matches", "max_matches", "min_log_temperature",
    "drop_side_info", "drop_candidates", "drop_keypoint_change", "hard", "rate", "warmup",
    "label_threshold", "balance", "not_mutual", "essential_weight", "geometric_weight",
    "essential_after", "swapped_weight", "ema", "clip", "validate_every", "validation_pairs",
    "patience", "seed",
)
SWITCHES = ("refine", "side_info", "keypoint_change", "mutual_only", "augment")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, TrainingConfig, NUMBERS, {})
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="modern")
    parser.add_argument(
        "--pairs", nargs="*", default=[], metavar="H5[:WEIGHT]",
        help="stores written by build-pairs, or OANet dumps; weights say how often each is drawn "
        "(without: by the number of its scenes and pairs)",
    )
    parser.add_argument("--network", choices=tuple(NETWORKS))
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
    parser.add_argument(
        "--precision", choices=("auto", *PRECISIONS), default="auto",
        help="of the network's matrix products (auto: bfloat16 on a GPU)",
    )
    for name in SWITCHES:
        parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument(
        "--loaders", type=int, default=None,
        help="processes that make batches (default: a thread on a CPU, several for a GPU)",
    )


def main(arguments: argparse.Namespace) -> int:
    import torch

    from n3match.pipelines.training.filter.task import FilterTask
    from n3match.pipelines.training.run import train_by_command

    loaders = arguments.loaders
    if loaders is not None and loaders < 0:
        raise ValueError(f"--loaders must be at least 0, got {loaders}")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if loaders is None:
        loaders = 0 if device.type == "cpu" else _loaders_beside_a_gpu()
    config = config_from(arguments, device.type)
    return train_by_command(FilterTask(config), arguments, loaders)


def config_from(arguments: argparse.Namespace, device: str) -> TrainingConfig:
    """The protocol's options, those given in their place; `device`: "cpu", "cuda", …"""
    given = given_options(arguments, TrainingConfig)
    stores, weights = parse_pairs(arguments.pairs)
    given |= {"pairs": stores, "pair_weights": weights, "validation": tuple(arguments.validation)}
    if arguments.precision == "auto":
        given["precision"] = "bfloat16" if device == "cuda" else "float32"
    options = PROTOCOLS[arguments.protocol] | ({} if stores else {"generated": 1.0})
    return TrainingConfig(**options | given)


def _loaders_beside_a_gpu() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, min(8, share - 1))
