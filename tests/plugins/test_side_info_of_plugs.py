"""A filter that asks for every column is told the same of a match by every plug.

Random weights of a small network that prunes: it has no favourites among the columns.
"""

import sqlite3
from collections import Counter
from types import SimpleNamespace

import cv2
import h5py
import kornia.feature as KF
import numpy as np
import pytest
import torch
from bundled_pair import SIZE, K, photograph
from colmap_databases import TABLES, pair_id
from gluefactory_stand_in import install

from n3match import match_logits
from n3match.matching import extract_sift, putative_matches
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilter
from n3match.nn.config import MatchFilterConfig, PruningConfig
from n3match.pipelines.filtering.colmap_database import DatabaseReader
from n3match.pipelines.filtering.hloc_files import PairReader
from n3match.pipelines.filtering.image_cameras import ImageCameras
from n3match.plugins.colmap.database import ColmapDatabase
from n3match.plugins.colmap.model import ColmapCamera
from n3match.plugins.gluefactory import filter_batch
from n3match.plugins.hloc import list_pairs
from n3match.plugins.kornia import N3GeometryAwareMatcher, N3LocalFeatureMatcher
from n3match.plugins.opencv import N3Matcher, filter_matches, match_information
from n3match.plugins.vismatch import FilteredMatcher
from n3match.two_view import logits_of_many, probability

FOCAL = (K[0, 0] + K[1, 1]) / 2


def random_filter(**options) -> MatchFilter:
    torch.manual_seed(7)
    config = MatchFilterConfig(
        side_info=SIDE_INFO, pruning=PruningConfig(widths=(24, 16), blocks=1, neighbours=3),
        **options,
    )
    net = MatchFilter(config).eval()
    with torch.no_grad():  # not all of one opinion
        net.pruning.head.weight.mul_(20)
    return net


@pytest.fixture(scope="module")
def pair():
    """Keypoints, descriptors of whole numbers (a database holds no others), and all matches."""
    found = [extract_sift(photograph(i), 400) for i in (0, 1)]
    for one in found:
        whole = np.clip(np.rint(512 * one.descriptors), 0, 255).astype(np.float32)
        object.__setattr__(one, "descriptors", whole)
    matches = putative_matches(
        found[0].keypoints, found[0].descriptors, found[1].keypoints, found[1].descriptors
    )
    assert len(np.unique(matches.index1)) < len(matches)  # not one-to-one
    return SimpleNamespace(images=found, matches=matches)


@pytest.fixture(scope="module")
def known(pair):
    return pair.matches.side_info(SIDE_INFO, FOCAL)


def two_view_logits(net, pair, rows=slice(None), change=True):
    """As `match_images` finds them."""
    matches = pair.matches
    more = {
        f"sizes_angles{i}": image.sizes_angles[index[rows]] for i, (image, index)
        in enumerate(zip(pair.images, (matches.index0, matches.index1)))
    }
    return match_logits(
        matches.points0[rows], matches.points1[rows], K, K, filter=net,
        side_info=matches.side_info(SIDE_INFO, FOCAL)[rows], **(more if change else {}),
    )


def test_the_columns_matter(pair):
    net = random_filter(keypoint_change=True)
    logits = two_view_logits(net, pair)
    assert 0.1 < (logits > 0).mean() < 0.9
    matches = pair.matches
    less = pair.matches.side_info(SIDE_INFO, FOCAL)
    less[:, 2:] = 1.0, 0.0, 0.0
    told_less = match_logits(
        matches.points0, matches.points1, K, K, filter=net, side_info=less,
        sizes_angles0=pair.images[0].sizes_angles[matches.index0],
        sizes_angles1=pair.images[1].sizes_angles[matches.index1],
    )
    assert ((logits > 0) != (told_less > 0)).any()


def cv_keypoints(image):
    return [
        cv2.KeyPoint(float(x), float(y), float(size), float(angle))
        for (x, y), (size, angle) in zip(image.keypoints, image.sizes_angles)
    ]


def test_opencv(pair, known):
    net = random_filter(keypoint_change=True)
    kept = np.flatnonzero(two_view_logits(net, pair) > 0).tolist()
    (kp1, des1), (kp2, des2) = ((cv_keypoints(i), i.descriptors) for i in pair.images)
    matcher = N3Matcher(filter=net)
    matcher.setPairInfo(kp1, kp2, K1=K, K2=K)
    assert [m.queryIdx for m in matcher.match(des1, des2)] == kept
    matches = cv2.BFMatcher().match(des1, des2)
    options = {"K1": K, "K2": K, "descriptors1": des1, "descriptors2": des2, "filter": net}
    assert [m.queryIdx for m in filter_matches(SIZE, SIZE, kp1, kp2, matches, **options)] == kept
    told = match_information(kp1, kp2, matches, des1, des2, K2=K, filter=net)["side_info"]
    np.testing.assert_allclose(told, known, atol=2e-3)
    without = match_information(kp1, kp2, matches, des1, des2, filter=net)["side_info"]
    np.testing.assert_allclose(without[:, :4], known[:, :4], atol=2e-3)
    assert not without[:, 4].any()


def test_rows_of_knn_match_tell_what_can_be_known(pair, known):
    """All but the ratio the other way round, and nearly which are mutual."""
    net = random_filter()
    (kp1, des1), (kp2, des2) = ((cv_keypoints(i), i.descriptors) for i in pair.images)
    rows = cv2.BFMatcher().knnMatch(des1, des2, 2)
    seen = []
    original = net.logits_of_many
    net.logits_of_many = lambda *args: seen.append(args[2][0].numpy()) or original(*args)
    filter_matches(SIZE, SIZE, kp1, kp2, rows, K1=K, K2=K, filter=net)
    told = seen[0]
    column = SIDE_INFO.index
    for name in ("ratio", "distance", "apart"):
        np.testing.assert_allclose(told[:, column(name)], known[:, column(name)], atol=1e-4)
    np.testing.assert_array_equal(told[:, column("back_ratio")], 1)
    mutual, claimed = known[:, column("mutual")] > 0, told[:, column("mutual")] > 0
    assert claimed[mutual].all() and claimed.sum() < 1.6 * mutual.sum()


def lafs_of(image):
    angles = -torch.from_numpy(image.angles.copy())[None, :, None]  # counter-clockwise
    return KF.laf_from_center_scale_ori(
        torch.from_numpy(image.keypoints)[None],
        torch.from_numpy(image.sizes.copy())[None, :, None, None], angles,
    )


def test_kornia(pair, known):
    net = random_filter(keypoint_change=True)
    logits = two_view_logits(net, pair)
    kept = np.flatnonzero(logits > 0)
    lafs = [lafs_of(image) for image in pair.images]
    descriptors = [torch.from_numpy(image.descriptors) for image in pair.images]
    camera = torch.from_numpy(K).float()
    with torch.inference_mode():
        dists, idxs = N3GeometryAwareMatcher(net)(*descriptors, *lafs, K1=camera, K2=camera)
        data = {"K0": camera, "K1": camera}
        for i in (0, 1):  # two pairs, the second with fewer keypoints
            data[f"lafs{i}"] = torch.cat([lafs[i], lafs[i]])
            data[f"lafs{i}"][1, 300:] = 0
            data[f"descriptors{i}"] = torch.stack([descriptors[i]] * 2)
        whole = N3LocalFeatureMatcher(torch.nn.Identity(), net)(data)
    np.testing.assert_array_equal(idxs[:, 0], kept)
    np.testing.assert_allclose(1 - dists[:, 0], probability(logits[kept]), atol=2e-3)
    first = whole["batch_indexes"] == 0
    np.testing.assert_allclose(whole["confidence"][first], probability(logits[kept]), atol=2e-3)
    for name in SIDE_INFO:
        assert len(whole[name]) == len(whole["confidence"])


def test_gluefactory(pair, monkeypatch):
    install(monkeypatch)
    net = random_filter(keypoint_change=True)
    logits = two_view_logits(net, pair)
    camera = SimpleNamespace(
        f=torch.tensor([[K[0, 0], K[1, 1]]]),
        image2cam=lambda x: (x - torch.from_numpy(K[:2, 2])) / torch.tensor([K[0, 0], K[1, 1]]),
    )
    data = {"view0": {"camera": camera}, "view1": {"camera": camera}}
    data["matches0"] = torch.from_numpy(pair.matches.index1)[None]
    for i, image in enumerate(pair.images):
        data |= {
            f"keypoints{i}": torch.from_numpy(image.keypoints)[None].double(),
            f"scales{i}": torch.from_numpy(image.sizes)[None],
            f"oris{i}": torch.from_numpy(np.radians(image.angles))[None],
            f"descriptors{i}": torch.from_numpy(image.descriptors)[None],
        }
    found = filter_batch(net, data)["matching_scores0"][0].numpy()
    np.testing.assert_allclose(found, probability(logits) * (logits > 0), atol=2e-3)


def check_pair_matches(net, pair, made, known, rows=slice(None)):
    np.testing.assert_allclose(made.side_info, known[rows], atol=2e-3)
    (logits,) = logits_of_many(net, [made])
    np.testing.assert_allclose(logits, two_view_logits(net, pair, rows), atol=2e-2)


CAMERA = ColmapCamera(*SIZE, K, np.zeros(4))


@pytest.mark.parametrize("mutual_alone", [False, True])
def test_hloc(pair, known, tmp_path, mutual_alone):
    net = random_filter(keypoint_change=True)
    rows = np.flatnonzero(pair.matches.mutual) if mutual_alone else np.arange(len(pair.matches))
    index1 = np.full(len(pair.matches), -1)
    index1[rows] = pair.matches.index1[rows]
    with h5py.File(tmp_path / "f.h5", "w") as file, h5py.File(tmp_path / "m.h5", "w") as matches:
        for name, image in zip("ab", pair.images):
            group = file.create_group(name)
            group["keypoints"], group["descriptors"] = image.keypoints, image.descriptors.T
            group["image_size"], group["scales"] = np.array(SIZE), image.sizes
            group["oris"] = image.angles
        matches.create_group("a/b")["matches0"] = index1.astype(np.int16)
        cameras = ImageCameras({"a": CAMERA, "b": CAMERA}, {}, None, Counter())
        reader = PairReader(file, matches, cameras, net, True)
        made = reader.read(list_pairs(matches, ["a", "b"])[0])[1]()
    check_pair_matches(net, pair, made, known, rows)


def test_colmap(pair, known, tmp_path):
    net = random_filter(keypoint_change=True)
    connection = sqlite3.connect(tmp_path / "d.db")
    with connection:
        connection.executescript(TABLES.format(pose=""))
        half = [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5]
        connection.execute(
            "INSERT INTO cameras VALUES (1, 1, ?, ?, ?, 1)", (*SIZE, np.array(half).tobytes())
        )
        for i, image in enumerate(pair.images, start=1):
            points = np.column_stack(
                [image.keypoints + 0.5, image.sizes / 2, np.radians(image.angles)]
            ).astype(np.float32)
            connection.execute("INSERT INTO images VALUES (?, ?, 1)", (i, f"{i}.jpg"))
            for table, array in (
                ("keypoints", points), ("descriptors", image.descriptors.astype(np.uint8))
            ):
                connection.execute(
                    f"INSERT INTO {table} VALUES (?, ?, ?, ?)", (i, *array.shape, array.tobytes())
                )
        joined = np.stack([pair.matches.index0, pair.matches.index1], axis=1).astype("<u4")
        connection.execute(
            "INSERT INTO matches VALUES (?, ?, 2, ?)",
            (pair_id(1, 2), len(joined), joined.tobytes()),
        )
    connection.close()
    with ColmapDatabase(tmp_path / "d.db") as database:
        _, make = DatabaseReader(database, net, True).read(pair_id(1, 2))
        check_pair_matches(net, pair, make(), known)


def test_vismatch(pair):
    """The answer has all keypoints with their descriptors, and a few of the matches."""
    net = random_filter()
    # Which of several matches in one place is meant can't be told from the answer.
    places = np.hstack([pair.matches.points0, pair.matches.points1])
    _, place, count = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(pair.matches.mutual & (count[place.ravel()] == 1))[::-1]
    answer = {
        f"{what}{i}": array for i, image in enumerate(pair.images) for what, array in
        (("all_kpts", image.keypoints), ("all_desc", image.descriptors))
    }
    answer |= {
        "matched_kpts0": pair.matches.points0[rows].astype(np.float32),
        "matched_kpts1": pair.matches.points1[rows].astype(np.float32),
    }
    logits = two_view_logits(net, pair, rows, change=False)
    found = FilteredMatcher(lambda *_: answer, K0=K, K1=K, filter=net)(0, 0)
    np.testing.assert_array_equal(found["matched_kpts0"], answer["matched_kpts0"][logits > 0])
    np.testing.assert_allclose(
        found["matched_confidences"], probability(logits[logits > 0]), atol=2e-3
    )
