import subprocess
import sys

import cv2
import numpy as np
import pytest

from n3match.matching import FEATURES, extract_features, extract_sift, root_sift

MOVED = ("BRISK", "AKAZE")  # in OpenCV 5
pytestmark = pytest.mark.arithmetic


def blobs(height=160, width=220, seed=0):
    """A smooth random texture with many extrema of several sizes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width))
    for size in (3, 7, 15):
        coarse = rng.random((height // size + 2, width // size + 2))
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def test_fields_fit_each_other():
    features = extract_sift(blobs(), max_keypoints=100)
    assert len(features) == 100
    assert features.image_size == (220, 160)
    assert features.keypoints.shape == (100, 2) and features.keypoints.dtype == np.float32
    assert features.descriptors.shape == (100, 128) and features.descriptors.dtype == np.float32
    x, y = features.keypoints.T
    assert x.min() >= 0 and x.max() < 220 and y.min() >= 0 and y.max() < 160
    assert (features.sizes > 0).all()
    assert (features.angles >= 0).all() and (features.angles <= 360).all()
    assert (np.diff(features.responses) <= 0).all()


def test_the_strongest_keypoints_are_kept_and_never_more_than_asked_for():
    image = blobs()
    every = extract_sift(image, max_keypoints=10_000)
    assert len(every) > 200
    for count in (1, 7, 50, 151):
        features = extract_sift(image, max_keypoints=count)
        assert len(features) == count
        np.testing.assert_array_equal(features.responses, every.responses[:count])


def test_descriptors_are_opencvs_or_their_roots():
    image = blobs()
    plain, root = extract_sift(image, 60, root=False), extract_sift(image, 60)
    np.testing.assert_array_equal(plain.descriptors, np.round(plain.descriptors))
    assert plain.descriptors.max() > 1
    np.testing.assert_array_equal(root.descriptors, root_sift(plain.descriptors))
    detector = cv2.SIFT_create(nfeatures=60, contrastThreshold=0.01, enable_precise_upscale=True)
    keypoints, descriptors = detector.detectAndCompute(image, None)
    wanted = {(k.pt, k.angle): tuple(d) for k, d in zip(keypoints, descriptors)}
    for point, angle, descriptor in zip(plain.keypoints, plain.angles, plain.descriptors):
        assert wanted[(tuple(point.tolist()), float(angle))] == tuple(descriptor)


def test_a_blob_is_found_where_it_is():
    """Pixel centres are integers: a blob at (60, 40) is found there, not a quarter pixel off."""
    y, x = np.mgrid[:80, :120]
    blob = 200 * np.exp(-((x - 60) ** 2 + (y - 40) ** 2) / (2 * 4.0**2)) + 20
    features = extract_sift(blob.astype(np.uint8))
    np.testing.assert_allclose(features.keypoints[0], [60, 40], atol=0.1)


def test_the_contrast_threshold_decides_how_many():
    faint = (blobs() // 8 + 100).astype(np.uint8)
    counts = [len(extract_sift(faint, contrast_threshold=t)) for t in (0.001, 0.01, 0.04)]
    assert counts[0] > counts[1] > counts[2]


def test_more_layers_and_edges_give_other_keypoints():
    image = blobs()
    count = len(extract_sift(image, 10_000))
    assert len(extract_sift(image, 10_000, edge_threshold=3)) < count
    assert len(extract_sift(image, 10_000, octave_layers=5)) != count
    assert len(extract_sift(image, 10_000, sigma=2.5)) < count


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 3), (8, 8), (100, 120)])
def test_blank_and_tiny_images_have_no_keypoints(shape):
    features = extract_sift(np.full(shape, 128, np.uint8))
    assert len(features) == 0
    assert features.keypoints.shape == (0, 2) and features.descriptors.shape == (0, 128)
    assert features.sizes.shape == features.angles.shape == features.responses.shape == (0,)


def test_a_view_of_another_array_is_taken():
    image = blobs()
    wanted = extract_sift(np.ascontiguousarray(image[:, ::2]), 50)
    np.testing.assert_array_equal(extract_sift(image[:, ::2], 50).keypoints, wanted.keypoints)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, TypeError, "image: found NoneType, wanted a numpy array of uint8"),
        (np.zeros((9, 9), np.float32), TypeError, "image: found float32"),
        (np.zeros((9, 9, 3), np.uint8), ValueError, r"image: found shape \(9, 9, 3\)"),
        (np.zeros((0, 9), np.uint8), ValueError, r"image: found shape \(0, 9\)"),
    ],
)
def test_other_images_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        extract_sift(image)


def test_no_keypoints_asked_for():
    with pytest.raises(ValueError, match="max_keypoints must be at least 1, got 0"):
        extract_sift(blobs(), max_keypoints=0)


def test_root_sift():
    found = root_sift(np.array([[1, 3, 0, 12], [0, 0, 0, 0]], dtype=np.uint8))
    np.testing.assert_allclose(found, [[0.25, 3**0.5 / 4, 0, 12**0.5 / 4], [0] * 4], rtol=1e-6)
    assert found.dtype == np.float32
    assert root_sift(np.zeros((0, 128))).shape == (0, 128)


@pytest.mark.parametrize(
    ("descriptors", "message"),
    [
        (np.zeros(4), r"descriptors: found shape \(4,\), wanted \(N, D\)"),
        (np.array([[1.0, -1.0]]), "negative or non-finite"),
        (np.array([[1.0, np.nan]]), "negative or non-finite"),
    ],
)
def test_root_sift_of_other_things(descriptors, message):
    with pytest.raises(ValueError, match=message):
        root_sift(descriptors)


def test_nothing_is_found_in_a_single_row_of_pixels():
    """By another process: OpenCV's AKAZE overwrote memory, which ended it sooner or later."""
    script = """if True:
        import numpy as np
        from n3match.matching import FEATURES, extract_features
        rng = np.random.default_rng(0)
        for shape in [(15, 1), (1, 11), (6, 1), (1, 5), (1, 1)] * 100:
            for kind in FEATURES:
                found = extract_features(rng.integers(0, 256, shape).astype(np.uint8), kind)
                assert len(found) == len(found.descriptors) == 0
    """
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("kind", ["orb", "brisk", "akaze"])
def test_binary_features_are_the_detectors_strongest(kind):
    image = blobs(240, 320)
    features = extract_features(image, kind, 60)
    here = {name: getattr(cv2, name, None) or getattr(cv2.xfeatures2d, name) for name in MOVED}
    detector = {
        "orb": cv2.ORB.create(60, fastThreshold=0),
        "brisk": here["BRISK"].create(10),
        "akaze": here["AKAZE"].create(threshold=1e-4),
    }[kind]
    keypoints, descriptors = detector.detectAndCompute(image, None)
    assert features.binary and len(features) == min(60, len(keypoints)) > 20
    strongest = np.argsort([-k.response for k in keypoints], kind="stable")[:60]
    np.testing.assert_array_equal(features.descriptors, descriptors[strongest])
    places = np.float32([k.pt for k in keypoints])
    np.testing.assert_array_equal(features.keypoints, places[strongest])
    assert (features.angles >= 0).all() and (features.angles <= 360).all()


@pytest.mark.parametrize("kind", FEATURES)
def test_an_image_without_texture_has_no_features_of_any_kind(kind):
    features = extract_features(np.full((80, 90), 128, np.uint8), kind, 10)
    assert len(features) == 0 and features.keypoints.shape == (0, 2)
    assert features.binary == (kind != "sift")


def test_an_unknown_kind_of_features_is_refused():
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'surf'"):
        extract_features(blobs(), "surf")


def test_sift_with_thresholds_that_keep_all():
    noise = np.random.default_rng(0).integers(0, 256, (160, 160)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, None, 4)
    few = extract_sift(image, 10_000)
    assert len(extract_sift(image, 10_000, contrast_threshold=-10_000)) > len(few)
    assert len(extract_sift(image, 10_000, edge_threshold=10_000)) >= len(few)
    for name in ("contrast_threshold", "edge_threshold"):
        with pytest.raises(ValueError, match=f"{name} must lie within ±1e"):
            extract_sift(image, **{name: 1e9})
