"""Relative poses from noisy photographs: without denoising, and with each of some methods before.

To photographs of scenes with known poses, reduced to --max-size and grey, white Gaussian noise is
added, the same for every method: default_rng([1234, σ, crc32("scene/name")]); the sum is rounded
and clipped to 8 bits, as a file would be. Each method denoises it, told σ; then everything is as
ever: SIFT again, nearest neighbours, one filter, one estimator, whose pose is taken as it is. The
row "no noise" is the photographs as they are. Networks that aren't for a σ are left out there.

With --out, denoised images are kept in images/ and rows in results.csv: a run that was stopped
goes on where it was, and another method or σ costs only itself. table.md holds the table.

Exit status: 0; 2 after an error, told by one line on standard error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.datasets.scenes.formats import find_scenes
from n3match.datasets.scenes.source import ReadOptions, ScenePair
from n3match.whole_file import write_whole
from n3match.pipelines.denoising.denoise import parse_gigabytes
from n3match.pipelines.denoising.methods import (
    DESCRIPTIONS,
    MethodSource,
    add_method_arguments,
    methods_from_arguments,
)
from n3match.pipelines.evaluation.match_filters import FilterSource
from n3match.pipelines.evaluation.noise_rows import NoiseRow, NoiseRows, noise_table
from n3match.pipelines.evaluation.noisy_views import NoisyViews, Treatment
from n3match.pipelines.evaluation.protocol import (
    PROTOCOLS,
    check_estimators,
    count_kept,
    find_pose,
    pose_errors,
    undistorted_pixels,
)
from n3match.pipelines.evaluation.runs import check_folder, versions
from n3match.pipelines.pairs.jobs import make_record
from n3match.pipelines.pairs.plan import PhotoPart, PlanOptions, plan_scene

_NO_NOISE = Treatment(0.0, MethodSource("noisy", "noisy"))


@dataclass(frozen=True)
class Estimation:
    """What finds the pose, the same for all."""

    filter: FilterSource
    estimator: str
    seed: int

    def settings(self, keys: Sequence[str], pair: ScenePair) -> str:
        """Fingerprint of a row: of its views' features, `keys`, and of all else."""
        protocol = PROTOCOLS[self.estimator]
        parts = [
            *keys, pair.R.tolist(), pair.t.tolist(), self.filter.fingerprint(), self.estimator,
            protocol.options, TRUE_MATCH_DISTANCE, self.seed,
            *versions("opencv", "n3match", protocol.package),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def evaluate(
    parts: Sequence[PhotoPart],
    treatments: Sequence[Treatment],
    views: NoisyViews,
    estimation: Estimation,
    rows: NoiseRows,
    *,
    quiet: bool = True,
) -> list[NoiseRow]:
    """A row for each pair and treatment, from `rows` where it is there already.

    Raises:
        OSError, ValueError: a photograph that can't be used, weights that don't fit.
    """
    run_filter = estimation.filter.load()
    found = []
    total = len(treatments) * sum(len(part) for part in parts)
    try:
        with tqdm(total=total, unit="pair", disable=quiet) as bar:
            for treatment in treatments:
                for part in parts:
                    found += _evaluate_part(
                        part, treatment, views, estimation, run_filter, rows, bar
                    )
    finally:
        rows.save()
    return found


def _evaluate_part(part, treatment, views, estimation, run_filter, rows, bar) -> list[NoiseRow]:
    keys = {
        name: views.fingerprint(part.scene, view, treatment) for name, view in part.views.items()
    }
    seen = {}  # views are read where a pair needs them
    found = []
    for pair in part.pairs:
        ends = [part.views[name] for name in (pair.view0, pair.view1)]
        names = [view.name for view in ends]
        key = (part.scene, *names, float(treatment.sigma), treatment.method.label)
        settings = estimation.settings([keys[pair.view0], keys[pair.view1]], pair)
        row = rows.find(key, settings)
        if row is None:
            for name in (pair.view0, pair.view1):
                if name not in seen:
                    seen[name] = views.features(part.scene, part.views[name], treatment)
            (view0, features0), (view1, features1) = seen[pair.view0], seen[pair.view1]
            reduced = PhotoPart(
                part.name, part.scene, {pair.view0: view0, pair.view1: view1}, [pair]
            )
            record = make_record(reduced, pair, features0, features1)
            filtered = run_filter(record)()
            pose, _ = find_pose(
                record, undistorted_pixels(record), filtered, estimation.estimator, estimation.seed
            )
            kept, kept_right = count_kept(record, filtered)
            row = NoiseRow(
                *key,
                matches=len(record.ratio),
                right=int((record.distances_squared < TRUE_MATCH_DISTANCE).sum()),
                kept=kept,
                kept_right=kept_right,
                inliers=pose.num_inliers,
                status=pose.status.value,
                error_deg=pose_errors(record, pose)["error_deg"],
                settings=settings,
            )
            rows.add(row)
        found.append(row)
        bar.update()
    return found


def plan(scenes: Path, pairs: int, seed: int) -> list[PhotoPart]:
    """At most so many pairs of each scene, evenly over overlap and change of view.

    Raises:
        OSError, ValueError: no scenes, or one that can't be read.
    """
    options = PlanOptions(max_pairs=pairs, fixed_direction=True, seed=seed, strict=True)
    parts = []
    for scene in find_scenes(scenes):
        found, problems = plan_scene(scene, ReadOptions(), options)
        if problems or not all(isinstance(part, PhotoPart) for part in found):
            raise ValueError(problems[0] if problems else f"{scene.path}: has no photographs")
        parts += found
    return parts


def make_report(
    rows: Sequence[NoiseRow], estimation: Estimation, views: NoisyViews, left_out: Sequence[str]
) -> str:
    """Markdown: the table, and how it was made."""
    pairs = {(r.scene, r.name0, r.name1) for r in rows}
    scenes = {scene for scene, *_ in pairs}
    used = dict.fromkeys(r.method for r in rows if r.method in DESCRIPTIONS)
    described = "; ".join(f"{name}: {DESCRIPTIONS[name]}" for name in used)
    lines = [
        f"{len(pairs)} pairs of {len(scenes)} scene{'s' * (len(scenes) != 1)}, photographs reduced "
        f"to {views.max_size} px, at most {views.max_keypoints} keypoints; filter "
        f"{estimation.filter.label}, {PROTOCOLS[estimation.estimator].title}, "
        f"seed {estimation.seed}.",
        noise_table(rows),
        "Means over pairs; mAP in % (pose error: max(rotation, translation direction), 180° "
        "without a pose; binned in steps of 5°), the interval is a bootstrap over pairs. A "
        "match is right where the squared symmetric epipolar distance is below "
        f"{TRUE_MATCH_DISTANCE:g} in calibrated units. {described}; "
        f"{', '.join(versions('opencv', 'torch'))}.",
    ]
    return "\n\n".join([*lines, *left_out]) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenes", type=Path, help="a folder of scenes, of any kind that build-pairs reads"
    )
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=[15.0, 25.0, 50.0], metavar="S",
        help="noise levels in 8-bit units (default: 15 25 50)",
    )
    add_method_arguments(parser)
    parser.add_argument(
        "--pairs", type=int, default=10, metavar="N",
        help="at most so many of each scene, easy and hard ones alike (default: %(default)s)",
    )
    parser.add_argument(
        "--max-size", type=int, default=480, metavar="PIXELS",
        help="longer side of the reduced photographs (default: %(default)s)",
    )
    parser.add_argument("--max-keypoints", type=int, default=2000, metavar="N")
    parser.add_argument("--filter", default="sift", help="as in evaluate-pose; default: sift")
    parser.add_argument(
        "--estimator", choices=tuple(PROTOCOLS), default="opencv_usac", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and of the estimator")
    parser.add_argument("--memory", type=parse_gigabytes, default=1.0, metavar="GB")
    parser.add_argument(
        "--out", type=Path,
        help="folder for results.csv, table.md, images/; an existing run goes on",
    )


def main(arguments: argparse.Namespace) -> int:
    for sigma in arguments.sigma:
        if not 0 < sigma <= 255:
            raise ValueError(f"sigma: wanted numbers above 0 and up to 255, got {sigma}")
    for name in ("pairs", "max_size", "max_keypoints"):
        if getattr(arguments, name) < 1:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}"
            )
    methods = methods_from_arguments(arguments)
    check_estimators([arguments.estimator])
    check_folder(arguments.out)
    treatments, left_out = [_NO_NOISE], []
    sigmas = list(dict.fromkeys(arguments.sigma))
    for sigma in sigmas:
        treatments += [Treatment(sigma, m) for m in methods if m.accepts(sigma)]
    for method in methods:
        missing = [f"{sigma:g}" for sigma in sigmas if not method.accepts(sigma)]
        if missing:
            left_out.append(f"{method.label} is not for noise of σ {', '.join(missing)}.")
    if len(treatments) == 1:
        raise ValueError(f"methods: none of the methods is for noise of σ {sigmas}")
    filter = FilterSource.parse(arguments.filter)
    estimation = Estimation(filter, arguments.estimator, arguments.seed)
    parts = plan(arguments.scenes, arguments.pairs, arguments.seed)
    torch.set_flush_denormal(True)
    temporary = tempfile.TemporaryDirectory() if arguments.out is None else nullcontext()
    with temporary as made:
        folder = Path(arguments.out or made)
        views = NoisyViews(
            folder / "images", arguments.max_size, arguments.max_keypoints,
            int(arguments.memory * 2**30),
        )
        rows = evaluate(
            parts, treatments, views, estimation, NoiseRows(folder / "results.csv"),
            quiet=not sys.stderr.isatty(),
        )
        text = make_report(rows, estimation, views, left_out)
        if arguments.out is not None:
            write_whole(folder / "table.md", text)
    print(text, end="")
    return 0
