"""What `n3match match FOLDER` and `n3match reconstruct` have in common on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from n3match.pipelines.common.arguments import check_at_least, given_path
from n3match.pipelines.filtering.left_out import add_probability_argument

# Options of a folder alone, with what they are where nothing is said.
DEFAULTS = {
    "pairs": None, "sequential": None, "similar": None, "colmap": None, "intrinsics": None,
    "one_camera": False, "processes": 1, "estimator": "auto", "threshold": 1.0,
    "seed": 0, "min_pair_probability": None,
}


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a folder; those not given are not set, see `DEFAULTS`."""
    group = parser.add_argument_group("of a folder")
    add = group.add_argument
    unset = {"default": argparse.SUPPRESS}
    add("--pairs", type=given_path, metavar="LIST", **unset,
        help="match the pairs of a text file, NAME0 NAME1 on a line (default: all pairs)")
    add("--sequential", type=int, metavar="N", **unset,
        help="match each photograph with the N next ones by name; of --pairs, --sequential and "
        "--similar the union counts")
    add("--similar", type=int, metavar="N", **unset,
        help="match each photograph with the N that look most alike (VLAD of SIFT)")
    add("--colmap", type=given_path, metavar="MODEL", **unset,
        help="a folder with a COLMAP model that has the cameras of the photographs")
    add("--intrinsics", type=given_path, metavar="LIST", **unset,
        help="a text file of their cameras, NAME MODEL WIDTH HEIGHT PARAMETERS… on a line, as "
        "COLMAP has them (default: EXIF's focal length, else 1.2 × the longer side, a guess)")
    add("--one-camera", action="store_true", **unset,
        help="photographs of one size without a known focal length are by one camera (default: "
        "each by its own, as COLMAP takes them)")
    add("--processes", type=int, metavar="N", **unset,
        help="processes that work beside each other (default: 1, with a thread for each core)")
    add("--estimator", metavar="NAME", **unset,
        help="of two-view geometries, as in `n3match pose` (default: auto)")
    add("--threshold", type=float, metavar="PIXELS", **unset,
        help="of their inliers, pixels of the photographs at the size they are matched at "
        "(default: 1)")
    add("--seed", type=int, **unset, help="of the estimator: same seed, same result")
    add_probability_argument(group, **unset)


def folder_run(arguments: argparse.Namespace, out: Path, *, geometries: bool):
    """What the arguments ask for: a `FolderRun` that writes `out`.

    Raises:
        ValueError: an option out of range, a device that isn't there.
    """
    from n3match.pipelines.common.devices import checked_device
    from n3match.pipelines.folder.match_folder import FolderRun
    from n3match.pipelines.folder.pair_choice import PairChoice
    from n3match.pipelines.folder.pair_jobs import MatchOptions
    from n3match.pipelines.folder.photographs import Detection

    given = argparse.Namespace(**{**DEFAULTS, **vars(arguments)})
    check_at_least(
        1, given, "sequential", "similar", "processes", "max_keypoints", "max_size"
    )
    if not 0 < given.threshold < float("inf"):
        raise ValueError(f"--threshold must be positive, got {given.threshold}")
    checked_device(given.device)
    return FolderRun(
        given.folder, out,
        PairChoice(given.pairs, given.sequential, given.similar),
        Detection(given.max_keypoints, given.max_size),
        MatchOptions(
            given.filter, given.colmap, given.intrinsics, geometries, given.estimator,
            given.threshold, given.seed, given.min_pair_probability, given.half,
        ),
        given.one_camera, given.processes,
    )
