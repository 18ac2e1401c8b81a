"""A pair store from scenes with known poses: planned, made in parts, joined."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from n3match.datasets.pairs.store import read_report, stored_feature
from n3match.datasets.pairs.store_writer import PairStoreWriter
from n3match.datasets.scenes.formats import FoundScene, find_scenes
from n3match.datasets.scenes.source import ReadOptions
from n3match.files.whole import check_target
from n3match.matching import FEATURES
from n3match.matching.features import CONTRAST_THRESHOLD
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.pairs.jobs import DetectionOptions, PairJobs
from n3match.pipelines.pairs.plan import PlanOptions, plan_digest, plan_scene
from n3match.pipelines.pairs.pool import run_parts
from n3match.pipelines.sfm.reconstruct import reconstruct

_LINES_SHOWN = 20  # of the problems


def build_pairs(
    scenes: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    images: bool = False,
    image_root: str | Path | None = None,
    intrinsics: np.ndarray | None = None,
    max_keypoints: int = 2000,
    feature: str = "sift",
    contrast_threshold: float = CONTRAST_THRESHOLD,
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
    stored_pixels: bool = False,
) -> Path:
    """Detect, match and label the pairs of all scenes below a folder.

    May be stopped at any moment and started again: finished parts are kept. What was left out and
    why is in the store (`datasets.pairs.store.read_report`).

    Args:
        scenes: folder of scenes, or one scene (folder or file).
        out: the store to write.
        format: one of `datasets.scenes.formats.FORMATS`; None recognises the layout.
        images: `scenes` is a folder of photographs, whose poses COLMAP is to find.
        image_root, intrinsics, min_shared, min_overlap: see `ReadOptions`.
        max_keypoints, feature, contrast_threshold, max_size, changed: see `jobs.DetectionOptions`.
        max_pairs: at most so many pairs of one scene, an equal share from each band of
            covisibility and change of view; None for all.
        min_consistent: least share of a pair's reliable matches that its pose should explain, see
            `jobs.inconsistency`; pairs far below are left out. 0 keeps all.
        exclude: names of scenes to leave out.
        fixed_direction: image 0 is the one whose name comes first; else it is drawn.
        seed: of the draws.
        processes: that work beside each other; with 1 all happens in this one.
        strict: raise at the first image or scene that can't be used; else leave it out.
        source, licence: kept in the store.
        progress: show on standard error how far it is, and what was done about photographs with an
            EXIF orientation.
        stored_pixels: don't turn these, where the layout is read as OpenCV does, see `View.stored`.

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
    if feature not in FEATURES:
        raise ValueError(f"feature: found {feature!r}, wanted one of {FEATURES}")
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
        min_shared, min_overlap, None if image_root is None else Path(image_root), intrinsics,
        stored_pixels,
    )
    settings = {
        "scenes": [scene.name for scene in found],
        "feature": stored_feature(feature),
        "max_keypoints": max_keypoints,
        "max_pairs": max_pairs,
        "min_shared": 20 if min_shared is None else min_shared,
        "fixed_direction": fixed_direction,
        "seed": seed,
    }
    detection = DetectionOptions(
        max_keypoints, feature, contrast_threshold, max_size, changed, seed
    )
    settings |= _unusual(found, reading, detection, min_consistent, max_pairs)
    writer = PairStoreWriter(out, settings, source=source or _describe(found), licence=licence)
    if writer.finished:
        return writer.finish(())
    parts = []
    with Progress(len(found), "scene", shown=progress) as bar:
        bar.describe("reading")
        for scene in found:
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
            bar.update()
    names = [part.name for planned in parts for part in planned]
    if not names:
        raise ValueError(f"{scenes}: no pair to match; {'; '.join(problems[:_LINES_SHOWN])}")
    writer.begin(plan_digest([part for planned in parts for part in planned]))
    turns = run_parts(
        PairJobs(writer, detection, min_consistent, strict), parts, processes, progress
    )
    for turn, count in sorted(turns.items()) if progress else ():
        print(f"n3match: note: photographs {turn}: {count}", file=sys.stderr)
    return writer.finish(names, problems=problems, left_out=left_out)


def tell_problems(store: Path) -> bool:
    """On standard error, what was left out of a store and what couldn't be used; whether there was
    something of the latter."""
    report = read_report(store)
    for title, lines in (("left out", report.left_out), ("problem", report.problems)):
        for line in lines[:_LINES_SHOWN]:
            print(f"n3match: {title}: {line}", file=sys.stderr)
        if len(lines) > _LINES_SHOWN:
            more = len(lines) - _LINES_SHOWN
            print(f"n3match: {title}: {more} more, in {store}", file=sys.stderr)
    return bool(report.problems)


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
    if reading.stored:
        settings["stored_pixels"] = True
    usual = DetectionOptions(detection.max_keypoints, detection.feature, seed=detection.seed)
    settings |= {k: v for k, v in vars(detection).items() if v != getattr(usual, k)}
    if min_consistent:
        settings["min_consistent"] = min_consistent
    return settings


def _describe(found: Sequence[FoundScene]) -> str:
    """What the store says of its source where the user says nothing."""
    return "; ".join(sorted({f"{scene.format}: {scene.name}" for scene in found}))
