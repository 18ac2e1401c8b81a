"""Make a pair store from scenes with known poses: SIFT, putative matches, labels.

SOURCE is one scene or a folder of scenes, in any of these layouts:
  colmap     images/ and a model (cameras, images: .bin or .txt) in sparse/ or sparse/0/
  cnnet      images.txt, calibration.txt, visibility.txt
  rgbd       7-Scenes or SUN3D: colour, depth, camera-to-world poses
  pair-list  text file, a pair a line: name0 name1 rot0 rot1 K0(9) K1(9) T_0to1(16)
  dump       HDF5 of OANet's layout: matches and poses, no photographs
With --images, SOURCE is a folder of photographs; COLMAP (pip install "n3match[colmap]") finds
their poses first, and keeps its model beside OUT.

Stopped at any moment, even killed, it goes on where it was when started again. Exit status: 0; 1
where something could not be read or used (told on standard error and in the store) and the rest
was done; 2 after an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from n3match.datasets.pair_store import read_report
from n3match.datasets.pair_store_writer import PairStoreWriter
from n3match.datasets.scene_formats import FORMATS, FoundScene, find_scenes
from n3match.datasets.scene_source import ReadOptions
from n3match.pipelines.pair_jobs import DetectionOptions, PairJobs
from n3match.pipelines.pair_plan import PlanOptions, choose_pairs, plan_digest, plan_scene
from n3match.pipelines.pair_pool import run_parts
from n3match.pipelines.reconstruct import reconstruct
from n3match.pipelines.view_arguments import parse_intrinsics
from n3match.pipelines.whole_file import check_target

__all__ = ["add_arguments", "build_pairs", "choose_pairs", "main"]

_LINES_SHOWN = 20


def build_pairs(
    scenes: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    images: bool = False,
    image_root: str | Path | None = None,
    intrinsics: np.ndarray | None = None,
    max_keypoints: int = 2000,
    contrast_threshold: float = 0.01,
    max_size: int | None = None,
    changed: bool = False,
    max_pairs: int | None = None,
    min_shared: int | None = None,
    min_overlap: float | None = None,
    min_consistent: float = 0.0,
    exclude: Sequence[str] = (),
    fixed_direction: bool = False,
    seed: int = 0,
    processes: int = 1,
    strict: bool = True,
    source: str = "",
    licence: str = "",
    progress: bool = True,
) -> Path:
    """Detect, match and label the pairs of all scenes below a folder.

    May be stopped at any moment and started again: finished parts are kept. What was left out and
    why is in the store (`pair_store.read_report`).

    Args:
        scenes: folder of scenes, or one scene (folder or file).
        out: the store to write.
        format: one of `scene_formats.FORMATS`; None recognises the layout.
        images: `scenes` is a folder of photographs, whose poses COLMAP is to find.
        image_root, intrinsics, min_shared, min_overlap: see `ReadOptions`.
        max_keypoints, contrast_threshold, max_size, changed: see `pair_jobs.DetectionOptions`.
        max_pairs: at most so many pairs of one scene, an equal share from each band of
            covisibility and change of view; None for all.
        min_consistent: least share of a pair's reliable matches that its pose should explain, see
            `pair_jobs.inconsistency`; pairs far below are left out. 0 keeps all.
        exclude: names of scenes to leave out.
        fixed_direction: image 0 is the one whose name comes first; else it is drawn.
        seed: of the draws.
        processes: that work beside each other; with 1 all happens in this one.
        strict: raise at the first image or scene that can't be used; else leave it out.
        source, licence: kept in the store.
        progress: show a bar on standard error.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `scenes` or, where `strict`, an image does not exist.
        ValueError: no scene or no pair found, an argument out of range, `out` exists and was made
            with other settings; where `strict`, a malformed model or image, an image whose size is
            not its camera's. (A scene without pairs is noted, never an error.)
        ImportError: `images` without pycolmap.
        OSError: a worker process died, or `out` can't be written.
    """
    for name, value in (
        ("max_keypoints", max_keypoints),
        ("max_size", max_size),
        ("max_pairs", max_pairs),
        ("min_shared", min_shared),
        ("processes", processes),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}: found {value}, wanted at least 1")
    for name, value in (("min_overlap", min_overlap), ("min_consistent", min_consistent)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}: found {value}, wanted a share in [0, 1]")
    out = check_target(out)
    problems, left_out = [], []
    if images:
        for name, value in (("format", format), ("image_root", image_root), ("exclude", exclude)):
            if value:
                raise ValueError(f"{name}: found {value} together with images, wanted one of them")
        found, image_root, left_out = _photographs(Path(scenes), out, processes, progress)
    else:
        found = find_scenes(scenes, format, exclude)
    reading = ReadOptions(
        min_shared, min_overlap, None if image_root is None else Path(image_root), intrinsics
    )
    settings = {
        "scenes": [scene.name for scene in found],
        "feature": "opencv-sift-root",
        "max_keypoints": max_keypoints,
        "max_pairs": max_pairs,
        "min_shared": 20 if min_shared is None else min_shared,
        "fixed_direction": fixed_direction,
        "seed": seed,
    }
    detection = DetectionOptions(max_keypoints, contrast_threshold, max_size, changed, seed)
    settings |= _unusual(found, reading, detection, min_consistent, max_pairs)
    writer = PairStoreWriter(out, settings, source=source or _describe(found), licence=licence)
    if writer.finished:
        return writer.finish(())
    parts = []
    for scene in tqdm(found, "reading scenes", leave=False, disable=not progress):
        try:
            planned, found_problems = plan_scene(
                scene, reading, PlanOptions(max_pairs, fixed_direction, seed, strict)
            )
        except (OSError, ValueError) as error:
            if strict:
                raise
            planned, found_problems = [], [str(error)]
        problems += found_problems
        parts.append(planned)
    names = [part.name for planned in parts for part in planned]
    if not names:
        raise ValueError(f"{scenes}: no pair to match; {'; '.join(problems[:_LINES_SHOWN])}")
    writer.begin(plan_digest([part for planned in parts for part in planned]))
    run_parts(PairJobs(writer, detection, min_consistent, strict), parts, processes, progress)
    return writer.finish(names, problems=problems, left_out=left_out)


def _photographs(
    folder: Path, out: Path, processes: int, progress: bool
) -> tuple[list[FoundScene], Path | None, list[str]]:
    """The scene of a folder of photographs, by the model it has or by one that is made.

    Returns:
        The scene; the folder of its images where that is not images/ in it; photographs left out.
    """
    try:
        found = find_scenes(folder, "colmap")
    except ValueError:
        workspace = out.with_name(f"{out.stem}.colmap")
        say = partial(print, file=sys.stderr) if progress else lambda _: None
        left_out = reconstruct(folder, workspace, threads=processes, say=say)
        return [FoundScene(folder.resolve().name, workspace, "colmap")], folder, left_out
    # A model beside the photographs themselves, without a folder images/.
    bare = len(found) == 1 and not (found[0].path / "images").is_dir()
    return found, folder if bare else None, []


def _unusual(
    found: Sequence[FoundScene],
    reading: ReadOptions,
    detection: DetectionOptions,
    min_consistent: float,
    max_pairs: int | None,
) -> dict:
    """Settings that older stores lack, named only where they matter: those are still recognised."""
    settings = {}
    if any(scene.format != "colmap" for scene in found):
        settings["formats"] = [scene.format for scene in found]
    if max_pairs is not None:
        settings["bands"] = "overlap and view"
    if reading.min_overlap is not None:
        settings["min_overlap"] = reading.min_overlap
    if reading.intrinsics is not None:
        settings["intrinsics"] = np.asarray(reading.intrinsics).tolist()
    usual = DetectionOptions(detection.max_keypoints, seed=detection.seed)
    settings |= {k: v for k, v in vars(detection).items() if v != getattr(usual, k)}
    if min_consistent:
        settings["min_consistent"] = min_consistent
    return settings


def _describe(found: Sequence[FoundScene]) -> str:
    """What the store says of its source where the user says nothing."""
    return "; ".join(sorted({f"{scene.format}: {scene.name}" for scene in found}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `main`."""
    parser.add_argument("scenes", type=Path, metavar="SOURCE", help="scene, or folder of scenes")
    parser.add_argument("out", type=Path, metavar="OUT", help="pair store to write (.h5)")
    parser.add_argument("--format", choices=FORMATS, help="default: recognised")
    parser.add_argument(
        "--images", action="store_true", help="SOURCE is a folder of photographs for COLMAP"
    )
    parser.add_argument("--image-root", type=Path, help="folder that names of images refer to")
    parser.add_argument(
        "--intrinsics", type=parse_intrinsics, metavar="FX,FY,CX,CY",
        help="of all images, where the layout has none (RGB-D)",
    )  # fmt: skip
    parser.add_argument("--max-keypoints", type=int, default=2000)
    parser.add_argument(
        "--contrast-threshold", type=float, default=0.01,
        help="of SIFT (default: %(default)s); higher: fewer and stronger keypoints",
    )  # fmt: skip
    parser.add_argument(
        "--max-size", type=int, metavar="PIXELS", help="longer side that SIFT sees, at most"
    )
    parser.add_argument(
        "--changed", action="store_true",
        help="SIFT sees photographs changed on purpose: light, contrast, blur, noise, JPEG, size, "
        "turns, each view its own way",
    )  # fmt: skip
    parser.add_argument("--max-pairs", type=int, help="per scene; all when left out")
    parser.add_argument(
        "--min-shared", type=int,
        help="shared 3-D points of a pair (default: 20; cnnet: 101)",
    )  # fmt: skip
    parser.add_argument(
        "--min-overlap", type=float,
        help="least share of one view seen by the other, where known (default: rgbd 0.15, "
        "cnnet 0.3, colmap 0)",
    )  # fmt: skip
    parser.add_argument(
        "--min-consistent", type=float, default=0.15, metavar="SHARE",
        help="pairs whose pose clearly explains less of their mutual low-ratio matches are left "
        "out; 0 keeps all (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--exclude", nargs="*", default=(), help="scenes to leave out")
    parser.add_argument(
        "--fixed-direction", action="store_true", help="image 0 is first by name, not by chance"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first image or scene not usable"
    )
    parser.add_argument("--source", default="", help="text kept in the store")
    parser.add_argument("--licence", default="", help="text kept in the store")


def main(arguments: argparse.Namespace) -> int:
    out = build_pairs(**vars(arguments))
    report = read_report(out)
    for title, lines in (("left out", report.left_out), ("problem", report.problems)):
        for line in lines[:_LINES_SHOWN]:
            print(f"n3match: {title}: {line}", file=sys.stderr)
        if len(lines) > _LINES_SHOWN:
            print(f"n3match: {title}: {len(lines) - _LINES_SHOWN} more, in {out}", file=sys.stderr)
    print(out)
    return 1 if report.problems else 0
