"""From two photographs to filtered matches and a relative pose, with the seconds of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from n3match.filtering import score_matches
from n3match.geometry import RelativePose, estimate_relative_pose_from_matches
from n3match.match_filter import MatchFilter
from n3match.matching import Features, PutativeMatches, extract_sift, putative_matches
from n3match.pipelines.photograph import Photograph
from n3match.pose import pose_from_logits
from n3match.side_information import relative_apart, relative_distance, side_columns


@dataclass
class Stopwatch:
    """Wall-clock seconds by stage, in the order in which the stages ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True, eq=False)
class TwoView:
    """Two photographs and what was matched between them.

    Attributes:
        photographs: image 0 and image 1.
        features: their keypoints, in pixels of `Photograph.image`.
        putative: N matches from image 0 to image 1.
        logits: (N,) the filter's; None where there is no filter.
    """

    photographs: tuple[Photograph, Photograph]
    features: tuple[Features, Features]
    putative: PutativeMatches
    logits: np.ndarray | None

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: the filter's choice; all without a filter."""
        if self.logits is None:
            return np.ones(len(self.putative), dtype=bool)
        return self.logits > 0

    @property
    def scores(self) -> np.ndarray:
        """(N,) in [0, 1], above ½ where kept; 1 without a filter."""
        if self.logits is None:
            return np.ones(len(self.putative))
        return 0.5 * (1.0 + np.tanh(0.5 * self.logits))  # the logistic function, without overflow

    def file_points(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 2), (N, 2) matched points in pixels of the files' images."""
        photo0, photo1 = self.photographs
        return photo0.to_file(self.putative.points0), photo1.to_file(self.putative.points1)


def match_photographs(
    photo0: Photograph,
    photo1: Photograph,
    *,
    filter: MatchFilter | None,
    max_keypoints: int = 2000,
    stopwatch: Stopwatch | None = None,
) -> TwoView:
    """SIFT, nearest neighbours, filter: stages "sift", "matching" and "filter".

    Args:
        photo0, photo1: of one scene.
        filter: None for no filter.
        max_keypoints: per photograph, the strongest.
        stopwatch: gets the seconds of the stages.

    Raises:
        ValueError: a camera matrix that is singular, `max_keypoints` below 1.
    """
    watch = stopwatch or Stopwatch()
    with watch.stage("sift"):
        features = tuple(extract_sift(photo.image, max_keypoints) for photo in (photo0, photo1))
    with watch.stage("matching"):
        putative = putative_matches(
            features[0].keypoints,
            features[0].descriptors,
            features[1].keypoints,
            features[1].descriptors,
        )
    logits = None
    if filter is not None:
        with watch.stage("filter"):
            logits = match_logits((photo0, photo1), features, putative, filter)
    return TwoView((photo0, photo1), features, putative, logits)


def match_logits(
    photographs: Sequence[Photograph],
    features: Sequence[Features],
    putative: PutativeMatches,
    filter: MatchFilter,
) -> np.ndarray:
    """(N,) what a filter says of two photographs' putative matches, see `score_matches`."""
    return score_matches(
        putative.points0,
        putative.points1,
        *(photograph.K for photograph in photographs),
        side=putative_side(putative, filter.side_information, photographs[1].K),
        shapes0=features[0].shapes[putative.index0],
        shapes1=features[1].shapes[putative.index1],
        filter=filter,
        distortion0=photographs[0].distortion,
        distortion1=photographs[1].distortion,
    )


def putative_side(
    putative: PutativeMatches, names: tuple[str, ...], K1: np.ndarray
) -> np.ndarray | None:
    """(N, S) what a filter wants to know of each match; None where it wants nothing.

    Args:
        putative: all matches of a pair.
        names: the filter's `side_information`.
        K1: (3, 3) camera matrix of image 1.

    Raises:
        ValueError: a name that is no column of `n3match.side_information`.
    """
    apart = putative.apart
    return side_columns(
        names,
        putative.ratio,
        putative.mutual,
        back_ratio=putative.back_ratio,
        distance=relative_distance(putative.distance),
        apart=None if apart is None else relative_apart(apart, (K1[0, 0] + K1[1, 1]) / 2),
    )


def pose_of(
    view: TwoView, *, estimator: str = "auto", seed: int = 0, stopwatch: Stopwatch | None = None
) -> RelativePose:
    """The pose of camera 1 relative to camera 0 from the kept matches: stage "pose".

    Args:
        view: matched photographs.
        estimator, seed: see `n3match.estimate_relative_pose`.
        stopwatch: gets the seconds of the stage.
    """
    photo0, photo1 = view.photographs
    arguments = (view.putative.points0, view.putative.points1, photo0.K, photo1.K)
    options = {
        "estimator": estimator,
        "seed": seed,
        "distortion0": photo0.distortion,
        "distortion1": photo1.distortion,
    }
    with (stopwatch or Stopwatch()).stage("pose"):
        if view.logits is None:
            return estimate_relative_pose_from_matches(*arguments, **options)
        return pose_from_logits(*arguments, view.logits, **options)
