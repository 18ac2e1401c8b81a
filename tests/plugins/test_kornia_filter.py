"""The dictionary filter and the matchers: real runs of kornia's features, batches, wrong use."""

from dataclasses import replace

import cv2
import kornia.feature as KF
import numpy as np
import pytest
import torch
from bundled_pair import K as FULL_K
from bundled_pair import R, T, photograph
from putative_scenes import K0, K1, SIZE0, SIZE1, make_scene

import n3match
from n3match.geometry import essential_from_pose, normalize_points, sampson_distance
from n3match.matching import keypoint_change
from n3match.plugins.kornia import (
    LocalFeatureMatchFilter,
    N3GeometryAwareMatcher,
    N3LocalFeatureMatcher,
)
from n3match.plugins.kornia.lafs import keypoint_change as keypoint_change_of_lafs
from n3match.plugins.kornia.ragged import Ragged

KEYS = ["batch_indexes", "confidence", "keypoints0", "keypoints1", "lafs0", "lafs1"]
SCALE = 0.25
# Of a camera reduced in size; pixel centres are integers.
K = torch.tensor(
    [
        [FULL_K[0, 0] * SCALE, 0, (FULL_K[0, 2] + 0.5) * SCALE - 0.5],
        [0, FULL_K[1, 1] * SCALE, (FULL_K[1, 2] + 0.5) * SCALE - 0.5],
        [0, 0, 1],
    ]
)


@pytest.fixture(scope="module")
def data():
    """The bundled pair at a quarter of its size, as kornia takes it."""
    small = (
        cv2.resize(photograph(i), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
        for i in range(2)
    )
    images = [torch.from_numpy(image)[None, None].float() / 255 for image in small]
    return {"image0": images[0], "image1": images[1]}


@pytest.fixture(scope="module")
def sift():
    return KF.SIFTFeatureScaleSpace(500, descriptor_backend="pyramid")


def _share_right(matches, pixels=2.0):
    E = essential_from_pose(torch.tensor(R), torch.tensor(T))
    x0, x1 = (normalize_points(matches[f"keypoints{i}"].double(), K) for i in range(2))
    return float((sampson_distance(x0, x1, E).sqrt() * K[0, 0] < pixels).double().mean())


@pytest.fixture(scope="module")
def raw(data, sift):
    with torch.inference_mode():
        return KF.LocalFeatureMatcher(sift, KF.DescriptorMatcher("nn"))(data)


def test_filter_behind_kornias_own_matcher(data, raw):
    with torch.inference_mode():
        out = LocalFeatureMatchFilter()(raw, data | {"K0": K, "K1": K})
        guessed = LocalFeatureMatchFilter()(raw, data)
    assert sorted(out) == sorted(raw) == KEYS
    assert {name: (t.dtype, t.ndim) for name, t in out.items()} == {
        name: (t.dtype, t.ndim) for name, t in raw.items()
    }
    count = len(out["confidence"])
    assert 15 < count < 0.3 * len(raw["confidence"])
    assert out["lafs0"].shape == (1, count, 2, 3)
    assert torch.equal(KF.get_laf_center(out["lafs1"])[0], out["keypoints1"])
    assert ((out["confidence"] > 0.5) & (out["confidence"] <= 1)).all()
    assert _share_right(raw) < 0.4 and _share_right(out) > 0.6
    assert _share_right(guessed) > 0.6


def test_in_place_of_local_feature_matcher(data, sift):
    matcher = N3LocalFeatureMatcher(sift)
    with torch.inference_mode():
        out = matcher(data | {"K0": K, "K1": K})
    known = {"index0", "index1", "ratio", "mutual", "back_ratio", "distance", "apart"}
    assert set(out) == {*KEYS, *known}
    assert out["mutual"].all()
    assert len(out["confidence"]) > 15 and _share_right(out) > 0.7


@pytest.mark.parametrize("second_nearest", [False, True])
def test_second_nearest_neighbours_are_looked_at_where_the_filter_does(data, sift, second_nearest):
    shipped = n3match.MatchFilter.from_pretrained("sift")
    net = n3match.MatchFilter(replace(shipped.config, second_nearest=second_nearest)).eval()
    net.load_state_dict(shipped.state_dict())
    given = {name: torch.cat((image, image)) for name, image in data.items()} | {"K0": K, "K1": K}
    with torch.inference_mode():
        out = N3LocalFeatureMatcher(sift, net)(given)
    for pair in (0, 1):
        rows = out["batch_indexes"] == pair
        assert rows.sum() > 15
        for name in ("index0", "index1"):
            assert len(out[name][rows].unique()) == rows.sum()
    assert bool((out["ratio"] > 1).any()) == second_nearest
    with torch.inference_mode():
        (lafs1, _, desc1), (lafs2, _, desc2) = (sift(data[f"image{i}"]) for i in range(2))
        hw = tuple(data["image0"].shape[-2:])
        _, idxs = N3GeometryAwareMatcher(net)(desc1[0], desc2[0], lafs1, lafs2, hw, hw, K, K)
    first = out["batch_indexes"] == 0
    assert torch.equal(idxs, torch.stack((out["index0"][first], out["index1"][first]), 1))
    if second_nearest:
        with pytest.raises(ValueError, match="index1 must be int64 of shape"):
            LocalFeatureMatchFilter(net)({**out, "index1": out["index1"][:3]}, given)


def test_geometry_aware_form_keeps_the_same_matches(data, sift):
    with torch.inference_mode():
        (lafs1, _, desc1), (lafs2, _, desc2) = (sift(data[f"image{i}"]) for i in range(2))
        hw = tuple(data["image0"].shape[-2:])
        dists, idxs = N3GeometryAwareMatcher()(desc1[0], desc2[0], lafs1, lafs2, hw, hw, K, K)
        whole = N3LocalFeatureMatcher(sift)(data | {"K0": K, "K1": K})
    assert dists.shape == (len(idxs), 1) and dists.dtype == desc1.dtype
    assert idxs.dtype == torch.int64 and idxs.shape[1] == 2
    assert torch.equal(lafs1[:, idxs[:, 0]], whole["lafs0"])
    assert torch.equal(lafs2[:, idxs[:, 1]], whole["lafs1"])
    torch.testing.assert_close(1 - dists[:, 0], whole["confidence"])


def test_in_the_place_of_a_matcher_of_local_feature_matcher(data, sift):
    """Which tells its matcher descriptors alone: the frames are those of its local_feature."""
    two = {name: torch.cat((image, image.flip(-1))) for name, image in data.items()}
    with torch.inference_mode():
        out = KF.LocalFeatureMatcher(sift, N3GeometryAwareMatcher("sift"))(two)
        whole = N3LocalFeatureMatcher(sift)(two)
    assert sorted(out) == KEYS and set(out["batch_indexes"].tolist()) == {0, 1}
    first = out["batch_indexes"] == 0
    assert first.sum() > 15
    assert _share_right({name: out[name][first] for name in ("keypoints0", "keypoints1")}) > 0.6
    for name in ("keypoints0", "keypoints1", "lafs0", "batch_indexes"):
        assert torch.equal(out[name], whole[name])
    # There all pairs go through the network together.
    torch.testing.assert_close(out["confidence"], whole["confidence"], atol=2e-3, rtol=0)


def test_features_that_it_has_not_seen_are_told(data, sift):
    with torch.inference_mode():
        (lafs1, _, desc1), (lafs2, _, desc2) = (sift(data[f"image{i}"]) for i in range(2))
        matcher = KF.LocalFeatureMatcher(sift, N3GeometryAwareMatcher())
        ready = {"lafs0": lafs1, "descriptors0": desc1, "lafs1": lafs2, "descriptors1": desc2}
        with pytest.raises(ValueError, match="lafs1 and lafs2: found None, wanted frames"):
            matcher(data | ready)
        with pytest.raises(ValueError, match="lafs1 and lafs2: found None, wanted frames"):
            N3GeometryAwareMatcher()(desc1[0], desc2[0])


def test_four_arguments_as_kornias_geometry_aware_matcher_takes(data, sift):
    """As in `GeometryAwareDescriptorMatcher("adalam")`, which takes the keypoints' extent."""
    with torch.inference_mode():
        (lafs1, _, desc1), (lafs2, _, desc2) = (sift(data[f"image{i}"]) for i in range(2))
        arguments = desc1[0], desc2[0], lafs1, lafs2
        dists, idxs = N3GeometryAwareMatcher()(*arguments)
        hw = torch.tensor(data["image0"].shape[2:])  # as the AdaLAM tutorial has it
        sized, _ = N3GeometryAwareMatcher()(*arguments, hw1=hw, hw2=hw)
        none = N3GeometryAwareMatcher()(desc1[0, :0], desc2[0], lafs1[:, :0], lafs2)
        with pytest.raises(ValueError, match=r"lafs2: .* outside the image of 9 × 9 that hw2 says"):
            N3GeometryAwareMatcher()(*arguments, hw1=hw, hw2=(9, 9))
    assert dists.shape == (len(idxs), 1) and (dists < 0.5).all()
    assert abs(len(dists) - len(sized)) < 0.2 * len(sized)
    points = [KF.get_laf_center(lafs)[0][idxs[:, i]] for i, lafs in enumerate((lafs1, lafs2))]
    assert _share_right(dict(zip(("keypoints0", "keypoints1"), points))) > 0.6
    assert none[0].shape == (0, 1) and none[1].shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_from_end_to_end(data, sift, dtype):
    with torch.inference_mode():
        (lafs1, _, desc1), (lafs2, _, desc2) = (sift(data[f"image{i}"]) for i in range(2))
        given = {
            "lafs0": lafs1, "descriptors0": desc1, "lafs1": lafs2, "descriptors1": desc2,
            "K0": K, "K1": K,
        }
        wanted = N3LocalFeatureMatcher(sift)(given)
        matcher = N3LocalFeatureMatcher(torch.nn.Identity()).to(dtype)
        out = matcher({name: value.to(dtype) for name, value in given.items()})
    floats = {name for name, value in out.items() if value.is_floating_point()}
    assert all(out[name].dtype == dtype for name in floats) and "confidence" in floats
    assert abs(len(out["confidence"]) - len(wanted["confidence"])) < 0.3 * len(wanted["confidence"])
    assert _share_right(out, pixels=3.0) > 0.6


def test_missing_entries_are_named(data, sift):
    with pytest.raises(ValueError, match=r"found \['image0'\], wanted image1, or lafs1 and"):
        N3LocalFeatureMatcher(sift)({"image0": data["image0"]})
    with pytest.raises(TypeError, match=r"image1 must be a torch\.Tensor"):
        N3LocalFeatureMatcher(sift)(data | {"image1": 1j})
    with pytest.raises(ValueError, match=r"wanted batch_indexes, too"):
        LocalFeatureMatchFilter()(dict.fromkeys(("keypoints0", "keypoints1"), torch.ones(1, 2)), {})


def test_padding_of_a_detector_is_never_matched(data, sift):
    """Zero frames are alike, and would match each other."""
    with torch.inference_mode():
        (lafs1, _, desc1), (lafs2, _, desc2) = (sift(data[f"image{i}"]) for i in range(2))
        padded = [torch.cat((lafs, torch.zeros(1, 5, 2, 3)), 1) for lafs in (lafs1, lafs2)]
        more = [torch.cat((desc[0], torch.ones(5, 128))) for desc in (desc1, desc2)]
        hw = tuple(data["image0"].shape[-2:])
        matcher = N3GeometryAwareMatcher()
        plain = matcher(desc1[0], desc2[0], lafs1, lafs2, hw, hw)
        with_padding = matcher(*more, *padded, hw, hw)
    assert torch.equal(plain[1], with_padding[1])


def test_other_features_without_weights(data):
    """Corners of kornia with upright frames: an orientation of 0 tells nothing."""
    detector = KF.ScaleSpaceDetector(
        500, resp_module=KF.CornerGFTT(), scale_pyr_module=kornia_pyramid(), mr_size=12.0
    )
    feature = KF.LocalFeature(
        detector, KF.LAFDescriptor(KF.SIFTDescriptor(32, rootsift=True), patch_size=32)
    )
    with torch.inference_mode():
        moved = torch.roll(data["image0"], (3, 5), dims=(2, 3))
        out = N3LocalFeatureMatcher(feature)({**data, "image1": moved})
    assert len(out["confidence"]) > 50
    motion = out["keypoints1"] - out["keypoints0"]
    torch.testing.assert_close(motion.median(0).values, torch.tensor([5.0, 3.0]), atol=0.5, rtol=0)


def kornia_pyramid():
    from kornia.geometry.transform import ScalePyramid

    return ScalePyramid(3, 1.6, 32, double_image=False)


def _scene_dictionary(seeds, dtype=torch.float32, shuffle=False):
    """Scenes of unequal sizes as LocalFeatureMatcher's dictionary, without LAFs."""
    scenes = [make_scene(60 + 40 * i, 200, seed=seed) for i, seed in enumerate(seeds)]
    index = np.concatenate([np.full(len(s.right), i) for i, s in enumerate(scenes)])
    order = np.random.default_rng(0).permutation(len(index)) if shuffle else np.arange(len(index))

    def column(name):
        return torch.from_numpy(np.concatenate([getattr(s, name) for s in scenes])[order]).to(dtype)

    side = column("side_info")
    matches = {
        "keypoints0": column("points0").clamp(min=0),
        "keypoints1": column("points1").clamp(min=0),
        "confidence": torch.ones(len(index), dtype=dtype),
        "batch_indexes": torch.from_numpy(index[order]),
        "ratio": side[:, 0],
        "mutual": side[:, 1],
    }
    images = {
        "image0": torch.zeros(len(seeds), 1, SIZE0[1], SIZE0[0], dtype=dtype),
        "image1": torch.zeros(len(seeds), 1, SIZE1[1], SIZE1[0], dtype=dtype),
    }
    cameras = {"K0": torch.from_numpy(K0), "K1": torch.from_numpy(K1)}
    return matches, images | cameras, scenes


@pytest.mark.parametrize("shuffle", [False, True])
def test_pairs_of_a_batch_are_filtered_each_by_itself(shuffle):
    matches, data, _ = _scene_dictionary([3, 4, 5], shuffle=shuffle)
    # A pair in the middle that has no match at all.
    matches["batch_indexes"] = torch.tensor([0, 2, 3])[matches["batch_indexes"]]
    data = {name: t[[0, 0, 1, 2]] if t.ndim == 4 else t for name, t in data.items()}
    module = LocalFeatureMatchFilter()
    with torch.inference_mode():
        out = module(matches, data)
    for pair in (0, 2, 3):
        mine = matches["batch_indexes"] == pair
        logits = n3match.match_logits(
            matches["keypoints0"][mine].numpy(),
            matches["keypoints1"][mine].numpy(),
            K0,
            K1,
            side_info=torch.stack((matches["ratio"][mine], matches["mutual"][mine]), 1).numpy(),
        )
        kept = out["batch_indexes"] == pair
        expected = torch.from_numpy(logits > 0)
        assert torch.equal(out["keypoints0"][kept], matches["keypoints0"][mine][expected])
        probability = torch.from_numpy(1 / (1 + np.exp(-logits[logits > 0]))).float()
        torch.testing.assert_close(out["confidence"][kept], probability, atol=1e-3, rtol=1e-3)
    assert "lafs0" not in out


def test_camera_per_pair_counts():
    matches, data, _ = _scene_dictionary([3, 4])
    module = LocalFeatureMatchFilter()
    wrong = torch.tensor([[200.0, 0, 511.5], [0, 200.0, 383.5], [0, 0, 1]]).double()
    with torch.inference_mode():
        good = module(matches, data)
        other = module(matches, data | {"K0": torch.stack((data["K0"], wrong))})
    counts = [torch.bincount(out["batch_indexes"], minlength=2).tolist() for out in (good, other)]
    assert counts[0][0] == counts[1][0] and counts[0][1] != counts[1][1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_dtype_of_the_input(dtype):
    matches, data, scenes = _scene_dictionary([3], dtype)
    with torch.inference_mode():
        out = LocalFeatureMatchFilter()(matches, data)
    assert out["confidence"].dtype == out["keypoints0"].dtype == dtype
    known = {tuple(p) for p in scenes[0].points0[scenes[0].right].astype(np.float32).tolist()}
    right = [tuple(p) in known for p in out["keypoints0"].float().tolist()]
    assert np.mean(right) > 0.7 and len(right) > 30


def test_moving_the_module_moves_no_other_filter():
    shared = n3match.two_view.as_filter("sift")
    module = LocalFeatureMatchFilter().double()
    assert next(shared.parameters()).dtype == torch.float32
    matches, data, _ = _scene_dictionary([3], torch.float64)
    with torch.inference_mode():
        assert len(module(matches, data)["confidence"])


def test_confidence_carries_gradients():
    matches, data, _ = _scene_dictionary([3])
    module = LocalFeatureMatchFilter()
    module(matches, data)["confidence"].sum().backward()
    gradients = [p.grad for p in module.filter.parameters() if p.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_no_matches():
    matches, data, _ = _scene_dictionary([3])
    empty = {name: t[:0] for name, t in matches.items()}
    lafs = {"lafs0": torch.empty(1, 0, 2, 3), "lafs1": torch.empty(1, 0, 2, 3)}
    out = LocalFeatureMatchFilter()(empty | lafs, data)
    assert out["keypoints0"].shape == (0, 2) and out["lafs1"].shape == (1, 0, 2, 3)
    assert out["confidence"].shape == out["batch_indexes"].shape == (0,)
    dists, idxs = N3GeometryAwareMatcher()(
        torch.zeros(0, 128), torch.zeros(3, 128), torch.zeros(1, 0, 2, 3), torch.ones(1, 3, 2, 3),
        (10, 10), (10, 10),
    )  # fmt: skip
    assert dists.shape == (0, 1) and idxs.shape == (0, 2) and idxs.dtype == torch.int64


def test_ragged_there_and_back():
    index = torch.tensor([4, 0, 4, 4, 0])
    ragged = Ragged.of(index)
    assert ragged.pairs.tolist() == [0, 4]
    assert ragged.mask.tolist() == [[True, True, False], [True, True, True]]
    values = torch.arange(5)
    assert ragged.pad(values).tolist() == [[1, 4, 0], [0, 2, 3]]
    assert torch.equal(ragged.unpad(ragged.pad(values)), values)


def test_changes_of_lafs_are_those_of_opencv_keypoints():
    """Kornia's angles are counter-clockwise, OpenCV's clockwise."""
    rng = np.random.default_rng(0)
    sizes_angles = [np.c_[rng.uniform(2, 40, 9), rng.uniform(1, 359, 9)] for _ in range(2)]
    lafs = [
        KF.laf_from_center_scale_ori(
            torch.zeros(1, 9, 2).double(),
            torch.from_numpy(s[:, 0]).view(1, 9, 1, 1),
            torch.from_numpy(-s[:, 1]).view(1, 9, 1),
        )[0]
        for s in sizes_angles
    ]
    found = keypoint_change_of_lafs(*lafs, torch.full((9,), 1.5).double())
    np.testing.assert_allclose(found, keypoint_change(*sizes_angles, 1.5, 1.0), atol=1e-6)
    bare = KF.laf_from_center_scale_ori(torch.ones(1, 9, 2).double())[0]
    assert not keypoint_change_of_lafs(bare, bare, torch.full((9,), 1.5).double()).any()


OFF_CENTRE = torch.tensor([[900.0, 0, 900], [0, 900, 5], [0, 0, 1]])


@pytest.mark.parametrize(
    ("change", "extra", "message"),
    [
        ({"keypoints1": torch.zeros(260, 2).double()}, {}, "keypoints1: found torch.float64"),
        ({"keypoints0": torch.zeros(260, 3)}, {}, r"keypoints0 must have shape \(NC, 2\)"),
        ({"keypoints0": torch.zeros(260, 2).long()}, {}, "keypoints0 must have a floating"),
        ({"keypoints0": torch.full((260, 2), 2000.0)}, {}, "keypoints0: 260 of 260 lie outside"),
        ({"keypoints0": torch.full((260, 2), torch.nan)}, {}, "keypoints0 holds NaN"),
        ({"keypoints0": torch.zeros(260, 2, device="meta")}, {}, "keypoints0 must be a dense"),
        ({"batch_indexes": torch.full((260,), 1)}, {}, "batch_indexes runs from 1 to 1"),
        ({"batch_indexes": torch.zeros(260)}, {}, "batch_indexes must be int64"),
        ({"lafs0": torch.zeros(1, 260, 2, 3)}, {}, "lafs0 and lafs1: found one"),
        ({"ratio": torch.zeros(7)}, {}, "ratio must have shape"),
        ({}, {"K0": torch.eye(3)}, "K0 has a focal length of 1"),
        ({}, {"K1": OFF_CENTRE}, "K1 has its principal"),
        ({}, {"K1": torch.zeros(5, 3, 3)}, r"K1 must have shape .* with B = 1"),
        ({}, {"image0": None, "K0": None}, "image0 and K0: found neither"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(change, extra, message):
    matches, data, _ = _scene_dictionary([3])
    with pytest.raises((ValueError, TypeError), match=message):
        LocalFeatureMatchFilter()(matches | change, data | extra)


def test_filter_on_another_device():
    matches, data, _ = _scene_dictionary([3])
    module = LocalFeatureMatchFilter().to("meta")
    with pytest.raises(ValueError, match="keypoints0: found it on cpu, but the filter is on meta"):
        module(matches, data)


def test_frames_that_do_not_belong_to_the_descriptors():
    with pytest.raises(ValueError, match=r"lafs2 must have shape \(1, N, 2, 3\) with N = 4"):
        N3GeometryAwareMatcher()(
            torch.zeros(3, 8), torch.zeros(4, 8), torch.ones(1, 3, 2, 3), torch.ones(1, 3, 2, 3),
            (9, 9), (9, 9),
        )  # fmt: skip
