"""PSNR and SSIM of denoising methods on the same noisy images, per image and mean.

Clean images of a folder in the order of their names, in 0 … 1; white Gaussian noise, the same for
every method, not clipped, from numpy's default_rng([1234, σ, index]), index counted from 0. Outputs
are not clipped either. PSNR over the whole image with peak 1; SSIM with an 11×11 Gaussian window
of σ 1.5. Seconds are per megapixel: CPU seconds on one thread, or on another device those that
passed.

With --noise raw (grey) or bayer (four planes of a mosaic): a camera's noise of variance a·x + b,
clipped to 0 … 1, on images made raw-like as `train-denoiser` makes them, seeded likewise. Networks
trained for it are told a and b; the other methods get the image through the generalised Anscombe
transform, which makes its noise white.

Exit status: 0; 2 after an error, told by one line on standard error.
"""

from __future__ import annotations

import argparse

from n3match.datasets.denoising.noise import NOISES
from n3match.pipelines.common.arguments import add_memory_argument, given_path, output_folder
from n3match.pipelines.denoising.arguments import add_method_arguments

_LEVELS = ("0.0003,1.5e-06", "0.003,1.5e-05", "0.03,0.00015")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=given_path, help="clean images, e.g. set12 bsd68"
    )
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=None, metavar="S",
        help="levels of Gaussian noise in 8-bit units (default: 25)",
    )
    parser.add_argument("--noise", choices=NOISES, default="gaussian")
    parser.add_argument(
        "--levels", nargs="+", default=None, metavar="A,B",
        help=f"of raw noise, variance A·x + B (default: {' '.join(_LEVELS)})",
    )
    add_method_arguments(parser)
    parser.add_argument(
        "--colour", action="store_true",
        help="images in colour, PSNR over all channels; networks for grey images do them channel "
        "by channel. Without, images become grey; raw noise has channels of its own",
    )
    add_memory_argument(parser)
    parser.add_argument(
        "--out", type=output_folder, metavar="FOLDER",
        help="also write results.csv and report.md there"
    )


def main(arguments: argparse.Namespace) -> int:
    import cv2
    import torch

    from n3match.files.whole import write_whole
    from n3match.pipelines.common.devices import checked_device
    from n3match.pipelines.denoising import denoise_evaluation
    from n3match.pipelines.denoising.methods import methods_from_arguments

    noises, channels = _noises(arguments)
    methods = methods_from_arguments(arguments)
    # One thread, so that seconds compare, as all sets of figures quote them.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    on_cpu = checked_device(arguments.device).type == "cpu"
    results = denoise_evaluation.evaluate(
        arguments.folders, noises, methods, channels=channels,
        memory_limit=arguments.memory, on_cpu=on_cpu,
    )
    text = denoise_evaluation.report(results)
    if arguments.out is not None:
        write_whole(arguments.out / "results.csv", denoise_evaluation.as_csv(results))
        write_whole(arguments.out / "report.md", text)
    print(text, end="")
    return 0


def _noises(arguments: argparse.Namespace) -> tuple[list, int]:
    """The noise levels asked for, and the channels of the images that they want."""
    from n3match.pipelines.denoising.evaluation_noise import GaussianNoise, RawNoise

    if arguments.noise == "gaussian":
        if arguments.levels is not None:
            raise ValueError("--levels: are of raw noise: give --noise raw or bayer")
        for sigma in arguments.sigma or ():
            if not 0 < sigma <= 255:
                raise ValueError(f"sigma: wanted numbers above 0 and up to 255, got {sigma}")
        sigmas = dict.fromkeys(arguments.sigma or [25.0])
        return [GaussianNoise(sigma) for sigma in sigmas], 3 if arguments.colour else 1
    for name in ("sigma", "colour"):
        if getattr(arguments, name):
            raise ValueError(f"--{name}: is of no use with raw noise, which has --levels")
    bayer = arguments.noise == "bayer"
    levels = dict.fromkeys(RawNoise.parse(text, bayer) for text in arguments.levels or _LEVELS)
    return list(levels), 3 if bayer else 1
