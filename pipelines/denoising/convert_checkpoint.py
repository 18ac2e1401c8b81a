"""Converts a denoising network that Plötz & Roth released to n3match's own format.

Their weights are licensed for research and not part of n3match; this reads a file you have. It is
read as plain data (no code in it is run), its names and sizes are checked, and numbers too small to
have an effect are set to zero (as released, they make inference many times slower).
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from n3match.pipelines.common.arguments import given_path, output_file

# What the file doesn't tell.
_UNTOLD = {"patch_size": int, "stride": int, "window": int, "temperature_bias": float}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=given_path, help="the released file")
    parser.add_argument(
        "target", type=output_file(".safetensors"), help="weights to write, NAME.safetensors"
    )
    parser.add_argument(
        "--sigma", type=float, metavar="S",
        help="noise that the network was trained for, 8-bit units: the file doesn't tell",
    )
    for name, kind in _UNTOLD.items():
        parser.add_argument(
            "--" + name.replace("_", "-"), type=kind,
            help="what the file doesn't tell either (default: as published)",
        )


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.denoising.released_checkpoint import convert_checkpoint

    known = {name: getattr(arguments, name) for name in _UNTOLD}
    known = {name: value for name, value in known.items() if value is not None}
    if arguments.sigma is not None:
        known["sigma"] = (arguments.sigma, arguments.sigma)
    config = convert_checkpoint(arguments.source, arguments.target, **known)
    print(arguments.target)
    for name, value in asdict(config).items():
        print(f"  {name:<19} {value}")
    return 0
