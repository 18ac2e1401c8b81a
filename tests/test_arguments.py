"""What `n3match fuzz` found: arguments that Python makes something of, and those it can't."""

import functools
import io

import cv2
import h5py
import numpy as np
import pytest
import torch

import n3match
from n3match import arguments, denoising, geometry, matching, ops
from n3match.nn import MatchFilter, MatchFilterConfig, N3NetConfig
from n3match.plugins import colmap, hloc, opencv

RAGGED = [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize(
    "value", [3, np.int8(3), np.array(3), torch.tensor(3), np.uint64(3)], ids=repr
)
def test_whole_numbers_of_any_library(value):
    assert arguments.whole("n", value, 1, 5) == 3


@pytest.mark.parametrize(
    "value", [3.0, True, "3", None, [3], np.array([3]), 1j, np.nan, torch.zeros(2, 2)], ids=repr
)
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match="n must be a whole number, got"):
        arguments.whole("n", value)


def test_bounds_of_whole_numbers_whatever_their_size():
    for value in (6, 10**30, 10**5000):
        with pytest.raises(ValueError, match="n must be at most 5, got"):
            arguments.whole("n", value, 1, 5)


@pytest.mark.parametrize(
    "value", ["1", True, None, [], 1j, np.complex128(1j), np.zeros(2), Ellipsis], ids=repr
)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match="x must be a number, got"):
        arguments.positive("x", value)
    assert arguments.real("x", 10**400) == np.inf


LAYOUTS = {
    "list": lambda x: x.tolist(),
    "tensor": torch.from_numpy,
    "gradients": lambda x: torch.from_numpy(x).requires_grad_(),
    "Fortran": np.asfortranarray,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "strided": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "other bytes": lambda x: x.astype(">f8"),
    "masked": np.ma.masked_array,
    "matrix": np.matrix,
    "objects": lambda x: x.astype(object),
    "read only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_are_the_same_however_they_lie(layout):
    x = np.arange(12.0).reshape(6, 2)
    found = arguments.real_array("x", LAYOUTS[layout](x))
    assert type(found) is np.ndarray and (found == x).all()
    K = np.array([[500.0, 0, 3], [0, 500, 3], [0, 0, 1]])
    np.testing.assert_array_equal(
        geometry.undistort_points(LAYOUTS[layout](x), K), geometry.undistort_points(x, K)
    )
    if layout not in ("list", "tensor", "gradients", "objects"):
        E = geometry.essential_from_pose(np.eye(3), np.array([1.0, 0, 0]))
        np.testing.assert_array_equal(
            geometry.sampson_distance(LAYOUTS[layout](x), x, E),
            geometry.sampson_distance(x, x, E),
        )
        np.testing.assert_array_equal(
            geometry.rotation_error_deg(LAYOUTS[layout](np.eye(3)), np.eye(3)), 0.0
        )


@pytest.mark.parametrize(
    "value",
    [
        RAGGED, ["1", "2"], [None, None], 1j * np.ones((2, 2)), np.array(["a"]), object(),
        np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]"), torch.zeros(2, 2, device="meta"),
        torch.eye(2).to_sparse(), torch.ones(2, 2, dtype=torch.complex64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_array_of_numbers(value):
    with pytest.raises(TypeError, match="x must be a"):
        arguments.real_array("x", value)


@pytest.mark.parametrize("kind", ["longlong", "ulonglong", ">u8", "longdouble"])
def test_tensors_of_types_that_torch_has_other_names_for(kind):
    found = arguments.lent_tensor("x", np.array([1, 2], kind))
    assert found.tolist() == [1, 2]
    assert arguments.lent_tensor("x", np.asarray(2**63)).tolist() == 2**63


def test_numbers_that_networks_can_square():
    for fits in (torch.zeros(0, 2), np.zeros(0), torch.tensor([-1e9, 1e9]), np.array([3.0])):
        arguments.check_moderate("x", fits)
    for number, said in ((1e10, "within ±1e\\+09 wanted"), (float("nan"), "holds NaN or infinite"),
                         (float("-inf"), "holds NaN or infinite")):
        for bad in (torch.tensor([0.0, number]), np.array([number, 0.0])):
            with pytest.raises(ValueError, match=f"x holds .*{said}|x {said}"):
                arguments.check_moderate("x", bad)


def scene():
    rng = np.random.default_rng(0)
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    return {"points0": rng.random((9, 2)), "points1": rng.random((9, 2)), "K0": K, "K1": K}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points1", RAGGED), ("points0", torch.zeros(9, 2, device="meta")), ("K1", np.eye(2)),
        ("K0", 0.0), ("distortion1", [1.0]), ("distortion0", "none"), ("side_info", RAGGED),
        ("filter", ""), ("filter", "\0"), ("filter", 1), ("threshold", "1"), ("threshold", 0),
        ("seed", 1.5), ("seed", 2**31), ("estimator", None), ("estimator", []),
        ("estimator", object),
    ],
)
def test_pose_names_the_argument_that_is_wrong(name, value):
    with pytest.raises((ValueError, TypeError, OSError), match=rf"\b{name}\b"):
        n3match.estimate_relative_pose(**scene() | {name: value})


@pytest.mark.parametrize("log_temperature", [-800.0, -1e4, -1e300, -np.inf, 800.0, 1e300, np.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["tiled", "reference"])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_operator_is_finite_at_any_temperature(log_temperature, dtype, backend, scale):
    """exp(−log t) was infinite, or a distance times it, and 0 · ∞ is NaN."""
    torch.manual_seed(0)
    x, value = (scale * torch.randn(1, 9, 3)).to(dtype), torch.randn(1, 9, 2).to(dtype)
    given = [log_temperature]
    given.append(torch.full((1, 9, 1), log_temperature, dtype=torch.float64).to(dtype))
    for log_t in given:
        for exclude in (False, True):
            found = ops.n3_aggregate(
                x, x.clone(), value, 3, log_t, exclude_self=exclude, backend=backend
            )
            assert found.isfinite().all()
            if log_temperature < 0:  # the nearest is certain
                nearest = torch.cdist(x.double(), x.double())
                if exclude:
                    nearest.diagonal(dim1=1, dim2=2).fill_(torch.inf)
                wanted = value[0, nearest[0].argmin(1)]
                torch.testing.assert_close(found[0, :, 0], wanted)


def test_operator_names_what_it_does_not_take():
    x = torch.zeros(1, 4, 2)
    for change, name in (
        ({"query": x.to_sparse()}, "query"), ({"key": x.to("meta")}, "key"), ({"k": 10**6}, "k"),
        ({"exclude_self": np.zeros(3)}, "exclude_self"), ({"log_temperature": "0"}, "log_temp"),
        ({"selection": []}, "selection"), ({"backend": 1}, "backend"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^{name}"):
            ops.n3_aggregate(**{"query": x, "key": x, "value": x, "k": 1} | change)
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(TypeError, match=r"value must be a torch\.Tensor, got None"):
        ops.n3_window_aggregate(image, image, None, 1, patch_size=2, stride=1, window=3)


def test_networks_name_what_they_do_not_take():
    net = MatchFilter(MatchFilterConfig(width=8, blocks=2, n3_after=(1,), side_info=("ratio",)))
    points = torch.zeros(1, 4, 2)
    for change, name in (
        ({"points0": points.double(), "points1": points.double()}, "points0"),
        ({"side_info": True}, "side_info"), ({"side_info": torch.zeros(1, 4, 1).long()}, "side_i"),
        ({"mask": torch.ones(1, 4, dtype=torch.bool).to_sparse()}, "mask"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            net(**{"points0": points, "points1": points} | change)
    with pytest.raises(TypeError, match="points0 must be a"):
        net.logits_of_many([np.zeros((3, 2))], [points[0]])
    with pytest.raises(TypeError, match=r"x must be torch\.float32 as the network's weights"):
        denoising.Denoiser(N3NetConfig(local_networks=1, depth=2, features=2)).restore(
            torch.zeros(1, 1, 8, 8, dtype=torch.float64)
        )


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (MatchFilterConfig, {"width": 10**9}), (MatchFilterConfig, {"blocks": 10**9}),
        (MatchFilterConfig, {"n3_after": 1}), (MatchFilterConfig, {"side_info": "ratio"}),
        (MatchFilterConfig, {"pruning": {"widths": "a"}}),
        (MatchFilterConfig, {"pruning": {"x": 1}}),
        (MatchFilterConfig, {"refine": "yes"}), (N3NetConfig, {"depth": 10**9}),
        (N3NetConfig, {"maps": [[1]]}), (N3NetConfig, {"sigma": 1j}), (N3NetConfig, {"stride": []}),
    ],
)  # fmt: skip
def test_configurations_check_what_a_file_may_say(config, options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options)) + "|widths"):
        config(**options)


def test_small_functions_take_what_they_say():
    with pytest.raises(TypeError, match="id1 must be a whole number, got str"):
        colmap.pair_number("1", 2)  # which was a text of gigabytes
    with pytest.raises(ValueError, match="id2 must be at most"):
        colmap.pair_number(1, 2**31)
    with pytest.raises(TypeError, match="camera must be a ColmapCamera"):
        colmap.colmap_parameters(None)
    with pytest.raises(ValueError, match=r"size must have shape \(\.\.\., 2\)"):
        geometry.guess_focal(3)
    with pytest.raises(ValueError, match="distortion must be 4 finite numbers for the lens"):
        geometry.calibrated_points(np.zeros((1, 2)), scene()["K0"], [1.0], "equidistant")
    with pytest.raises(ValueError, match=r"R .* and t .*: leading dimensions don't broadcast"):
        geometry.essential_from_pose(np.zeros((2, 3, 3)), np.zeros((3, 3)))
    assert geometry.essential_from_pose(np.eye(3)[None], np.ones(3)).shape == (1, 3, 3)
    with pytest.raises(ValueError, match="image holds NaN or infinite"):
        denoising.estimate_sigma(np.full((9, 9), np.nan))
    assert 1e299 < denoising.estimate_sigma(1e300 * np.random.default_rng(0).random((9, 9))) < 1e301
    with pytest.raises(ValueError, match="index1 must lie in 0 … 3, got 0 to 4"):
        matching.side_info_of_matches(
            ("ratio",), [0, 1], [0, 4], np.zeros((4, 2)), np.zeros((4, 8)), np.zeros((4, 2)),
            np.zeros((4, 8)), None,
        )
    for many in (2**70, 8):  # the first beyond what can be computed with, the second below 9
        with pytest.raises(ValueError, match="num_putative must be at"):
            geometry.estimate_relative_pose_from_matches(**scene(), num_putative=many)
    with pytest.raises(ValueError, match="sigma must lie in 0"):
        matching.extract_sift(np.zeros((9, 9), np.uint8), sigma=1e9)


def test_array_beside_a_tensor_with_a_gradient():
    t = np.array([1.0, 2, 3])
    found = geometry.essential_from_pose(torch.eye(3, dtype=torch.float64, requires_grad=True), t)
    np.testing.assert_array_equal(found, geometry.essential_from_pose(np.eye(3), t))


def test_truth_values_that_are_none():
    several, image = np.zeros(3), np.zeros((9, 9), np.uint8)
    points = np.random.default_rng(0).random((9, 2))
    with pytest.raises(TypeError, match="root must be True or False"):
        matching.extract_sift(image, root=torch.zeros(0))
    with pytest.raises(TypeError, match="verify must be True or False"):
        geometry.estimate_relative_pose_from_matches(**scene(), verify=several)
    with pytest.raises(TypeError, match="stored_pixels must be True or False"):
        n3match.match_images(image, image, stored_pixels=several)
    with h5py.File(io.BytesIO(), "w") as file:
        file["a.jpg/keypoints"] = points
        with pytest.raises(TypeError, match="descriptors must be True or False"):
            hloc.read_features(file, "a.jpg", descriptors=several)


def test_functions_that_are_none():
    net = denoising.Denoiser(N3NetConfig(
        features=4, depth=2, embedding_features=4, embedding_channels=2, local_networks=1
    )).eval()
    image = np.zeros((9, 9), np.uint8)
    for bad in (1, np.zeros(2), object):
        with pytest.raises(TypeError, match="progress must be a function"):
            denoising.denoise(image, weights=net, progress=bad)
        with pytest.raises(TypeError, match="progress must be a function"):
            net.restore(torch.zeros(1, 1, 9, 9), progress=bad)


def test_estimators_of_ones_own_need_no_name():
    own = functools.partial(lambda asked, problem: asked, None)  # finds nothing
    found = geometry.estimate_relative_pose_from_matches(**scene(), estimator=own)
    assert not found.ok and found.estimator == "partial"


def test_opencv_plug_names_its_own_arguments():
    given = scene()
    points = given["points0"], given["points1"]
    with pytest.raises(TypeError, match="distCoeffs2 must be an array"):
        opencv.find_essential_mat(*points, given["K0"], None, given["K1"], "none")
    with pytest.raises(ValueError, match="method must be one of"):
        opencv.find_essential_mat(*points, given["K0"], method="")
    with pytest.raises(ValueError, match="prob must be between 0 and 1"):
        opencv.find_essential_mat(*points, given["K0"], prob=1.0)
    with pytest.raises(ValueError, match="mask must be an array to write to, got a read-only"):
        mask = np.zeros((9, 1), np.uint8)
        mask.flags.writeable = False
        opencv.find_essential_mat(*points, given["K0"], mask=mask)
    with pytest.raises(TypeError, match=r"keypoints2 must hold cv2\.KeyPoint, got 1"):
        opencv.filter_matches((9, 9), (9, 9), [], [1], [])
    with pytest.raises(TypeError, match=r"matches1to2 must (be a DMatch|hold)"):
        opencv.filter_matches((9, 9), (9, 9), [cv2.KeyPoint(1, 1, 1)], [], [[1]])
    # Numbers that end in eight zero bits are not 0.
    E = geometry.essential_from_pose(np.eye(3), np.array([1.0, 0, 0]))
    votes = np.full((9, 1), 256)
    assert opencv.recover_pose(E, *points, given["K0"], mask=votes)[3].max() == 1
