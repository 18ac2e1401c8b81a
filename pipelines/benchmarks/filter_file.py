"""`n3match filter-h5` on files of hloc's layout with few and with many pairs: time and memory."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

import h5py
import numpy as np
import torch

from n3match.matching import extract_sift, putative_matches
from n3match.pipelines.benchmarks.measure import peak_resident
from n3match.pipelines.filtering.hloc_files import filter_files
from n3match.pipelines.two_view.demo_pair import load_demo_pair

_KEYPOINTS = 2000


def run(pairs: Sequence[int]) -> list[dict]:
    """A row for each number of pairs, of 2 000 putative matches each."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in pairs:
            features, matches = write_files(Path(name), count)
            out = Path(name) / "filtered.h5"
            seconds, kept, peak = _in_new_process(features, matches, out)
            rows.append(
                {
                    "filter-h5": f"{count} pairs of {_KEYPOINTS} matches",
                    "seconds": round(seconds, 1),
                    "pairs a second": round(count / seconds, 1),
                    "kept of a pair": round(kept / count),
                    "peak memory above the start, MB": round(peak / 1e6),
                }
            )
    return rows


def write_files(folder: Path, pairs: int) -> tuple[Path, Path]:
    """FEATURES and MATCHES as hloc writes them: the demo's two photographs under many names.

    Each pair is one of either, with the nearest neighbour of every keypoint.
    """
    found = [
        extract_sift(photograph.image, max_keypoints=_KEYPOINTS)
        for photograph in load_demo_pair().photographs
    ]
    first, second = found
    nearest = putative_matches(
        first.keypoints, first.descriptors, second.keypoints, second.descriptors
    ).index1
    images = 2
    while (images // 2) * (images - images // 2) < pairs:
        images += 1
    left = [f"left/{i:04}.jpg" for i in range(images // 2)]
    right = [f"right/{i:04}.jpg" for i in range(images - images // 2)]
    features, matches = folder / "features.h5", folder / "matches.h5"
    with h5py.File(features, "w") as file:
        for names, sift in ((left, first), (right, second)):
            for name in names:
                group = file.create_group(name)
                group["keypoints"] = sift.keypoints
                group["descriptors"] = sift.descriptors.T
                group["scores"] = sift.scores
                group["image_size"] = np.array(sift.image_size)
    with h5py.File(matches, "w") as file:
        for name0, name1 in islice(product(left, right), pairs):
            group = file.create_group(f"{name0.replace('/', '-')}/{name1.replace('/', '-')}")
            group["matches0"] = nearest.astype(np.int16)
            group["matching_scores0"] = np.ones(len(nearest), np.float16)
    return features, matches


def _in_new_process(features: Path, matches: Path, out: Path) -> tuple[float, int, int]:
    """Seconds of the command, matches kept, growth of the peak memory in bytes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (features, matches, out, torch.get_num_threads(), theirs)
    process = context.Process(target=_filter, args=arguments)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise MemoryError("the measured process died (out of memory?)") from None
    finally:
        process.join()


def _filter(features: Path, matches: Path, out: Path, threads: int, connection) -> None:
    torch.set_num_threads(threads)
    before, start = peak_resident(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        filter_files(features, matches, out)
    seconds = time.perf_counter() - start
    peak = peak_resident() - before
    with h5py.File(out, "r") as file:
        groups = [group for one in file.values() for group in one.values()]
        kept = sum(int((group["matches0"][()] >= 0).sum()) for group in groups)
    connection.send((seconds, kept, peak))
