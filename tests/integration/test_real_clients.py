"""The plugs among the real packages, as their users call them: `pytest -m integration`.

Each test prints the version of its package; docs/integrations/tried.md reports the last run.
"""

import importlib

import cv2
import numpy as np
import pytest
import torch
from bundled_pair import DISTORTION, PHOTOS, SIZE, K, error_deg, photograph
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene, pose_error_deg

from n3match.pipelines.filtering.colmap_database import Options, filter_database
from n3match.plugins.opencv import N3Matcher, filter_matches, find_essential_mat, recover_pose

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def client(request, capsys):
    """The package that a test is about, its version told; skipped where it isn't there."""
    (name,) = request.node.get_closest_marker("client").args
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed, or not all that it needs ({error})")
    except RuntimeError as error:  # torchvision that wasn't built for this torch
        pytest.skip(f"{name} can't be imported: {error}")
    with capsys.disabled():
        print(f"\n{name} {module.__version__}")
    return module


@pytest.mark.client("cv2")
def test_opencv():
    """OpenCV's own detector, matcher, estimator and pictures around the filter."""
    sift = cv2.SIFT_create(2000)
    (kp1, des1), (kp2, des2) = (sift.detectAndCompute(photograph(i), None) for i in (0, 1))
    rows = cv2.BFMatcher(cv2.NORM_L2).knnMatch(des1, des2, k=2)
    with pytest.warns(UserWarning, match="no effect"):
        good = filter_matches(SIZE, SIZE, kp1, kp2, rows, True, True, 6.0, K1=K, K2=K)
    picture = cv2.drawMatches(photograph(0), kp1, photograph(1), kp2, good, None)
    assert picture.shape == (1024, 2 * 768, 3)
    matcher = N3Matcher()
    matcher.setPairInfo(kp1, kp2, SIZE, SIZE, K1=K, K2=K)
    kept = [m for m, n in matcher.knnMatch(des1, des2, k=2) if m.distance < n.distance]
    points = [
        np.float32([kp[getattr(m, name)].pt for m in kept])
        for kp, name in ((kp1, "queryIdx"), (kp2, "trainIdx"))
    ]
    E, mask = cv2.findEssentialMat(*points, K, cv2.USAC_MAGSAC, 0.999, 1.0)
    _, R, t, _ = cv2.recoverPose(E, *points, K, mask=mask)
    assert error_deg(R, t) < 5
    E, mask = find_essential_mat(
        *points, K, DISTORTION, K, DISTORTION, cv2.USAC_MAGSAC, 0.999, 1.0, filter=None
    )
    assert error_deg(*recover_pose(E, *points, K, DISTORTION, K, DISTORTION, mask)[1:3]) < 5


@pytest.mark.client("kornia")
def test_kornia(client):
    """Kornia's features and its module of two images, with the filter as its matcher."""
    from n3match.plugins.kornia import N3GeometryAwareMatcher

    kornia = client
    images = [
        kornia.io.load_image(path, kornia.io.ImageLoadType.GRAY32)[None] for path in PHOTOS
    ]
    sift = kornia.feature.SIFTFeatureScaleSpace(1000, descriptor_backend="pyramid")
    matcher = kornia.feature.LocalFeatureMatcher(sift, N3GeometryAwareMatcher())
    with torch.inference_mode():
        out = matcher({"image0": images[0], "image1": images[1]})
    points = [out[f"keypoints{i}"].double().numpy() for i in (0, 1)]
    assert len(points[0]) > 30
    E, mask = cv2.findEssentialMat(*points, K, cv2.USAC_MAGSAC, 0.999, 1.5)
    _, R, t, _ = cv2.recoverPose(E, *points, K, mask=mask)
    assert error_deg(R, t) < 10


@pytest.mark.client("vismatch")
def test_vismatch():
    """Its SIFT matcher, which downloads nothing, given paths and what it loads of them."""
    from vismatch.im_models.handcrafted import SiftNNMatcher

    from n3match.plugins.vismatch import FilteredMatcher

    inner = SiftNNMatcher(max_num_keypoints=4000, lowe_thresh=1.0)
    matcher = FilteredMatcher(inner, K0=K, K1=K)
    by_path = matcher(*PHOTOS)
    by_tensor = matcher(*(matcher.load_image(path) for path in PHOTOS))
    assert by_path["status"] == by_tensor["status"] == "ok"
    assert error_deg(by_path["R"], by_path["t"]) < 5
    np.testing.assert_array_equal(by_path["matched_kpts0"], by_tensor["matched_kpts0"])
    public = {name for name in dir(inner) if not name.startswith("_")}
    assert not {name for name in public if not hasattr(matcher, name)}
    assert set(by_path) == {*inner(*PHOTOS), "E", "R", "t", "status"}


@pytest.mark.client("pycolmap")
def test_pycolmap(client, tmp_path):
    """A database that pycolmap writes is filtered, and pycolmap reads the geometries."""
    pycolmap = client
    scene = make_scene(200, 400, seed=3)
    path = tmp_path / "database.db"
    joined = np.stack([np.arange(600)] * 2, axis=1).astype(np.uint32)
    with pycolmap.Database.open(path) as database:
        ids = []
        for i, (matrix, (width, height), points) in enumerate(
            ((K0, SIZE0, scene.points0), (K1, SIZE1, scene.points1))
        ):
            params = [matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5]
            camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)
            camera.has_prior_focal_length = True  # else it counts as a guess
            camera_id = database.write_camera(camera)
            ids.append(
                database.write_image(pycolmap.Image(name=f"{i}.jpg", camera_id=camera_id))
            )
            database.write_keypoints(ids[-1], (points + 0.5).astype(np.float32))
        database.write_matches(*ids, joined)
    counts = filter_database(path, None, Options())
    assert counts["calibrated"] == 1
    with pycolmap.Database.open(path) as database:
        kept = database.read_matches(*ids)
        geometry = database.read_two_view_geometry(*ids)
    assert scene.right[kept[:, 0]].mean() > 0.8
    assert {tuple(row) for row in geometry.inlier_matches} <= {tuple(row) for row in kept}

    class Pose:
        R = geometry.cam2_from_cam1.rotation.matrix()
        t = geometry.cam2_from_cam1.translation

    assert pose_error_deg(Pose, scene) < 2
