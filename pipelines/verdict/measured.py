"""Known pairs with what is found of them: the evidence to learn from, the answers to judge."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from n3match.datasets.pairs.sample import TRUE_MATCH_DISTANCE
from n3match.geometry import (
    essential_from_pose,
    estimate_fundamental_from_matches,
    estimate_relative_pose_from_matches,
    rotation_error_deg,
    symmetric_epipolar_distance,
    translation_error_deg,
)
from n3match.geometry.estimators import (
    FUNDAMENTAL_ESTIMATORS,
    TwoViewProblem,
    choose_estimator,
)
from n3match.geometry.verification.agreement import Matches
from n3match.geometry.verification.pair import evidence_name, pair_evidence
from n3match.geometry.verification.support import samples_worth_drawing
from n3match.pipelines.common.fingerprints import (
    hash_of,
    hash_of_files,
    hash_of_weights,
    versions,
)
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.result_rows import ResultRows
from n3match.pipelines.verdict.known_matches import KnownMatches, MatchStore, turn_to_middle
from n3match.pipelines.verdict.pair_kinds import OTHER_PART, REAL, KnownPair
from n3match.two_view import pose_from_logits
from n3match.weights.verdict import ESSENTIAL, GEOMETRIES, verdict_file

RIGHT_DEG = 10.0
# The direction of a translation that is nearly none says nothing.
_RIGHT_ROTATION_DEG = 3.0
_RIGHT_SHARE = 0.7  # of the inliers of a fundamental matrix
_RATIO = 0.9
_SAMPLES = 10_000
_CONFIDENCE = 0.9999
FAILED_DEG = 180.0


@dataclass(frozen=True)
class EvidenceRow:
    """What an estimate without doubt finds of a pair, and whether it is right."""

    command: ClassVar[str] = "train-verdict"

    pair: str
    kind: str
    scene0: str
    scene1: str
    keypoints: int
    model: str  # see `evidence_name`
    right: int  # 1: a real pair, and the geometry found is its own; −1: nobody knows
    error_deg: float
    evidence: str  # JSON
    settings: str

    @property
    def key(self) -> tuple:
        return self.pair, self.keypoints, self.model

    @property
    def numbers(self) -> dict[str, float]:
        return json.loads(self.evidence)


@dataclass(frozen=True)
class AnswerRow:
    """What n3match says of a pair, and how many inliers the usual matches have."""

    command: ClassVar[str] = "evaluate-verdict"

    pair: str
    kind: str
    keypoints: int
    probability: float  # of the pair being real
    undoubted_deg: float  # of the pose found on the kept matches, before any doubt; 180 for none
    fundamental_probability: float  # without cameras
    alone_probability: float | None  # from points alone; None where not asked
    usual_inliers: int  # mutual, ratio < 0.9
    settings: str

    @property
    def key(self) -> tuple:
        return self.pair, self.keypoints


def true_pose(pair: KnownPair) -> tuple[np.ndarray, np.ndarray] | None:
    """Of the cameras as they count: turned, where a part of each photograph does."""
    pose = pair.pose()
    if pose is None or pair.kind != OTHER_PART:
        return pose
    turn0, turn1 = (turn_to_middle(bounds) for bounds in (pair.bounds0, pair.bounds1))
    return turn1 @ pose[0] @ turn0.T, turn1 @ pose[1]


def pose_errors(pair: KnownPair, R: np.ndarray | None, t: np.ndarray | None) -> tuple[float, float]:
    """Degrees of the rotation, and of the larger of it and the translation's; 180 where none."""
    truth = true_pose(pair)
    if truth is None or R is None:
        return FAILED_DEG, FAILED_DEG
    turned = float(rotation_error_deg(R, truth[0]))
    if t is None:
        return turned, FAILED_DEG
    return turned, max(turned, float(translation_error_deg(t, truth[1])))


def evidence_rows(
    pair: KnownPair, matches: KnownMatches, alone: KnownMatches | None, keypoints: int,
    settings: str,
) -> list[EvidenceRow]:
    """A row for each model.

    Args:
        matches: of the pair. alone: those by a filter that knows nothing but the points.
    """
    rows = []

    def add(matches: KnownMatches, rows_used: np.ndarray, known: Sequence[str]) -> None:
        told = {"logits": matches.logits, "keypoint_change": matches.change}
        told = {name: told[name][rows_used] for name in known}
        for geometry in GEOMETRIES:
            found, evidence, right, error = _estimated(pair, matches, rows_used, told, geometry)
            rows.append(EvidenceRow(
                pair.name, pair.kind, *pair.scenes, keypoints, evidence_name(found, geometry),
                right, round(error, 4), json.dumps(evidence), settings,
            ))

    add(matches, matches.logits > 0, ("logits", "keypoint_change"))
    add(matches, matches.mutual & (matches.ratio < _RATIO), ())
    if alone is not None:
        add(alone, alone.logits > 0, ("logits",))
    return rows


def _estimated(
    pair: KnownPair, m: KnownMatches, used: np.ndarray, told: dict, geometry: str
) -> tuple[Matches, dict[str, float], int, float]:
    points0, points1 = m.points0[used], m.points1[used]
    putative = len(used) if told else len(points0)
    x0, x1 = ((p - K[:2, 2]) / np.diag(K)[:2] for p, K in ((points0, m.K0), (points1, m.K1)))
    inliers, right, error = np.zeros(len(x0), bool), 0, FAILED_DEG
    if geometry == ESSENTIAL:
        focal = float(np.mean([m.K0[0, 0], m.K0[1, 1], m.K1[0, 0], m.K1[1, 1]]))
        matches = Matches(x0, x1, 1 / focal, putative, **told)
        if len(x0) > 5:
            samples = samples_worth_drawing(matches, _CONFIDENCE, _SAMPLES)
            pose = estimate_relative_pose_from_matches(
                points0, points1, m.K0, m.K1, verify=False, max_iterations=samples
            )
            inliers = pose.inliers
            if pose.ok:
                turned, error = pose_errors(pair, pose.R, pose.t)
                right = error < RIGHT_DEG or turned < _RIGHT_ROTATION_DEG
    else:
        if "keypoint_change" in told:
            told = told | {"keypoint_change": _in_pixels(m)[used]}
        matches = Matches(points0, points1, 1.0, putative, **told)
        spec = choose_estimator("auto", FUNDAMENTAL_ESTIMATORS)
        found = None
        if len(points0) >= spec.fewest_matches:
            found = spec.run(TwoViewProblem(
                points0, points1, np.eye(3), np.eye(3), None, 1.0, _CONFIDENCE,
                spec.max_iterations, 0,
            ))
        if found is not None:
            inliers = found.inliers
            right = _share_right(pair, x0[inliers], x1[inliers]) > _RIGHT_SHARE
            error = 0.0 if right else FAILED_DEG
    evidence = pair_evidence(matches, inliers)
    if pair.kind != REAL:
        # A part that does show something of the other, which the model has no points of.
        right = -1 if right and pair.kind == OTHER_PART else 0
    return matches, evidence, int(right), error


def _in_pixels(m: KnownMatches) -> np.ndarray:
    """(N, 3) how keypoints change, by their sizes in pixels where no camera is known."""
    focal0, focal1 = (np.trace(K) - 1 for K in (m.K0, m.K1))
    return m.change + np.array([0.0, 0.0, np.log(focal1 / focal0)])


def _share_right(pair: KnownPair, x0: np.ndarray, x1: np.ndarray) -> float:
    truth = true_pose(pair)
    if truth is None or not len(x0):
        return 0.0
    E = essential_from_pose(truth[0], truth[1] / np.linalg.norm(truth[1]))
    return float(np.mean(symmetric_epipolar_distance(x0, x1, E) < TRUE_MATCH_DISTANCE))


def answer_row(
    pair: KnownPair, m: KnownMatches, alone: KnownMatches | None, keypoints: int, settings: str
) -> AnswerRow:
    """What the library's own functions say of a pair, by default.

    Args: as of `evidence_rows`.
    """
    cameras = m.K0, m.K1
    pose = pose_from_logits(
        m.points0, m.points1, *cameras, m.logits, keypoint_change=m.change
    )
    kept = m.logits > 0
    kept0, kept1 = m.points0[kept], m.points1[kept]
    undoubted = estimate_relative_pose_from_matches(
        kept0, kept1, *cameras, verify=False, max_iterations=_SAMPLES
    )
    sizes = tuple(m.size0), tuple(m.size1)
    without = estimate_fundamental_from_matches(
        kept0, kept1, *sizes, num_putative=len(kept), logits=m.logits[kept],
        keypoint_change=_in_pixels(m)[kept],
    )
    alone_probability = None
    if alone is not None:
        by_points = pose_from_logits(alone.points0, alone.points1, *cameras, alone.logits)
        alone_probability = round(by_points.pair_probability, 6)
    usual = m.mutual & (m.ratio < _RATIO)
    plain = estimate_relative_pose_from_matches(
        m.points0[usual], m.points1[usual], *cameras, verify=False, max_iterations=_SAMPLES
    )
    return AnswerRow(
        pair.name, pair.kind, keypoints, round(pose.pair_probability, 6),
        round(pose_errors(pair, undoubted.R, undoubted.t)[1], 4),
        round(without.pair_probability, 6), alone_probability, plain.num_inliers, settings,
    )


def measured(
    pairs: Sequence[KnownPair],
    stores: Sequence[MatchStore],
    rows: ResultRows,
    settings: str,
    make: Callable[[KnownPair, KnownMatches, KnownMatches | None, int, str], Sequence],
    keys: Callable[[KnownPair, int], tuple],
    every: int,
) -> list:
    """Rows of all pairs at every number of keypoints; those on file are used again where all that
    they depend on is as it was: `settings`, the photographs and their poses, the filter, whether
    points alone were asked for.

    Args:
        make: the rows of a pair. keys: of one of them, which stands for all.
        every: one pair in so many also with points alone, at the first number of keypoints; 0:
            none.
    """
    wanted = [(store, pair) for store in stores for pair in pairs]
    current: dict[tuple[str, int], str] = {}
    try:
        with Progress(len(wanted), "pair") as progress:
            for store, pair in wanted:
                # By its name: whether it is asked doesn't depend on the other pairs.
                asked = every and zlib.crc32(pair.name.encode()) % every == 0
                asked = bool(asked) and store is stores[0]
                own = hash_of([settings, store.state(pair), asked])[:16]
                current[pair.name, store.keypoints] = own
                if rows.find(keys(pair, store.keypoints), own) is None:
                    alone = replace(store, points_alone=True).read(pair) if asked else None
                    rows.add(make(pair, store.read(pair), alone, store.keypoints, own))
                progress.update()
    finally:
        rows.save()
    return [
        row for row in rows.merged().values()
        if current.get((row.pair, row.keypoints)) == row.settings
    ]


def settings_of(filter: str, *, verdict: bool) -> str:
    """Fingerprint of what rows depend on beside the pair; the shipped verdict too where asked."""
    state = [
        "3", hash_of_weights(filter), versions("opencv", "n3match", "poselib"),
        hash_of_files(verdict_file()) if verdict else "",
    ]
    return hash_of(state)[:16]
