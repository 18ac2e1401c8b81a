"""Structure from motion with and without the filter: COLMAP reconstructions of scenes, compared.

SCENES is a scene or a folder of scenes, each with images/ and a COLMAP model in sparse/, whose
poses and cameras are taken as true. All methods get the same SIFT keypoints, all pairs of
photographs, and the same mutual nearest neighbours:

    ratio          those with ratio < 0.8 (COLMAP's default), verified by COLMAP
    mutual         all of them, verified by COLMAP
    NAME           all of them through `n3match filter-colmap --filter NAME`, whose two-view
                   geometries the mapper takes
    NAME+verify    the same without its geometries: COLMAP verifies what the filter kept

and COLMAP's incremental mapper with the given cameras. Of the largest model: registered images,
3-D points, mean reprojection error, and pose errors after similarity alignment (medians over the
registered images; positions in % of the largest distance between two given cameras). Needs
pycolmap (`pip install "n3match[colmap]"`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from n3match.pipelines.common.arguments import (
    add_device_arguments,
    check_at_least,
    given_path,
    output_folder,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenes", type=given_path, metavar="SCENES", help="a scene or a folder of scenes"
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD",
        default=["ratio", "mutual", "sift", "sift+verify"],
        help="ratio, mutual, shipped weights or a file of weights, these also with +verify "
        "(default: ratio mutual sift sift+verify)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="SCENE", help="names of the scenes wanted"
    )
    parser.add_argument(
        "--max-keypoints", type=int, default=2000, metavar="N", help="SIFT keypoints per photograph"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs; means are shown")
    parser.add_argument("--threads", type=int, default=2, help="that COLMAP may use")
    add_device_arguments(parser)
    parser.add_argument(
        "--out", type=output_folder, metavar="DIR", help="write table.md and results.csv there"
    )


def main(arguments: argparse.Namespace) -> int:
    from n3match.datasets.scenes.formats import find_scenes
    from n3match.files.whole import write_whole
    from n3match.pipelines.common.progress import Progress
    from n3match.pipelines.common.result_rows import write_rows
    from n3match.pipelines.sfm.runs import MUTUAL, RATIO, SfmResult, SfmScene, report, warm_up

    check_at_least(1, arguments, "seeds", "threads", "max_keypoints")
    for method in arguments.methods:
        if method not in (RATIO, MUTUAL):
            warm_up(method.removesuffix("+verify"))
    found = find_scenes(arguments.scenes, "colmap")
    unknown = sorted(set(arguments.only) - {scene.name for scene in found})
    if unknown:
        raise ValueError(f"--only: {unknown} are not scenes in {arguments.scenes}")
    found = [scene for scene in found if not arguments.only or scene.name in arguments.only]
    results: list[SfmResult] = []
    runs = len(found) * len(arguments.methods) * arguments.seeds
    with Progress(runs, "model") as progress:
        for scene in found:
            with tempfile.TemporaryDirectory() as work:
                prepared = SfmScene(
                    scene.name, scene.path, Path(work),
                    max_keypoints=arguments.max_keypoints, threads=arguments.threads,
                    device=arguments.device, half=arguments.half,
                )
                for method in arguments.methods:
                    for seed in range(arguments.seeds):
                        results.append(prepared.run(method, seed))
                        progress.update()
                        if arguments.out is not None:
                            write_rows(arguments.out / "results.csv", SfmResult, results)
    table = report(results)
    print(table)
    if arguments.out is not None:
        write_whole(arguments.out / "table.md", table + "\n")
    return 0
