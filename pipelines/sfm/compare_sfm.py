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
import csv
import io
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from n3match.datasets.scenes.formats import find_scenes
from n3match.pipelines.common.tables import markdown_table
from n3match.pipelines.sfm.runs import MUTUAL, RATIO, SfmResult, SfmScene, warm_up
from n3match.whole_file import write_whole

_COLUMNS = (
    "scene", "method", "images", "points", "reprojection, px", "rotation, °", "position, %",
    "verified matches", "matching, s", "filter + verify, s", "mapping, s",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenes", type=Path, metavar="SCENES", help="a scene or a folder of scenes")
    parser.add_argument(
        "--methods", nargs="+", default=[RATIO, MUTUAL, "sift", "sift+verify"], metavar="METHOD",
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
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write table.md and results.csv there"
    )


def main(arguments: argparse.Namespace) -> int:
    for name in ("seeds", "threads", "max_keypoints"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
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
    with tqdm(total=runs, unit="model", disable=None) as bar:
        for scene in found:
            with tempfile.TemporaryDirectory() as work:
                prepared = SfmScene(
                    scene.name, scene.path, Path(work),
                    max_keypoints=arguments.max_keypoints, threads=arguments.threads,
                )
                for method in arguments.methods:
                    for seed in range(arguments.seeds):
                        results.append(prepared.run(method, seed))
                        bar.update()
                        if arguments.out is not None:
                            write_csv(arguments.out / "results.csv", results)
    table = report(results)
    print(table)
    if arguments.out is not None:
        write_whole(arguments.out / "table.md", table + "\n")
    return 0


def report(results: Sequence[SfmResult]) -> str:
    """A Markdown table: a row per scene and method, means over the seeds."""
    groups: dict[tuple[str, str], list[SfmResult]] = {}
    for result in results:
        groups.setdefault((result.scene, result.method), []).append(result)
    rows = []
    for (scene, method), runs in groups.items():
        def mean(name: str, digits: int, runs=runs) -> str:
            value = statistics.fmean(getattr(run, name) for run in runs)
            return "—" if value != value else f"{value:.{digits}f}"

        registered = statistics.fmean(run.registered for run in runs)
        rows.append((
            scene, method, f"{registered:g} of {runs[0].images}", mean("points", 0),
            mean("reprojection", 2), mean("rotation", 2), mean("position", 2),
            mean("matches", 0), mean("matching", 1), mean("selection", 1), mean("mapping", 1),
        ))
    return markdown_table(_COLUMNS, rows)


def write_csv(path: Path, results: Sequence[SfmResult]) -> None:
    """A row per reconstruction."""
    text = io.StringIO()
    out = csv.DictWriter(text, [field.name for field in fields(SfmResult)], lineterminator="\n")
    out.writeheader()
    out.writerows(asdict(result) for result in results)
    write_whole(path, text.getvalue())
