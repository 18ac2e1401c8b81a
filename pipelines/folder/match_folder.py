"""A folder of photographs to a COLMAP database or hloc's files, in any number of processes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from n3match.files.new_hdf5 import NewHdf5
from n3match.files.whole import check_target, whole_file, write_whole
from n3match.geometry.estimators import ESTIMATORS, choose_estimator
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.progress_log import lock_file, part_path, remove_leftovers
from n3match.pipelines.common.workers import run_jobs
from n3match.pipelines.filtering.image_cameras import ImageCameras
from n3match.pipelines.filtering.left_out import LeftOutPair, left_out_line, write_list
from n3match.pipelines.folder.pair_choice import PairChoice
from n3match.pipelines.folder.pair_jobs import FoundPair, MatchOptions, PairJobs, parts_of
from n3match.pipelines.folder.photographs import (
    Detection,
    PhotographReader,
    Photographs,
    find_photographs,
)
from n3match.plugins.colmap import ColmapCamera, NewColmapDatabase
from n3match.plugins.colmap.database import DEGENERATE
from n3match.plugins.hloc import add_features, add_matches

DATABASE = ".db"


@dataclass(frozen=True)
class FolderRun:
    """What is asked for, see `n3match match --help`.

    Attributes:
        folder: of photographs.
        out: a COLMAP database (its name ends in .db), or a folder for hloc's files.
        choice: of pairs; detection: of keypoints; options: of the matches.
        one_camera: photographs of one size with a guessed focal length are by one camera.
        workers: of each process; 1: threads.
    """

    folder: Path
    out: Path
    choice: PairChoice
    detection: Detection
    options: MatchOptions
    one_camera: bool = False
    workers: int = 1

    @property
    def work(self) -> Path:
        """Where what is done is kept."""
        return part_path(self.out)

    @property
    def photographs(self) -> Photographs:
        return Photographs(self.folder, self.work, self.detection)


@dataclass
class FolderCounts:
    """What came of a folder.

    Attributes:
        photographs: that could be used; problems: a line for each other one.
        cameras: how many photographs have theirs from where; guessed: with a guessed focal length.
        guessed_pairs: of such a photograph.
        pairs: matched; done_before: of them, by a run that was stopped; linked: with matches.
        matches: kept; inliers: of geometries.
        kinds: how many pairs by COLMAP's number for their geometry.
        left_out: pairs that are too little likely to be real.
    """

    photographs: int = 0
    problems: list[str] = field(default_factory=list)
    cameras: str = ""
    guessed: int = 0
    guessed_pairs: int = 0
    pairs: int = 0
    done_before: int = 0
    linked: int = 0
    matches: int = 0
    inliers: int = 0
    kinds: Counter = field(default_factory=Counter)
    left_out: list[LeftOutPair] = field(default_factory=list)


def match_folder(
    run: FolderRun, processes: Processes, *, keep: bool = False
) -> FolderCounts | None:
    """Keypoints of all photographs, matches of all pairs chosen, one file or folder of them.

    Goes on where it was stopped; processes of one job share the work and see the same folders.

    Args:
        run: what is asked for.
        processes: of the job.
        keep: leave what was done beside the output, for whoever makes more of it.

    Returns:
        What came of it; None but in the first process.

    Raises:
        OSError, ValueError: naming the file or argument and what is wrong.
    """
    names, unnamed = _writable_names(find_photographs(run.folder, 2))
    _check_out(run.out)
    choose_estimator(run.options.estimator, ESTIMATORS)
    device = str(processes.device)
    photographs = run.photographs
    jobs = PairJobs(photographs, run.options, device)
    jobs.network()  # loaded before the work, for what is wrong with it
    with _locked(run.work, processes):
        shown = processes.is_first
        mine = names[processes.rank :: processes.size]
        with Progress(len(names), "photograph", shown=shown) as progress:
            progress.describe("keypoints")
            step = partial(_reach, progress, processes.size)
            run_jobs(photographs.extract, mine, run.workers, step)
        processes.wait()
        cameras = ImageCameras.read(run.options.colmap, run.options.intrinsics, run.folder)
        reader = PhotographReader(photographs, cameras)
        chosen = processes.from_first(
            _choose(run, names, unnamed, reader) if processes.is_first else None
        )
        usable, problems, pairs = chosen
        parts = parts_of(pairs)
        todo = [part for part in parts if not jobs.is_done(part)]
        before = len(pairs) - sum(map(_length, todo))
        with Progress(len(pairs), "pair", done=before, shown=shown) as progress:
            progress.describe("matches")
            # Parts are of one length but for the last.
            step = partial(_reach, progress, processes.size * _length(parts[0]) if parts else 0)
            run_jobs(jobs.match, todo[processes.rank :: processes.size], run.workers, step)
        processes.wait()
        if not processes.is_first:
            processes.wait()
            return None
        counts = FolderCounts(
            photographs=len(usable), problems=problems, cameras=cameras.describe(),
            guessed=sum(camera.guessed for camera in usable.values()),
            guessed_pairs=sum(any(usable[name].guessed for name in pair) for pair in pairs),
            pairs=len(pairs), done_before=before,
        )
        found = _counted((pair for part in parts for pair in jobs.read(part)), counts)
        remove_leftovers(run.out)
        if run.out.suffix == DATABASE:
            write_database(run.out, usable, found, photographs, run.one_camera)
        else:
            write_hloc(run.out, usable, found, photographs)
        write_list(run.out, counts.left_out)
        processes.wait()
        if not keep:
            shutil.rmtree(run.work)
    return counts


def write_database(
    path: Path,
    usable: dict[str, ColmapCamera],
    pairs: Iterator[tuple[tuple[str, str], FoundPair]],
    photographs: Photographs,
    one_camera: bool,
) -> None:
    """A COLMAP database of photographs and their pairs, whole or as it was."""
    with whole_file(path) as temporary, NewColmapDatabase(temporary) as database:
        cameras: dict[str, int] = {}
        ids = {}
        for name, camera in usable.items():
            key = repr(vars(camera))
            if camera.guessed and not one_camera:
                key = name  # as COLMAP does: who knows whether they are by one camera
            if key not in cameras:
                cameras[key] = database.add_camera(camera)
            ids[name] = database.add_image(name, cameras[key])
            found = photographs.read(name)
            database.add_keypoints(
                ids[name], found.keypoints, found.sizes_angles, found.descriptors
            )
        for (name0, name1), pair in pairs:
            database.add_pair(ids[name0], ids[name1], pair.matches, pair.geometry)


def write_hloc(
    folder: Path,
    usable: dict[str, ColmapCamera],
    pairs: Iterator[tuple[tuple[str, str], FoundPair]],
    photographs: Photographs,
) -> None:
    """features.h5, pairs.txt and, last, matches.h5 in hloc's layout, each whole or as it was."""
    folder.mkdir(exist_ok=True)
    lengths = {}
    with whole_file(folder / "features.h5") as temporary, NewHdf5(temporary) as file:
        for name in usable:
            found = photographs.read(name)
            lengths[name] = len(found.keypoints)
            add_features(
                file, name, found.keypoints, found.sizes_angles, found.responses,
                found.descriptors, tuple(found.size.tolist()),
            )
            file.check()
    lines = []
    with whole_file(folder / "matches.h5") as temporary, NewHdf5(temporary) as file:
        for names, pair in pairs:
            add_matches(file, names, lengths[names[0]], pair.matches, pair.probability)
            file.check()
            lines.append(f"{names[0]} {names[1]}\n")
        write_whole(folder / "pairs.txt", "".join(lines))


def _check_out(out: Path) -> None:
    if out.suffix == DATABASE:
        check_target(out)
        return
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(
            f"OUT: {out} is a file, wanted a folder for hloc's files or a database, NAME{DATABASE}"
        )
    check_target(out / "matches.h5" if out.exists() else out)


@contextmanager
def _locked(work: Path, processes: Processes) -> Iterator[None]:
    work.mkdir(exist_ok=True)
    # The first process holds it for all.
    with (work / "lock").open("a+b") if processes.is_first else nullcontext() as file:
        if file is not None:
            lock_file(file, work)
        yield


def _writable_names(names: list[str]) -> tuple[list[str], list[str]]:
    """Names that a line of text can hold, and a line for each photograph with another one."""
    fine, problems = [], []
    for name in names:
        # Those of the system that aren't UTF-8 have surrogates in their places.
        shown = name.encode("utf-8", "backslashreplace").decode()
        if shown == name and name.isprintable():
            fine.append(name)
        else:
            problems.append(f"{shown!r}: left out: its name can't be written in a line of text")
    return fine, problems


def _choose(
    run: FolderRun, names: list[str], unnamed: list[str], reader: PhotographReader
) -> tuple[dict[str, ColmapCamera], list[str], list[tuple[str, str]]]:
    """Photographs that can be used with their cameras, why others can't, the pairs."""
    usable, problems = {}, [*unnamed]
    for name in names:
        try:
            found = reader.photographs.read(name)
            usable[name] = reader.camera(name, found.size)
        except (OSError, ValueError) as error:
            problems.append(f"{name}: left out: {error}")
    if len(usable) < 2:
        raise ValueError(
            f"{run.folder}: {len(usable)} of {len(names) + len(unnamed)} photographs can be used, "
            f"wanted 2 or more; {problems[0]}"
        )
    pairs = run.choice.pairs(names, lambda name: _descriptors(reader, name, usable))
    return usable, problems, [pair for pair in pairs if usable.keys() >= set(pair)]


def _descriptors(reader: PhotographReader, name: str, usable: dict) -> np.ndarray:
    if name not in usable:
        return np.zeros((0, 128), np.float32)
    return reader.photographs.read(name).descriptors


def _reach(progress: Progress, count: int) -> None:
    """So many more, about: each process tells what all have done, if they are alike."""
    progress.reach(min(progress.done + count, progress.total))


def _length(part: str) -> int:
    return (part.count("\n") + 1) // 2


def _counted(
    pairs: Iterator[tuple[tuple[str, str], FoundPair]], counts: FolderCounts
) -> Iterator[tuple[tuple[str, str], FoundPair]]:
    for names, pair in pairs:
        counts.matches += len(pair.matches)
        counts.linked += len(pair.matches) > 0
        if pair.left_out:
            counts.left_out.append(LeftOutPair(*names, pair.pair_probability, pair.left_out))
        if pair.geometry is not None:
            counts.inliers += len(pair.geometry.inliers)
            counts.kinds[pair.geometry.config] += 1
        yield names, pair


def report_lines(run: FolderRun, counts: FolderCounts) -> list[str]:
    """What came of a folder, for people."""
    lines = [f"photos     {counts.photographs}, cameras {counts.cameras}"]
    if counts.guessed and run.options.geometries:
        lines += [
            f"           {counts.guessed} focal lengths are guesses: their pairs have no E and no",
            "           pose, only F; the mapper looks for these focal lengths",
        ]
    before = f", {counts.done_before} of them done before" if counts.done_before else ""
    lines.append(f"pairs      {counts.pairs}{before}, {counts.linked} with matches")
    lines.append(left_out_line(
        len(counts.left_out), counts.pairs, counts.guessed_pairs, run.options.min_pair_probability,
        run.out,
    ))
    lines.append(f"matches    {counts.matches} kept")
    if run.options.geometries:
        without = counts.kinds[DEGENERATE]
        lines.append(
            f"geometries {counts.pairs - without} with {counts.inliers} inliers, "
            f"{without} pairs without"
        )
    return lines
