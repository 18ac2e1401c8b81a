"""The weighted eight-point algorithm as an estimator: no sampling."""

from __future__ import annotations

import numpy as np
import torch

from n3match.geometry.eight_point import weighted_eight_point
from n3match.geometry.epipolar import sampson_distance
from n3match.geometry.essential import project_to_essential, recover_pose
from n3match.geometry.estimators.problem import Estimate, EstimatorSpec, TwoViewProblem

# The published evaluation of CNNet and N³: cheirality by the best tenth of the matches.
_VOTING_SHARE = 0.1
_FEWEST_VOTERS = 8


def eight_point(problem: TwoViewProblem) -> Estimate | None:
    """E from all matches by their weights (all 1 if there are none), R and t by the best tenth.

    Confidence, iterations and seed have no meaning here. Inliers are the matches with a positive
    weight, a Sampson distance below the threshold, and a point before both cameras.
    """
    weights = np.ones(len(problem)) if problem.weights is None else problem.weights
    x0, x1, w = (torch.from_numpy(a)[None] for a in (problem.x0, problem.x1, weights))
    E = project_to_essential(weighted_eight_point(x0, x1, w, normalize=True))
    voters = w
    if problem.weights is not None:
        count = max(_FEWEST_VOTERS, round(_VOTING_SHARE * len(problem)))
        best = np.argsort(-weights, kind="stable")[:count]
        voters = torch.zeros_like(w)
        voters[0, best] = w[0, best]
    R, t, in_front = recover_pose(E, x0, x1, voters)
    if not (R.isfinite().all() and t.isfinite().all()):
        return None
    close = sampson_distance(x0, x1, E) < problem.threshold_calibrated**2
    inliers = (close & in_front & (w > 0))[0].numpy()
    return Estimate(R[0].numpy(), t[0].numpy(), inliers)


EIGHT_POINT = EstimatorSpec(
    "eight_point", eight_point, fewest_matches=8, max_iterations=1, linear=True
)
