"""A folder of photographs to a model: matches, COLMAP's mapper, a picture, a summary."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from n3match.files.whole import write_whole
from n3match.pipelines.common.fingerprints import file_state, hash_of, hash_of_weights
from n3match.pipelines.common.plots.reconstruction import draw_reconstruction
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.stopwatch import Stopwatch
from n3match.pipelines.folder.match_folder import (
    FolderCounts,
    FolderRun,
    match_folder,
    report_lines,
)
from n3match.pipelines.folder.photographs import find_photographs
from n3match.pipelines.sfm.reconstruct import LEAST_IMAGES, load_pycolmap, map_largest

SUMMARY, PICTURE, MODEL = "summary.json", "reconstruction.png", "sparse"


def reconstruct_folder(
    run: FolderRun,
    out: Path,
    processes: Processes,
    *,
    threads: int | None = None,
) -> dict | None:
    """The matches of a folder, and COLMAP's model of it; prints what came of it.

    Args:
        run: of the folder; it writes a database in `out`.
        out: a folder that exists.
        processes: of the job; the first one maps.
        threads: that the mapper may use; None: one for each core.

    Returns:
        What `summary.json` holds; None but in the first process.

    Raises:
        ImportError: pycolmap is not installed. OSError, ValueError: naming the file or argument.
    """
    names = find_photographs(run.folder, LEAST_IMAGES)
    pycolmap = load_pycolmap("reconstruct needs pycolmap for COLMAP's mapper")
    settings = _settings(run, names)
    summary = processes.from_first(_finished(out, settings) if processes.is_first else None)
    if summary is not None:
        if not processes.is_first:
            return None
        shutil.rmtree(run.work, ignore_errors=True)  # where it was killed between the two
        print("note       done before, from the same photographs and options")
    else:
        if processes.is_first:
            (out / SUMMARY).unlink(missing_ok=True)  # it would speak of another model
        watch = Stopwatch()
        with watch.stage("matching"):
            counts = match_folder(run, processes, keep=True)
        if counts is None:
            return None
        with watch.stage("mapping"):
            found = _map(pycolmap, run, out, len(names), threads)
        summary = _summary(run, counts, found, names)
        if found is not None:
            _draw(out / PICTURE, found[0])
        summary |= {"seconds": watch.seconds, "settings": settings}
        write_whole(out / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(run.work)
    print("\n".join([*summary["matching"], *_lines(summary)]))
    print(f"written    {out}")
    return summary


def _settings(run: FolderRun, names: list[str]) -> str:
    options = run.options
    weights = "" if options.filter == "none" else hash_of_weights(options.filter)
    files = (options.colmap, options.intrinsics, run.choice.listed)
    plain = replace(run, workers=1, out=Path(), folder=Path())
    return hash_of([
        repr(plain), weights, [file_state(path) for path in files],
        [[name, run.photographs.key(name)] for name in names],
    ])


def _finished(out: Path, settings: str) -> dict | None:
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(summary, dict) and summary.get("settings") == settings
    return summary if whole else None


def _map(pycolmap, run: FolderRun, out: Path, count: int, threads: int | None):
    with Progress(count, "photograph") as progress:
        progress.describe("mapping")

        def registered() -> None:  # of a model that is given up, too
            progress.reach(min(progress.done + 1, count))

        try:
            return map_largest(
                pycolmap, run.out, run.folder, out / MODEL,
                threads=threads or os.cpu_count() or 1, registered=registered,
            )
        except RuntimeError as error:  # how pycolmap tells of anything
            raise ValueError(f"{run.out}: COLMAP failed ({error})") from error


def _summary(run: FolderRun, counts: FolderCounts, found, names: list[str]) -> dict:
    summary = {
        "photographs": len(names),
        "problems": counts.problems,
        "guessed_focal_lengths": counts.guessed,
        "pairs": counts.pairs,
        "pairs_with_matches": counts.linked,
        "matches": counts.matches,
        "inliers": counts.inliers,
        "left_out": [
            {"photographs": [p.name0, p.name1], "pair_probability": p.probability,
             "matches": p.matches}
            for p in counts.left_out
        ],
        "matching": report_lines(run, replace(counts, done_before=0)),
        "registered": 0,
        "without_pose": names,
    }
    if found is None:
        return summary
    model, others = found
    images = [model.images[i] for i in model.reg_image_ids()]
    registered = {image.name for image in images}
    return summary | {
        "registered": len(registered),
        "without_pose": [name for name in names if name not in registered],
        "other_models": others,
        "points": model.num_points3D(),
        "reprojection_error_px": model.compute_mean_reprojection_error(),
        "track_length": model.compute_mean_track_length(),
        "focal_lengths_px": {
            image.name: model.cameras[image.camera_id].mean_focal_length()
            for image in sorted(images, key=lambda image: image.name)
        },
    }


def _lines(summary: dict) -> list[str]:
    if not summary["registered"]:
        return ["model      none: the photographs don't show enough of the same scene"]
    lines = [
        f"model      {summary['registered']} of {summary['photographs']} photographs, "
        f"{summary['points']} points seen by {summary['track_length']:.1f} on average",
        f"           reprojection error {summary['reprojection_error_px']:.2f} px",
    ]
    if summary["without_pose"]:
        lines.append(f"           without pose: {', '.join(summary['without_pose'])}")
    if summary["other_models"]:
        lines.append(f"           {summary['other_models']} smaller models are left out")
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in summary["seconds"].items())
    return [*lines, f"seconds    {seconds}"]


def _draw(path: Path, model) -> None:
    points = list(model.points3D.values())
    poses = [model.images[i].cam_from_world() for i in model.reg_image_ids()]
    R = np.array([pose.rotation.matrix() for pose in poses])
    t = np.array([pose.translation for pose in poses])
    draw_reconstruction(
        path,
        np.array([point.xyz for point in points]).reshape(-1, 3),
        np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        R,
        -np.einsum("nji,nj->ni", R, t),
    )
