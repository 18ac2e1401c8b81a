import cv2
import numpy as np
import pytest
from toy_scene import write_model

from n3match.geometry import calibrated_points
from n3match.plugins.colmap.model import read_colmap_model
from n3match.plugins.colmap.model_files import CAMERA_MODELS

K = np.array([[300.0, 0, 320], [0, 310, 240], [0, 0, 1]])
MODELS = {
    "SIMPLE_PINHOLE": (300, 320, 240),
    "PINHOLE": (300, 310, 320, 240),
    "SIMPLE_RADIAL": (300, 320, 240, -0.05),
    "RADIAL": (300, 320, 240, -0.05, 0.01),
    "OPENCV": (300, 310, 320, 240, -0.05, 0.01, 0.001, -0.002),
    "FULL_OPENCV": (300, 310, 320, 240, -0.05, 0.01, 0.001, -0.002, 0.002, 0.01, 0.001, 0.0005),
    "OPENCV_FISHEYE": (300, 310, 320, 240, 0.02, -0.01, 0.003, -0.001),
    "SIMPLE_RADIAL_FISHEYE": (300, 320, 240, -0.02),
    "RADIAL_FISHEYE": (300, 320, 240, -0.02, 0.004),
    "FISHEYE": (300, 310, 320, 240),
    "SIMPLE_FISHEYE": (300, 320, 240),
    "FOV": (300, 310, 320, 240, 0.9),
    "DIVISION": (300, 310, 320, 240, -0.05),
    "SIMPLE_DIVISION": (300, 320, 240, -0.05),
    "THIN_PRISM_FISHEYE": (
        300, 310, 320, 240, 0.02, -0.01, 0.001, -0.002, 0.003, -0.001, 0.001, -0.0005
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        300, 310, 320, 240,
        0.02, -0.01, 0.003, -0.001, 0.0005, -0.0002, 0.001, -0.002, 0.001, -0.0005, 0.0007, 0.0003,
    ),
    "EUCM": (300, 310, 320, 240, 0.6, 1.1),
}


@pytest.mark.parametrize("model", MODELS)
def test_colmaps_own_answer_for_every_camera_model(tmp_path, model):
    pycolmap = pytest.importorskip("pycolmap")
    if model not in pycolmap.CameraModelId.__members__:
        pytest.skip(f"this pycolmap has no camera model {model}")
    write_model(tmp_path, [(1, model, 640, 480, MODELS[model])], [], "txt")
    camera = read_colmap_model(tmp_path).cameras[1]
    reference = pycolmap.Camera(model=model, width=640, height=480, params=MODELS[model])
    pixels = np.random.default_rng(0).uniform([120, 60], [520, 420], (50, 2))
    wanted = np.array(reference.cam_from_img(pixels + 0.5))
    found = calibrated_points(pixels, camera.K, camera.distortion, camera.lens)
    np.testing.assert_allclose(found, wanted[:, :2], atol=1e-7)


def test_every_camera_model_of_the_installed_colmap_is_known():
    pycolmap = pytest.importorskip("pycolmap")
    theirs = {
        name: (int(member), len(pycolmap.Camera.create_from_model_id(0, member, 1, 9, 9).params))
        for name, member in pycolmap.CameraModelId.__members__.items()
        if name != "INVALID"
    }
    assert theirs.items() <= CAMERA_MODELS.items()
    assert MODELS.keys() | {"EQUIRECTANGULAR"} == CAMERA_MODELS.keys()


@pytest.mark.parametrize("model", ["THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "EUCM"])
def test_wide_rays_come_back_from_colmaps_own_projection(tmp_path, model):
    pycolmap = pytest.importorskip("pycolmap")
    write_model(tmp_path, [(1, model, 640, 480, MODELS[model])], [], "txt")
    camera = read_colmap_model(tmp_path).cameras[1]
    reference = pycolmap.Camera(model=model, width=640, height=480, params=MODELS[model])
    angle, turn = np.random.default_rng(2).uniform([0, 0], [1.35, 6.28], (200, 2)).T
    x = np.tan(angle)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    pixels = np.array(reference.img_from_cam(np.column_stack([x, np.ones(len(x))]))) - 0.5
    found = calibrated_points(pixels, camera.K, camera.distortion, camera.lens)
    np.testing.assert_allclose(found, x, rtol=1e-6, atol=1e-8)


def test_a_pixel_that_no_ray_of_the_fisheye_reaches_has_no_coordinates():
    # This polynomial has its top at θ = 1/√3, r = 0.385.
    k = np.array([-1.0, 0, 0, 0, 0, 0, 0, 0])
    pixels = K[:2, 2] + 300 * np.array([[0.0, 0], [0.38, 0], [0.39, 0]])
    found = calibrated_points(pixels, K, k, "thin_prism")
    np.testing.assert_array_equal(np.isnan(found[:, 0]), [False, False, True])
    assert calibrated_points(np.zeros((0, 2)), K, k, "thin_prism").shape == (0, 2)


def test_fisheye_points_come_back_after_opencvs_projection():
    k = np.array([0.02, -0.01, 0.003, -0.001])
    x = np.random.default_rng(1).uniform(-2, 2, (40, 2))
    pixels = cv2.fisheye.distortPoints(x[None], K, k)[0]
    np.testing.assert_allclose(calibrated_points(pixels, K, k, "equidistant"), x, atol=1e-8)


def test_rays_beside_the_lens_have_no_coordinates():
    # 80° are 1.396.
    pixels = K[:2, 2] + 300 * np.array([[0, 0], [1.39, 0], [1.41, 0]])
    found = calibrated_points(pixels, K, np.zeros(4), "equidistant")
    np.testing.assert_array_equal(np.isnan(found[:, 0]), [False, False, True])
    np.testing.assert_array_equal(found[0], [0, 0])
    # This polynomial has its top at θ = 1/√3, r = 0.385: nothing beyond.
    pixels = K[:2, 2] + 300 * np.array([[0.38, 0], [0.39, 0]])
    found = calibrated_points(pixels, K, np.array([-1.0, 0, 0, 0]), "equidistant")
    np.testing.assert_array_equal(np.isnan(found[:, 0]), [False, True])
    found = calibrated_points(pixels, K, np.array([-7.0]), "division")
    assert np.isnan(found[1]).all()


def test_an_unknown_lens_is_refused():
    with pytest.raises(ValueError, match=r"lens must be one of .* got 'mirror'"):
        calibrated_points(np.zeros((1, 2)), K, np.zeros(4), "mirror")
