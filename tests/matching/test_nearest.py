import cv2
import numpy as np
import pytest
import torch
from compiled_levels import held_to
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from n3match import native
from n3match.matching import nearest_neighbors, root_sift

pytestmark = pytest.mark.arithmetic


@pytest.fixture(scope="module", params=[*native.LEVELS, "tensors"], autouse=True)
def path(request):
    """Every way to search: the compiled loops at each level, and tensor operations alone."""
    if request.param == "tensors":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "serves", lambda *_: False)
            yield request.param
    else:
        with held_to(request.param):
            yield request.param


def brute_force(a, b):
    """Indices, distances and mutual flags by definition, in float64; lowest index among equals."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    order = np.argsort(distance, axis=1, kind="stable")
    index = order[:, 0]
    mutual = distance.argmin(axis=0)[index] == np.arange(len(a))
    rows = np.arange(len(a))
    second = distance[rows, order[:, 1]] if len(b) > 1 else np.full(len(a), np.inf)
    return index, distance[rows, index], second, mutual


def back_ratio(a, b):
    """Distance to the nearest / that of its nearest other one, in float64; 1 without another."""
    distance = np.sqrt(((a.astype(np.float64)[:, None] - b[None]) ** 2).sum(-1))
    rows, index = np.arange(len(a)), distance.argmin(axis=1)
    nearest = distance[rows, index]
    others = distance[:, index]
    others[rows, rows] = np.inf
    other = others.min(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((other > 0) & np.isfinite(other), nearest / other, 1)
    return np.minimum(ratio, 2)


def assert_as_defined(a, b, **options):
    index, distance, second, mutual = brute_force(a, b)
    found = nearest_neighbors(a, b, **options)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.mutual, mutual)
    np.testing.assert_allclose(found.distance, distance, rtol=3e-7)
    np.testing.assert_allclose(found.second_distance, second, rtol=3e-7)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((second > 0) & np.isfinite(second), distance / second, 1)
    np.testing.assert_allclose(found.ratio, ratio, rtol=1e-6)
    assert (found.back_ratio[found.mutual] <= 1).all()
    assert (found.back_ratio[~found.mutual] >= 1).all()


def sift_like(rng, count, dim=128):
    """Integers 0..255, most of them small, as SIFT's are."""
    return np.minimum(rng.exponential(35, (count, dim)), 255).astype(np.uint8).astype(np.float32)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 1), (63, 111), (300, 17), (16, 32)])
def test_as_defined_on_odd_sizes(n, m, root):
    rng = np.random.default_rng(n + m)
    a, b = sift_like(rng, n), sift_like(rng, m)
    if root:
        a, b = root_sift(a), root_sift(b)
    assert_as_defined(a, b)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3), (2, 1), (300, 217), (2100, 400)])
def test_ratios_the_other_way_round(n, m, root):
    rng = np.random.default_rng(n)
    a, b = sift_like(rng, n), sift_like(rng, m)
    shared = min(n, m) // 2
    b[:shared] = np.maximum(a[:shared] + rng.integers(-9, 10, (shared, 128)), 0)
    if root:
        a, b = root_sift(a), root_sift(b)
    found = nearest_neighbors(a, b)
    np.testing.assert_allclose(found.back_ratio, back_ratio(a, b), rtol=2e-3)
    assert found.back_ratio.dtype == torch.float32
    assert n < 3 or 0 < found.mutual.sum() < n
    second = np.full(n, -1) if m < 2 else np.argsort(
        ((a[:, None].astype(float) - b[None]) ** 2).sum(-1), axis=1, kind="stable"
    )[:, 1]
    np.testing.assert_array_equal(found.second_index, second)


@pytest.mark.parametrize("root", [False, True])
def test_as_opencv(root):
    rng = np.random.default_rng(1)
    a, b = sift_like(rng, 515), sift_like(rng, 777)
    a[7], a[99], b[500] = b[3], b[3], b[3]
    if root:
        a, b = root_sift(a), root_sift(b)
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a, b, k=2)
    found = nearest_neighbors(a, b)
    np.testing.assert_array_equal(found.index, [first.trainIdx for first, _ in pairs])
    for values, wanted in (
        (found.distance, [first.distance for first, _ in pairs]),
        (found.second_distance, [second.distance for _, second in pairs]),
    ):
        if root:
            np.testing.assert_allclose(values, wanted, rtol=1e-6)
        else:
            np.testing.assert_array_equal(values, np.float32(wanted))
    both = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a, b)
    if not root:  # OpenCV's float sums decide ties by chance
        np.testing.assert_array_equal(torch.nonzero(found.mutual)[:, 0], [m.queryIdx for m in both])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 70),
    m=st.integers(1, 70),
    levels=st.sampled_from([1, 2, 3, 256]),
    root=st.booleans(),
    block_size=st.sampled_from([None, 1, 16, 40]),
)
def test_ties_and_copies_go_to_the_lowest_index(seed, n, m, levels, root, block_size):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, levels, (count, 6)).astype(np.float32) for count in (n, m))
    a[rng.integers(0, n, n // 3)] = a[0]
    b[rng.integers(0, m, m // 3)] = b[0]
    if root:
        a, b = root_sift(a), root_sift(b)
    assert_as_defined(a, b, block_size=block_size)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 1.0, 30.0, 100.0, 1e5]),
    noise=st.sampled_from([1e-6, 1e-3, 1.0]),
    block_size=st.sampled_from([None, 16]),
)
def test_differences_below_the_rounding_of_the_product_are_resolved(
    seed, offset, noise, block_size
):
    """Descriptors with a large common part: the product alone gets their order wrong."""
    rng = np.random.default_rng(seed)
    centre = offset + rng.random(20)
    a, b = ((centre + noise * rng.normal(size=(90, 20))).astype(np.float32) for _ in range(2))
    assert_as_defined(a, b, block_size=block_size)


def test_integers_too_large_for_exact_float32_products():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 9, (40, 30)).astype(np.float32) + 5000 for _ in range(2))
    assert_as_defined(a, b)


@pytest.mark.parametrize("scale", [1e-36, 1e-22, 1e18, 1e25])
def test_squares_beyond_the_range_of_float32(scale):
    rng = np.random.default_rng(6)
    a, b = ((rng.random((40, 8)) * scale).astype(np.float32) for _ in range(2))
    assert_as_defined(a, b)


def test_numbers_below_the_normal_range_of_float32():
    rng = np.random.default_rng(7)
    a, b = (np.ldexp(rng.integers(0, 9, (50, 5)), -149).astype(np.float32) for _ in range(2))
    assert a.any()
    # Their distances are no float32 numbers of seven digits: compared as what they are decided by.
    index, _, _, mutual = brute_force(a, b)
    found = nearest_neighbors(a, b)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.mutual, mutual)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 31, 130])
@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 2), (3, 1), (7, 70), (103, 65)])
def test_odd_depths_and_few_rows(n, m, depth, root):
    rng = np.random.default_rng(depth)
    a, b = sift_like(rng, n, depth), sift_like(rng, m, depth)
    if root:  # both signs
        a, b = a - 20.7, b - 20.7
    assert_as_defined(a.astype(np.float32), b.astype(np.float32))


@pytest.mark.parametrize("largest", [255, 256])
def test_full_bytes_and_what_is_just_none(largest):
    """The largest and smallest products of bytes, next to numbers that don't fit one."""
    a = np.zeros((9, 128), np.float32)
    a[1:4], a[4, :64], a[5, ::2], a[6, 0] = 255, 255, 255, largest
    assert_as_defined(a, a[::-1].copy())
    assert_as_defined(a, np.concatenate([a - 1, a]) if largest > 255 else np.tile(a, (30, 1)))


@pytest.mark.parametrize("root", [False, True])
def test_threads_share_the_rows(root):
    """Copies of one descriptor are seen by several threads: the first is still the nearest."""
    rng = np.random.default_rng(8)
    a, b = sift_like(rng, 700, 12), sift_like(rng, 300, 12)
    a[[5, 100, 300, 500, 699]] = b[7]
    b[250] = b[7]
    a[[40, 640]] = b[9] + 1
    if root:
        a, b = root_sift(a), root_sift(b)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for _ in range(5):
            assert_as_defined(a, b)
    finally:
        torch.set_num_threads(before)


def test_more_in_question_than_are_kept():
    """Rows with 3, 20 and 60 candidates that differ by less than rounding to 16 bits."""
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(400, 16)), rng.normal(size=(500, 16))
    for row, count in ((3, 3), (8, 20), (11, 60)):
        b[rng.choice(500, count, replace=False)] = a[row] + 1e-6 * rng.normal(size=(count, 16))
        a[rng.choice(np.arange(20, 400), count, replace=False)] = b[row] + 1e-6 * rng.normal(
            size=(count, 16)
        )
    assert_as_defined(a.astype(np.float32), b.astype(np.float32))


@pytest.mark.parametrize("whole", [False, True])
def test_negative_numbers_and_several_tiles_of_columns(whole):
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 900, (70, 31)).astype(np.float32), rng.normal(0, 900, (2300, 31))
    b[2200], b[2201], b[3] = a[1], a[1], a[2]
    b = b.astype(np.float32)
    assert_as_defined(*(x.round() if whole else x for x in (a, b)))


def test_longest_vectors_that_fit():
    """Opposite vectors are as far apart as distances of integers may be."""
    a = np.zeros((3, 4), np.float32)
    a[0, 0], a[1, 0], a[2, 1] = 23170, -23170, 23169
    assert_as_defined(a, -a)
    a[1, 0] -= 1
    assert_as_defined(a, -a)
    assert_as_defined(2 * a, -2 * a)


def test_all_descriptors_equal():
    found = nearest_neighbors(np.full((40, 8), 0.1, np.float32), np.full((50, 8), 0.1, np.float32))
    assert (found.index == 0).all() and (found.ratio == 1).all() and (found.distance == 0).all()
    assert torch.nonzero(found.mutual).tolist() == [[0]]


def test_no_descriptors_in_image_0():
    found = nearest_neighbors(np.zeros((0, 128), np.float32), np.ones((5, 128), np.float32))
    for name, dtype in (("index", torch.int64), ("ratio", torch.float32), ("mutual", torch.bool)):
        assert getattr(found, name).shape == (0,) and getattr(found, name).dtype == dtype


def test_no_descriptors_in_image_1():
    found = nearest_neighbors(np.ones((5, 128), np.float32), np.zeros((0, 128), np.float32))
    assert (found.index == -1).all() and found.distance.isinf().all()
    assert found.second_distance.isinf().all()
    assert (found.ratio == 1).all() and not found.mutual.any()


def test_no_descriptors_at_all():
    found = nearest_neighbors(np.zeros((0, 128), np.float32), np.zeros((0, 128), np.float32))
    assert len(found.index) == len(found.mutual) == 0


def test_one_descriptor_in_image_1():
    found = nearest_neighbors(np.array([[3.0, 4], [0, 1]]), np.zeros((1, 2)))
    assert found.index.tolist() == [0, 0]
    assert found.distance.tolist() == [5, 1]
    assert found.second_distance.isinf().all() and (found.ratio == 1).all()
    assert found.mutual.tolist() == [False, True]


def test_arrays_tensors_and_integers_are_taken_and_left_alone():
    rng = np.random.default_rng(2)
    a, b = sift_like(rng, 30), sift_like(rng, 40)
    wanted = nearest_neighbors(a, b)
    copies = a.copy(), b.copy()
    for convert in (torch.from_numpy, np.float64, lambda x: torch.from_numpy(x).byte()):
        found = nearest_neighbors(convert(a), convert(b))
        assert torch.equal(found.index, wanted.index)
        assert torch.equal(found.second_distance, wanted.second_distance)
    a.setflags(write=False)
    nearest_neighbors(np.ascontiguousarray(a[::-1]), b[::2])
    np.testing.assert_array_equal(a, copies[0])
    np.testing.assert_array_equal(b, copies[1])


def test_lower_product_precision_chosen_elsewhere_does_no_harm():
    rng = np.random.default_rng(3)
    a, b = root_sift(sift_like(rng, 90)), root_sift(sift_like(rng, 80))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_as_defined(a, b)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("size", [32, 61])
def test_binary_descriptors_as_by_opencvs_hamming_norm(size):
    rng = np.random.default_rng(6)
    b = rng.integers(0, 256, (150, size), dtype=np.uint8)
    flips = np.packbits(rng.random((130, size * 8)) < rng.uniform(0, 0.5, (130, 1)), axis=1)
    a = b[rng.permutation(150)[:130]] ^ flips
    rows = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(a, b, 2)
    found = nearest_neighbors(a, b, binary=True)
    wanted = np.array([[m.distance for m in row] for row in rows], np.float32)
    np.testing.assert_array_equal(found.distance, wanted[:, 0])
    np.testing.assert_array_equal(found.second_distance, wanted[:, 1])
    expected = wanted[:, 0] / np.maximum(wanted[:, 1], 1)
    np.testing.assert_allclose(found.ratio, np.where(wanted[:, 1] > 0, expected, 1), rtol=1e-6)
    assert 0.2 < found.mutual.float().mean() < 1
    hamming = np.unpackbits(a[:, None] ^ b[None], axis=-1).sum(-1).astype(float)
    np.testing.assert_array_equal(found.index, hamming.argmin(1))
    column = hamming[:, found.index.numpy()]
    own = found.distance.numpy()
    column[np.arange(130), np.arange(130)] = np.inf
    other = column.min(0)
    mutual = found.mutual.numpy()
    mutual &= other > 0
    np.testing.assert_allclose(found.back_ratio[mutual], own[mutual] / other[mutual], rtol=1e-3)


def test_binary_descriptors_are_bytes():
    with pytest.raises(TypeError, match="desc1: found float32, wanted uint8"):
        nearest_neighbors(np.zeros((3, 32), np.uint8), np.zeros((3, 32), np.float32), binary=True)
    none = nearest_neighbors(None, np.zeros((3, 32), np.uint8), binary=True)
    assert len(none.index) == 0


def test_inputs_that_need_gradients_give_results_that_do_not():
    a = torch.rand(9, 4, requires_grad=True)
    assert not nearest_neighbors(a, a.detach()).distance.requires_grad


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest result of any operation."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_the_matrix_of_distances_is_never_held():
    rng = np.random.default_rng(4)
    a, b = torch.from_numpy(sift_like(rng, 600, 8)), torch.from_numpy(sift_like(rng, 500, 8))
    with LargestTensor() as seen:
        nearest_neighbors(a, b, block_size=32)
    assert 500 < seen.largest < 600 * 500 / 5


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros(5), np.zeros((4, 5)), {}, r"desc0: found shape \(5,\), wanted \(N, D\)"),
        (np.zeros((4, 5)), np.zeros((1, 4, 5)), {}, "desc1: found shape"),
        (np.zeros((4, 5)), np.zeros((4, 6)), {}, "desc1: found 6 channels, wanted 5"),
        (np.full((4, 5), np.nan), np.zeros((4, 5)), {}, "desc0: found NaN or inf"),
        (np.zeros((4, 5)), np.r_[np.ones((1999, 5)), [[0, 0, 0, 0, np.nan]]], {},
         "desc1: found NaN or inf"),
        (np.r_[[[0, 0, 0, np.inf, 0]], np.ones((1999, 5))], np.zeros((4, 5)), {},
         "desc0: found NaN or inf"),
        (np.zeros((4, 5)), np.full((4, 5), -np.inf), {}, "desc1: found NaN or inf"),
        (np.zeros((4, 5)), np.zeros((4, 5)), {"block_size": 0}, "block_size must be at least 1"),
    ],
)
def test_bad_input_is_refused_by_name(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(a, b, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("root", [False, True])
def test_as_defined_on_a_gpu(root):
    rng = np.random.default_rng(5)
    a, b = sift_like(rng, 301), sift_like(rng, 211)
    if root:
        a, b = root_sift(a), root_sift(b)
    wanted, found = nearest_neighbors(a, b), nearest_neighbors(a, b, device="cuda")
    assert found.index.device.type == "cuda"
    assert torch.equal(found.index.cpu(), wanted.index)
    assert torch.equal(found.mutual.cpu(), wanted.mutual)
    torch.testing.assert_close(found.ratio.cpu(), wanted.ratio)
