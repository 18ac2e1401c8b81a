"""Converts a denoising network that Plötz & Roth released to n3match's own format.

Their weights are licensed for research and not part of n3match; this reads a file you have. It is
read as plain data (no code in it is run), its names and sizes are checked, and numbers too small to
have an effect are set to zero (as released, they make inference many times slower).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from n3match.nn import N3NetConfig
from n3match.pipelines.common.whole_file import check_target
from n3match.pipelines.denoising.released_checkpoint import as_network, read_released
from n3match.weights import save_weights

_UNTOLD = ("patch_size", "stride", "window", "temperature_bias")


def convert_checkpoint(source: Path, target: Path, **known) -> N3NetConfig:
    """Reads a released checkpoint and writes `target` (.safetensors); see `config_of`.

    Raises:
        ValueError, OSError: naming the file and what is wrong with it.
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: wanted a name that ends in .safetensors")
    check_target(target)
    released = read_released(source)
    try:
        net = as_network(released, **known)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    save_weights(target, net, converted_from=source.name, epoch=released.epoch)
    return net.config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = N3NetConfig()
    parser.add_argument("source", type=Path, help="the released file")
    parser.add_argument("target", type=Path, help="weights to write, NAME.safetensors")
    parser.add_argument(
        "--sigma", type=float, metavar="S",
        help="noise that the network was trained for, 8-bit units: the file doesn't tell",
    )
    for name in _UNTOLD:
        value = getattr(default, name)
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(value), default=value,
            help="what the file doesn't tell either (default: as published, %(default)s)",
        )


def main(arguments: argparse.Namespace) -> int:
    known = {name: getattr(arguments, name) for name in _UNTOLD}
    if arguments.sigma is not None:
        known["sigma"] = (arguments.sigma, arguments.sigma)
    config = convert_checkpoint(arguments.source, arguments.target, **known)
    print(arguments.target)
    for name, value in asdict(config).items():
        print(f"  {name:<19} {value}")
    return 0
