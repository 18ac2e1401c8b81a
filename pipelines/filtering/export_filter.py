"""A match filter as one ONNX file, for onnxruntime and other programs without PyTorch.

Inputs of the graph, for B pairs of N matches (both chosen anew with each call): points0, points1
(B, N, 2) calibrated coordinates, side_info (B, N, S) and keypoint_change (B, N, 3) where the filter
has them, mask (B, N) bool, True for real matches. Output: logits (B, N); above 0: keep.
"""

from __future__ import annotations

import argparse

from n3match import weights
from n3match.pipelines.common.arguments import output_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "filter", metavar="FILTER",
        help=f"shipped weights ({', '.join(weights.shipped())}) or a file of weights",
    )
    parser.add_argument("out", type=output_file(".onnx"), metavar="OUT.onnx")


def main(arguments: argparse.Namespace) -> int:
    from n3match import export_onnx
    from n3match.export.filter import input_names
    from n3match.nn.match_filter import MatchFilter

    net = MatchFilter.from_pretrained(arguments.filter)
    export_onnx(net, arguments.out)
    columns = {"side_info": ", ".join(net.side_info)}
    for name in input_names(net):
        print(f"input      {name}" + (f" ({columns[name]})" if name in columns else ""))
    print("output     logits")
    print(f"written    {arguments.out}")
    return 0
