"""Photographs with known poses: true pairs are found, unrelated pairs are refused."""

import cv2
import numpy as np
import pytest

from n3match.geometry import PoseStatus, estimate_relative_pose_from_matches, pose_error_deg
from n3match.geometry.estimators import ESTIMATORS as SPECS
from n3match.plugins.colmap.model import covisible_pairs, read_colmap_model, relative_pose

ESTIMATORS = [s.name for s in SPECS.values() if s.installed and not s.linear]


@pytest.fixture(scope="module")
def scenes(shared_data):
    """{name: (model, {image id: (keypoints, descriptors)})} of a few photographs each."""
    found = {}
    for name in ("chalmers2", "vgg_statue"):
        folder = shared_data / "scenes" / "train" / name
        model = read_colmap_model(folder / "sparse")
        features = {}
        for image_id in sorted(model.images)[:5]:
            path = folder / "images" / model.images[image_id].name
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
            keypoints, descriptors = cv2.SIFT_create(nfeatures=1000).detectAndCompute(image, None)
            features[image_id] = (np.array([k.pt for k in keypoints]), descriptors)
        found[name] = (model, features)
    return found


def _mutual_matches(features0, features1):
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(features0[1], features1[1])
    index0, index1 = ([getattr(m, side) for m in matches] for side in ("queryIdx", "trainIdx"))
    return features0[0][index0], features1[0][index1]


def _cameras(model, a, b):
    camera0, camera1 = model.camera_of(a), model.camera_of(b)
    return {
        "K0": camera0.K,
        "K1": camera1.K,
        "distortion0": camera0.distortion,
        "distortion1": camera1.distortion,
    }


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pairs_with_much_in_common(scenes, estimator):
    errors = []
    for model, features in scenes.values():
        pairs = [(a, b, n) for a, b, n in covisible_pairs(model) if a in features and b in features]
        for a, b, _ in sorted(pairs, key=lambda pair: -pair[2])[:3]:
            R, t = relative_pose(model.images[a], model.images[b])
            result = estimate_relative_pose_from_matches(
                *_mutual_matches(features[a], features[b]),
                **_cameras(model, a, b),
                estimator=estimator,
                max_iterations=5000,
            )
            assert result.ok, result.detail
            assert result.t @ t > 0
            errors.append(float(pose_error_deg(result.R, result.t, R, t)))
    assert len(errors) == 6
    assert np.median(errors) < 2
    assert max(errors) < 10


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_photographs_of_different_places(scenes, estimator):
    (model0, features0), (model1, features1) = scenes.values()
    for a, b in list(zip(features0, features1))[:3]:
        points0, points1 = _mutual_matches(features0[a], features1[b])
        assert len(points0) > 100
        result = estimate_relative_pose_from_matches(
            points0,
            points1,
            model0.camera_of(a).K,
            model1.camera_of(b).K,
            estimator=estimator,
            max_iterations=2000,
        )
        assert result.status is PoseStatus.INSUFFICIENT_SUPPORT


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_photograph_with_itself(scenes, estimator):
    model, features = scenes["vgg_statue"]
    image_id = next(iter(features))
    points0, points1 = _mutual_matches(features[image_id], features[image_id])
    result = estimate_relative_pose_from_matches(
        points0, points1, **_cameras(model, image_id, image_id), estimator=estimator
    )
    assert result.status is PoseStatus.NO_PARALLAX
    assert np.allclose(result.R, np.eye(3), atol=1e-6)
