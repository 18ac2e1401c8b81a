"""Statuses on generated scenes that have no pose, or hide it: are they right, and are they sure?"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import binomtest

from n3match.datasets.synthetic.degenerate import (
    KINDS,
    SIZE,
    WITHOUT_POSE,
    WITHOUT_TRANSLATION,
    DegenerateMatches,
    K,
    degenerate_matches,
)
from n3match.geometry import PoseStatus, RelativePose, pose_error_deg
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.tables import markdown_table
from n3match.two_view import estimate_relative_pose

NOISE = (0.2, 0.5, 1.0, 2.0)  # pixels
WRONG = (0.0, 0.3, 0.6, 0.9)  # shares
WRONG_DEG = 10.0
_BINS = (0.0, 0.2, 0.5, 0.8, 0.95, 1.0)


@dataclass(frozen=True)
class StatusCase:
    """One generated pair, and what is said of it.

    Attributes:
        error: degrees from the nearest right pose; 180 where there is none, or no answer.
    """

    kind: str
    noise: float
    wrong: float
    filter: str
    status: PoseStatus
    error: float
    probability: float

    @property
    def is_wrong(self) -> bool:
        """Whether a pose that isn't right is said to be."""
        return self.status is PoseStatus.OK and self.error > WRONG_DEG


def run_cases(
    filters: Sequence[str], repeats: int, *, noise: Sequence[float] = NOISE,
    wrong: Sequence[float] = WRONG, kinds: Sequence[str] = KINDS, seed: int = 0,
) -> list[StatusCase]:
    """Every kind at every noise and share of wrong matches, `repeats` scenes each.

    Args:
        filters: weights of a filter that sees the points alone, or "none".
        seed: another one draws other scenes.
    """
    grid = [
        (kind, n, w, i) for kind in kinds for n in noise
        for w in (wrong if kind not in WITHOUT_POSE else wrong[:1]) for i in range(repeats)
    ]
    cases = []
    with Progress(len(grid), "scene") as progress:
        for kind, n, w, i in grid:
            scene = scene_of(kind, n, w, i, seed)
            share = 1.0 if kind in WITHOUT_POSE else w
            for name in filters:
                pose = estimate_relative_pose(
                    scene.points0, scene.points1, K, K, filter=None if name == "none" else name
                )
                cases.append(StatusCase(
                    kind, n, share, name, pose.status, _error(scene, pose, kind),
                    pose.pair_probability or 0.0,
                ))
            progress.update()
    return cases


def scene_of(kind: str, noise: float, wrong: float, number: int, seed: int) -> DegenerateMatches:
    """One of the repeats, whatever the others are."""
    key = zlib.crc32(repr((kind, noise, wrong, number)).encode())
    return degenerate_matches(kind, noise, wrong, np.random.default_rng([key, seed]))


def _error(scene: DegenerateMatches, pose: RelativePose, kind: str) -> float:
    if pose.R is None or pose.t is None or kind in (*WITHOUT_POSE, *WITHOUT_TRANSLATION):
        return 180.0
    return min(float(pose_error_deg(pose.R, pose.t, *motion)) for motion in scene.motions)


def status_report(cases: Sequence[StatusCase]) -> str:
    """Markdown: statuses by kind, confident wrong poses by noise and share, probabilities."""
    parts = []
    for name in dict.fromkeys(case.filter for case in cases):
        here = [case for case in cases if case.filter == name]
        parts.append(f"Filter {name}: {_sums(here)}\n\n{_by_kind(here)}")
        parts.append(f"Confident wrong poses by noise and share of wrong matches:\n\n{_grid(here)}")
        parts.append(f"Probability told and poses that are right:\n\n{_calibration(here)}")
    return "\n\n".join(parts) + "\n"


def _sums(cases: Sequence[StatusCase]) -> str:
    wrong = sum(case.is_wrong for case in cases)
    low, high = binomtest(wrong, len(cases)).proportion_ci()
    return (
        f"{wrong} confident wrong poses (> {WRONG_DEG:g}° at status ok) in {len(cases)} scenes, "
        f"{100 * wrong / len(cases):.2f} [{100 * low:.2f}, {100 * high:.2f}] % (95 % interval)"
    )


def _by_kind(cases: Sequence[StatusCase]) -> str:
    statuses = [s for s in PoseStatus if any(case.status is s for case in cases)]
    rows = []
    for kind in dict.fromkeys(case.kind for case in cases):
        here = [case for case in cases if case.kind == kind]
        counts = Counter(case.status for case in here)
        rows.append([
            kind, len(here), *(counts[status] or "" for status in statuses),
            sum(case.is_wrong for case in here) or "",
        ])
    return markdown_table(["scene", "number", *map(str, statuses), "of ok wrong"], rows)


def _grid(cases: Sequence[StatusCase]) -> str:
    noise = sorted({case.noise for case in cases})
    rows = []
    for wrong in sorted({case.wrong for case in cases}):
        cells = []
        for level in noise:
            here = [case for case in cases if (case.noise, case.wrong) == (level, wrong)]
            cells.append(f"{sum(case.is_wrong for case in here)} of {len(here)}")
        rows.append([f"{100 * wrong:g} %", *cells])
    return markdown_table(["wrong matches", *(f"{level:g} px" for level in noise)], rows)


def _calibration(cases: Sequence[StatusCase]) -> str:
    rows = []
    for low, high in pairwise(_BINS):
        here = [
            case for case in cases
            if low <= case.probability < high or case.probability == high == 1.0
        ]
        ok = [case for case in here if case.status is PoseStatus.OK]
        right = sum(not case.is_wrong for case in ok)
        rows.append([
            f"{low:g} … {high:g}", len(here), len(ok),
            f"{100 * right / len(ok):.1f}" if ok else "—",
        ])
    return markdown_table(["pair_probability", "scenes", "with a pose", "of them right, %"], rows)


def heading(repeats: int, seed: int) -> str:
    """What was run."""
    return (
        f"{len(KINDS)} kinds of scenes, 300 matches in images of {SIZE[0]} × {SIZE[1]}, noise "
        f"{', '.join(f'{n:g}' for n in NOISE)} px, "
        f"{', '.join(f'{100 * w:g}' for w in WRONG)} % wrong matches, {repeats} scenes of each, "
        f"seed {seed}."
    )
