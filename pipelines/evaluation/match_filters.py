"""Match filters by name: the usual ones, to compare with, and n3match's own.

A filter is first prepared for a pair (imports, conversion to the types of its library), then run:
only the run need be timed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from n3match import weights
from n3match.datasets.pairs.store import PairRecord
from n3match.matching import keypoint_change, one_to_one, side_info_columns
from n3match.nn.match_filter import MatchFilter
from n3match.pipelines.common.devices import placed
from n3match.pipelines.common.fingerprints import hash_of_weights
from n3match.pipelines.evaluation.precomputed import PrecomputedMatches
from n3match.pipelines.evaluation.records import Filtered, PairFilter, PreparedFilter


def keep_all(record: PairRecord) -> PreparedFilter:
    return lambda: Filtered(np.ones(len(record.ratio), dtype=bool))


def ratio_test(record: PairRecord) -> PreparedFilter:
    return lambda: Filtered(record.ratio < 0.8)


def mutual_nearest(record: PairRecord) -> PreparedFilter:
    return lambda: Filtered(record.mutual.copy())


def mutual_and_ratio(record: PairRecord) -> PreparedFilter:
    return lambda: Filtered(record.mutual & (record.ratio < 0.9))


def gms(record: PairRecord, **options: bool) -> PreparedFilter:
    """OpenCV's grid-based motion statistics (Bian et al., CVPR 2017); options: withRotation, …"""
    keypoints0 = _opencv_keypoints(record.points0, record.sizes_angles0)
    keypoints1 = _opencv_keypoints(record.points1, record.sizes_angles1)
    matches = [cv2.DMatch(i, i, float(d)) for i, d in enumerate(record.descriptor_distance)]

    def run() -> Filtered:
        kept = np.zeros(len(matches), dtype=bool)
        if matches:
            found = cv2.xfeatures2d.matchGMS(
                record.size0, record.size1, keypoints0, keypoints1, matches, **options
            )
            kept[[match.queryIdx for match in found]] = True
        return Filtered(kept)

    return run


def adalam(record: PairRecord) -> PreparedFilter:
    """Kornia's AdaLAM (Cavalli et al., ECCV 2020) with its default settings.

    Kornia matches descriptors first; a store has none, but the matches that they give: each
    keypoint's nearest neighbour, the ratio of distances, and which are mutual. AdaLAM scores by the
    ratio of *squared* distances, reads keypoints of image 1 only through the matches, and
    orientations and scales only through their change from match to match.
    """
    from kornia.feature.adalam import AdalamFilter  # takes seconds: only where it is asked for

    points0, points1 = (
        torch.tensor(p, dtype=torch.float32) for p in (record.points0, record.points1)
    )
    (sizes0, angles0), (sizes1, angles1) = (
        torch.tensor(s.T.copy(), dtype=torch.float32)
        for s in (record.sizes_angles0, record.sizes_angles1)
    )
    scores = torch.tensor(record.ratio, dtype=torch.float32).square()
    mutual = torch.tensor(record.mutual)
    filter_matches = AdalamFilter().filter_matches

    def run() -> Filtered:
        kept = np.zeros(len(points0), dtype=bool)
        if len(points0) > 1:
            pairs = filter_matches(
                points0,
                points1,
                putative_matches=torch.arange(len(points0)),
                scores=scores,
                mnn=mutual,
                im1shape=record.size0,
                im2shape=record.size1,
                o1=angles0,
                o2=angles1,
                s1=sizes0,
                s2=sizes1,
            )
            kept[pairs[:, 0].numpy()] = True
        return Filtered(kept)

    return run


CLASSICAL: dict[str, PairFilter] = {
    "none": keep_all,
    "ratio": ratio_test,
    "mutual": mutual_nearest,
    "mutual-ratio": mutual_and_ratio,
    "gms": gms,
    "gms-rotation-scale": functools.partial(gms, withRotation=True, withScale=True),
    "adalam": adalam,
}

def learned(net: MatchFilter, record: PairRecord) -> PreparedFilter:
    """n3match's own: kept where the logit is positive, weight relu(tanh(logit)).

    One that looks at second nearest neighbours speaks of those, too, and keeps no keypoint twice.
    """
    second = net.config.wants_second(len(record.xs)) and record.second is not None
    mutual = record.mutual
    if second:
        record = record.with_second()
        mutual = record.near_mutual
    focal = [(K[0, 0] + K[1, 1]) / 2 for K in (record.K0, record.K1)]
    arrays = (
        record.xs,
        side_info_columns(
            net.side_info, record.ratio, mutual, back_ratio=record.back_ratio,
            distance=record.descriptor_distance, apart=record.apart, focal1=focal[1],
        ),
        keypoint_change(record.sizes_angles0, record.sizes_angles1, *focal),
    )
    x, side_info, change = (
        None if a is None else torch.tensor(a, dtype=torch.float32)[None] for a in arrays
    )
    device = next(net.parameters()).device

    def run() -> Filtered:
        if not x.shape[1]:
            return Filtered(np.zeros(0, dtype=bool), np.zeros(0))
        with torch.inference_mode():
            points, *known = (None if c is None else c.to(device) for c in (x, side_info, change))
            logits = net.logits(points[..., :2], points[..., 2:], known[0], None, known[1])
        logits = logits[0].double().cpu().numpy()
        weights = np.maximum(np.tanh(logits), 0.0)
        if not second:
            return Filtered(logits > 0, weights)
        kept = one_to_one(record.index0, record.index1, logits)
        return Filtered(kept, np.where(kept, weights, 0.0), (record.points0, record.points1))

    return run


@dataclass(frozen=True)
class FilterSource:
    """Which filter is meant: `label` of its rows, `source` a name or a path of weights; networks
    run on `device`, in half precision where wanted (`devices.placed`). Of one that was trained
    several times tables have the means over all of the same `group`; "": there are no others."""

    label: str
    source: str
    device: str = "cpu"
    half: bool = False
    group: str = ""

    @classmethod
    def parse(cls, text: str) -> FilterSource:
        """A name ("ratio", "sift"), a path of weights or matches, or LABEL=PATH.

        Raises:
            ValueError: neither, with the names there are.
        """
        shipped = weights.shipped()
        if text in CLASSICAL or text in shipped or _is_there(text):
            return cls(text, text)
        label, equals, path = text.partition("=")
        if equals and label and _is_there(path):
            return cls(label, path)
        raise ValueError(
            f"filters: {text!r} is none of {', '.join((*CLASSICAL, *shipped))}, "
            "nor a file of weights or matches, nor LABEL=FILE"
        )

    @property
    def is_classical(self) -> bool:
        return self.source in CLASSICAL

    @property
    def is_trained(self) -> bool:
        """Whether it is a file of weights."""
        return (
            not self.is_classical and self.source not in weights.shipped()
            and self._precomputed() is None
        )  # fmt: skip

    def _precomputed(self) -> PrecomputedMatches | None:
        if self.source in weights.shipped():
            return None
        return PrecomputedMatches.parse(self.source)

    def load(self) -> PairFilter:
        """The filter itself. Raises ValueError where the file is no match filter."""
        if self.is_classical:
            return CLASSICAL[self.source]
        precomputed = self._precomputed()
        if precomputed is not None:
            return precomputed
        # Not a closure: it is sent to other processes.
        net = placed(MatchFilter.from_pretrained(self.source), self.device, self.half)
        return functools.partial(learned, net)

    def fingerprint(self) -> str:
        """Text that changes when the filter does, e.g. when weights are trained again."""
        if self.is_classical:
            return self.source
        precomputed = self._precomputed()
        if precomputed is not None:
            return precomputed.fingerprint()
        return hash_of_weights(self.source) + (" in half" if self.half else "")


def parse_filters(
    filters: Sequence[str], device: str = "cpu", half: bool = False
) -> list[FilterSource]:
    """What the filters named are; a filter named twice counts once.

    A label of several files of weights stands for a network trained several times: its rows are
    labelled LABEL 1, LABEL 2, … in the order given, and are of the group LABEL.

    Args:
        filters: texts for `FilterSource.parse`.
        device, half: of networks, see `devices.placed`.

    Raises:
        ValueError: no filter, an unknown one, or one label for filters that aren't trainings of one
            network.
    """
    named = list(dict.fromkeys(FilterSource.parse(text) for text in filters))
    if not named:
        raise ValueError("filters: none given")
    given = [source.label for source in named]
    sources, wrong = [], set()
    for number, source in enumerate(named):
        source = replace(source, device=device, half=half)
        if given.count(source.label) > 1:
            if not source.is_trained:
                wrong.add(source.label)
            nth = given[: number + 1].count(source.label)
            source = replace(source, label=f"{source.label} {nth}", group=source.label)
        sources.append(source)
    labels = [source.label for source in sources]
    # In tables groups and single trainings stand beside one another.
    wrong.update(label for label in labels if labels.count(label) > 1)
    wrong.update({source.group for source in sources}.intersection(labels))
    if wrong:
        raise ValueError(f"filters: the label {min(wrong)!r} stands for several filters")
    return sources


def groups(sources: Sequence[FilterSource]) -> dict[str, str]:
    """{label of a training: the group it is of}, of the filters that were trained several times."""
    return {source.label: source.group for source in sources if source.group}


def names_in_tables(sources: Sequence[FilterSource]) -> list[str]:
    """Groups, and labels of all that are in none."""
    return list(dict.fromkeys(source.group or source.label for source in sources))


def _is_there(path: str) -> bool:
    return Path(path).is_file() or PrecomputedMatches.parse(path) is not None


def _opencv_keypoints(points: np.ndarray, sizes_angles: np.ndarray) -> list[cv2.KeyPoint]:
    return [
        cv2.KeyPoint(float(x), float(y), float(size), float(angle))
        for (x, y), (size, angle) in zip(points, sizes_angles)
    ]
