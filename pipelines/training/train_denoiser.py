"""Trains a denoising network on folders of clean images.

Noise is added on the fly: Gaussian of one σ (--sigma 25), of a range with a noise map, one network
for all levels (--sigma 0 75), or a camera's, on images made raw-like (--noise raw, or bayer for the
four planes of a mosaic). Over a range each level has the same say: the loss of a crop is weighted
by about 1/σ, since its squared error grows about as σ. A run lives in one folder; started again
with the same options it goes on where it was and gives the same weights. Under torchrun, several
processes share each batch.

The weights kept (denoiser.safetensors) are a running mean; they are written with every state, so
that they can be tried while the run goes on. log.csv holds loss and PSNR of each step's crops and
by how many dB they became better; images.npy the decoded images.
"""

from __future__ import annotations

import argparse

from n3match.datasets.denoising.noise import NOISES
from n3match.pipelines.training.config import (
    PRECISIONS,
    add_run_arguments,
    given_options,
    parse_weighted,
)
from n3match.pipelines.training.denoiser.config import CropStage, DenoiserTraining

# Fields that are plain numbers, each an option of the same name.
NUMBERS = (
    "steps", "rate", "warmup", "decay", "ema", "clip", "momentum", "local_steps", "frozen_steps",
    "features", "teacher_share", "seed",
)
_HELP = {
    "decay": "weight decay of convolutions",
    "ema": "memory of the running mean of weights",
    "clip": "largest gradient norm; 0: any",
    "momentum": "of batch norms",
    "local_steps": "so many steps of the local networks alone, N³ blocks after",
    "frozen_steps": "so many last steps in which batch norms keep what they remember, as in use: "
    "for a range of σ, where the crops of a step differ more than any image does; best in a run of "
    "its own, from --initial",
    "features": "channels of the networks",
    "teacher_share": "of the teacher's output in what is aimed at, beside the clean image",
    "warmup": "steps of linear warm-up",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(
        parser, DenoiserTraining, NUMBERS,
        {n: f"{_HELP.get(n, '')} (default: {getattr(DenoiserTraining, n)})" for n in NUMBERS},
    )
    parser.add_argument(
        "--images", nargs="+", required=True, metavar="FOLDER[:WEIGHT]",
        help="clean images of any size; with weights (for all or none) a crop is from a folder as "
        "often as its weight says, without by its pixels",
    )
    parser.add_argument(
        "--network", default=DenoiserTraining.network, metavar="NAME",
        help="default: %(default)s; n3net-fast, in less than half the time of dncnn-17; those that "
        "it was published beside: n3net-2, dncnn-17, dncnn-18, knn-input, knn-denoised, concrete",
    )
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), default=DenoiserTraining.channels,
        help="3: colour, which may start from a network for grey images (--initial): on grey it "
        "does the same at first (default: %(default)s)",
    )
    parser.add_argument("--noise", choices=NOISES, default=DenoiserTraining.noise)
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=[25.0], metavar="S",
        help="of Gaussian noise, 8-bit units: one number, or lowest and highest",
    )
    parser.add_argument(
        "--crops", type=_crop_stage, nargs="+", default=list(DenoiserTraining.crops),
        metavar="SIZExBATCH[@STEP]",
        help="side and number of the crops in a step, from a step on (default: 80x32)",
    )
    parser.add_argument(
        "--guide", default="", metavar="WEIGHTS", help="DnCNN of depth 17, for knn-denoised"
    )
    parser.add_argument(
        "--teacher", default="", metavar="WEIGHTS",
        help="learn from what this network makes of the noisy crops as well, e.g. n3net-fast from "
        "n3net",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=DenoiserTraining.precision,
        help="of the convolutions; bfloat16 is for GPUs and for CPUs with matrix units (AMX): on "
        "others it is slower than float32",
    )


def _crop_stage(text: str) -> CropStage:
    try:
        return CropStage.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: argparse.Namespace) -> int:
    from n3match.pipelines.training.denoiser.task import DenoiserTask
    from n3match.pipelines.training.run import train_by_command

    sigma = arguments.sigma
    if len(sigma) > 2:
        raise ValueError(f"sigma: wanted one number or two, got {len(sigma)}")
    given = given_options(arguments, DenoiserTraining)
    folders, weights = parse_weighted(arguments.images)
    given |= {"images": folders, "image_weights": weights, "crops": tuple(arguments.crops)}
    config = DenoiserTraining(**given | {"sigma": (sigma[0], sigma[-1])})
    return train_by_command(DenoiserTask(config), arguments)
