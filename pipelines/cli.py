"""The command `n3match`: one subcommand per pipeline."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from n3match.pipelines.common.progress import quietly

# Subcommand -> (module of this package with add_arguments and main, help). The module of the
# chosen one alone is imported: torch takes seconds to load.
COMMANDS = {
    "demo": (
        "two_view.demo",
        "a bundled pair of photographs from SIFT to a relative pose, with a picture",
    ),
    "pose": ("two_view.pose", "relative pose of two photographs"),
    "match": (
        "two_view.match",
        "filtered matches of two photographs, or of a folder for COLMAP or hloc",
    ),
    "reconstruct": (
        "sfm.reconstruct_folder",
        "a folder of photographs to camera poses and 3-D points, with COLMAP's mapper",
    ),
    "denoise": ("denoising.denoise", "remove noise from an image or a folder of images"),
    "evaluate-pose": (
        "evaluation.evaluate_pose",
        "compare filters and estimators on pairs with known pose",
    ),
    "evaluate-denoise": (
        "denoising.evaluate_denoise",
        "compare denoising methods on the same noisy images",
    ),
    "evaluate-pose-noise": (
        "evaluation.evaluate_pose_noise",
        "poses from noisy photographs, with and without denoising them",
    ),
    "denoise-dnd": (
        "denoising.denoise_dnd",
        "denoise the Darmstadt Noise Dataset, for submission to its server",
    ),
    "train-filter": ("training.train_filter", "train a match filter"),
    "train-denoiser": ("training.train_denoiser", "train a denoising network"),
    "train-verdict": (
        "verdict.train_verdict",
        "learn which pairs of photographs show a common part of a scene",
    ),
    "evaluate-verdict": (
        "verdict.evaluate_verdict",
        "which pairs are claimed to be real, of those that are and those that look alike",
    ),
    "export": (
        "filtering.export_filter",
        "write a match filter as ONNX, for programs without PyTorch",
    ),
    "convert-checkpoint": (
        "denoising.convert_checkpoint",
        "read a denoising network that the authors of N³ released",
    ),
    "filter-h5": ("filtering.filter_h5", "filter the matches of hloc's HDF5 files"),
    "filter-colmap": (
        "filtering.filter_colmap",
        "filter the matches of a COLMAP database, with two-view geometries",
    ),
    "compare-sfm": (
        "sfm.compare_sfm",
        "COLMAP reconstructions of scenes with and without the filter, compared",
    ),
    "benchmark": ("benchmarks.benchmark", "time and memory as ratios against named baselines"),
    "fuzz": (
        "fuzz.command",
        "generated and damaged input for everything public, kills for all that writes",
    ),
    "build-pairs": ("pairs.build_pairs", "make a training store of image pairs with known poses"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        # One line, like all other errors of this command.
        self.exit(2, f"n3match: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `n3match` with these arguments (None: the command line's).

    Returns:
        The exit status: 0; 1 where a pose was asked for and none can be trusted, or a store lacks
        what could not be read; 2 after an error in the arguments or files, told by one line on
        standard error.
    """
    argv = _join_negative_lists(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parse(argv)
    except SystemExit as stop:  # argparse's way to say --help or an error
        return stop.code or 0
    module = import_module(f"n3match.pipelines.{COMMANDS[arguments.command][0]}")
    traceback, quiet = arguments.traceback, arguments.quiet
    del arguments.command, arguments.traceback, arguments.quiet
    try:
        with quietly(quiet):
            status = module.main(arguments)
        sys.stdout.flush()  # here, where a closed pipe is expected
        return status
    except KeyboardInterrupt:
        print("n3match: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ImportError) as error:
        if traceback:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"n3match: error: {message}", file=sys.stderr)
        return 2


def _join_negative_lists(argv: Sequence[str]) -> list[str]:
    """`--distortion0 -0.1,0,0,0` as `--distortion0=-0.1,0,0,0`.

    argparse takes a word that starts with a dash for an option unless it is one number.
    """
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1].startswith("--") and re.match(r"-[\d.]+(e[-+]?\d+)?,", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="n3match",
        description="Learned filtering of feature matches and relative pose (N³).",
        epilog="Exit status: 0; 1 where a pose was asked for and none can be trusted, or a store "
        "lacks what could not be read; 2 after an error, told by one line on standard error.",
    )
    parser.add_argument(
        "--version", action="version", version=f"n3match {importlib.metadata.version('n3match')}"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="after an error, show where it came from"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    completing = "_ARGCOMPLETE" in os.environ
    words = os.environ.get("COMP_LINE", "").split()[1:] if completing else argv
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, (module_name, help_text) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=help_text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == chosen:
            module = import_module(f"n3match.pipelines.{module_name}")
            subparser.description = module.__doc__
            module.add_arguments(subparser)
            subparser.add_argument(
                "--quiet", action="store_true",
                help="don't tell on standard error how far the work is: no bar on a terminal, and "
                "elsewhere no line now and then",
            )
    if completing:
        try:
            import argcomplete
        except ImportError:  # the shell asks for completions that another environment announced
            sys.exit(1)
        argcomplete.autocomplete(parser)  # answers the shell, and ends
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
