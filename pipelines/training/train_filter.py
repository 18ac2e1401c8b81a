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
from dataclasses import replace

from n3match.pipelines.common.arguments import cores_of_a_process
from n3match.pipelines.pairs.sources import (
    MIN_CONSISTENT,
    add_source_arguments,
    source_options,
    store_paths,
    stores_of,
)
from n3match.pipelines.training.config import (
    PRECISIONS,
    add_run_arguments,
    flag,
    given_options,
    parse_weighted,
)
from n3match.pipelines.training.filter.config import (
    NETWORKS,
    PROTOCOLS,
    TrainingConfig,
)

# Fields that are plain numbers or switches, each an option of the same name.
NUMBERS = (
    "steps", "batch", "refinements", "min_matches", "max_matches", "min_log_temperature",
    "drop_side_info", "drop_candidates", "drop_second", "drop_keypoint_change", "hard", "rate",
    "warmup", "label_threshold", "balance", "not_mutual", "essential_weight", "geometric_weight",
    "essential_after", "swapped_weight", "ema", "clip", "validate_every", "validation_pairs",
    "patience", "seed",
)
SWITCHES = (
    "refine", "side_info", "keypoint_change", "mutual_only", "second_nearest", "verdict_only",
    "augment",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, TrainingConfig, NUMBERS, {})
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="modern")
    parser.add_argument(
        "--pairs", nargs="*", default=[], metavar="SOURCE[:WEIGHT]",
        help="stores written by build-pairs, or OANet dumps, or what build-pairs takes (scenes, "
        "folders of scenes, pair lists): its store is made in OUT/pairs first; weights say how "
        "often each is drawn (without: by the number of its scenes and pairs)",
    )
    parser.add_argument("--network", choices=tuple(NETWORKS))
    parser.add_argument(
        "--generated", type=float, default=None,
        help="share of generated pairs (default: the protocol's with --pairs, else 1)",
    )
    parser.add_argument(
        "--validation", nargs="*", default=[], metavar="SOURCE",
        help="those that aren't trained on: the weights best there are kept",
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
    add_source_arguments(parser)
    parser.add_argument(
        "--max-keypoints", type=int, default=2000, metavar="N",
        help="per image, of sources that aren't stores (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    import torch

    from n3match.pipelines.common.devices import checked_device
    from n3match.pipelines.training.filter.task import FilterTask
    from n3match.pipelines.training.run import train_by_command

    loaders = arguments.loaders
    if loaders is not None and loaders < 0:
        raise ValueError(f"--loaders must be at least 0, got {loaders}")
    device = checked_device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if loaders is None:
        loaders = 0 if device.type == "cpu" else _loaders_beside_a_gpu()
    config = with_stores(config_from(arguments, device.type), arguments)
    return train_by_command(FilterTask(config), arguments, loaders)


def config_from(arguments: argparse.Namespace, device: str) -> TrainingConfig:
    """The protocol's options, those given in their place; `device`: "cpu", "cuda", …"""
    given = given_options(arguments, TrainingConfig)
    stores, weights = parse_weighted(arguments.pairs)
    given |= {"pairs": stores, "pair_weights": weights, "validation": tuple(arguments.validation)}
    if arguments.precision == "auto":
        given["precision"] = "bfloat16" if device == "cuda" else "float32"
    options = PROTOCOLS[arguments.protocol] | ({} if stores else {"generated": 1.0})
    return TrainingConfig(**options | given)


def with_stores(config: TrainingConfig, arguments: argparse.Namespace) -> TrainingConfig:
    """The same with the stores of the sources that aren't stores, in OUT/pairs.

    The first process makes them; the others wait for it when the training begins.

    Raises:
        OSError, ValueError: see `stores_of`.
    """
    sources, folder = [*config.pairs, *config.validation], arguments.out / "pairs"
    if os.environ.get("RANK", "0") == "0":
        stores = stores_of(
            sources, folder, source_options(arguments), dumps=True,
            max_keypoints=arguments.max_keypoints, min_consistent=MIN_CONSISTENT,
            strict=False, processes=cores_of_a_process(),
        )
    else:
        stores = store_paths(
            sources, folder, arguments.feature, arguments.max_keypoints, dumps=True
        )
    paths = tuple(map(str, stores))
    count = len(config.pairs)
    return replace(config, pairs=paths[:count], validation=paths[count:])


def _loaders_beside_a_gpu() -> int:
    return max(1, min(8, cores_of_a_process() - 1))
