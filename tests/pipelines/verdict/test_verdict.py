"""Pairs that share nothing, models of evidence, thresholds, reports; both commands."""

import json
import os
from argparse import Namespace
from dataclasses import replace

import cv2
import numpy as np
import pytest
import toy_scene
from scipy.spatial.transform import Rotation

from n3match import MatchFilter
from n3match.pipelines.cli import main
from n3match.pipelines.verdict.fit import (
    choose_threshold,
    fit_models,
    left_out_probabilities,
    probabilities,
)
from n3match.pipelines.verdict.known_matches import MatchStore, turn_to_middle
from n3match.pipelines.verdict.measured import AnswerRow, EvidenceRow, true_pose
from n3match.pipelines.verdict.pair_kinds import (
    OTHER_PART,
    OTHER_PLACE,
    OTHER_SIDE,
    REAL,
    KnownScene,
    SeenImage,
    pairs_of_scene,
    pairs_of_two_scenes,
    read_known_scene,
)
from n3match.pipelines.verdict.plan import planned_pairs
from n3match.pipelines.verdict.report import claims_table, verdict_report
from n3match.plugins.colmap.model import ColmapCamera, ColmapImage
from n3match.weights import save_weights
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL, GEOMETRIES, read_verdict

K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])


def _scene(tmp_path, name: str, count: int = 12) -> KnownScene:
    """Cameras on a circle look at a cube's four sides; a point is seen from its own side alone."""
    rng = np.random.default_rng(0)
    sides, points = [], []
    for side in range(4):
        own = np.c_[rng.uniform(-1, 1, (300, 2)), np.full(300, -1.0)]
        points.append(own @ Rotation.from_rotvec([0, side * np.pi / 2, 0]).as_matrix().T)
        sides.append(np.full(300, side))
    points, sides = np.concatenate(points), np.concatenate(sides)
    camera = ColmapCamera(640, 480, K, np.zeros(4))
    images = {}
    for i in range(count):
        # World to camera: the cube turned, then moved away.
        R = Rotation.from_rotvec([0, -2 * np.pi * i / count, 0]).as_matrix()
        t = np.array([0.0, 0.0, 5.0])
        X = points @ R.T + t
        x = X[:, :2] / X[:, 2:]
        normals = Rotation.from_rotvec([[0, s * np.pi / 2, 0] for s in range(4)]).apply(
            [0.0, 0.0, -1.0]
        ) @ R.T
        faces = np.einsum("nk,nk->n", normals[sides], -X) > 1.0
        inside = (np.abs(x * 500) < (319, 239)).all(axis=1)
        ids = np.flatnonzero(faces & inside)
        image = ColmapImage(f"{i:02}.png", 1, R, t, ids)
        half = np.array([319.5, 239.5]) / 500
        images[image.name] = SeenImage(
            name, image.name, tmp_path / image.name, camera, image, np.r_[-half, half]
        )
    return KnownScene(name, images, np.arange(len(points)), points)


def _inside(x, bounds):
    return ((x >= bounds[:2]) & (x <= bounds[2:])).all(axis=1)


def test_pairs_are_what_they_are_called(tmp_path):
    scene = _scene(tmp_path, "cube")
    most = {REAL: 9, OTHER_SIDE: 7, OTHER_PART: 8}
    pairs = pairs_of_scene(scene, most)
    assert [p.name for p in pairs] == [p.name for p in pairs_of_scene(scene, most)]
    assert len({p.name for p in pairs}) == len(pairs)
    for pair in pairs:
        shared = np.intersect1d(pair.image0.image.point_ids, pair.image1.image.point_ids)
        if pair.kind == REAL:
            assert len(shared) >= 20
        elif pair.kind == OTHER_SIDE:
            assert len(shared) == 0
            axes = [image.image.R[2] for image in (pair.image0, pair.image1)]
            assert axes[0] @ axes[1] < 0.1
        else:
            # Of all that either sees, nothing lies in both parts.
            seen = scene.points_of(pair.image0, pair.image1)
            there = [
                _inside(image.project(seen), bounds)
                for image, bounds in ((pair.image0, pair.bounds0), (pair.image1, pair.bounds1))
            ]
            assert there[0].sum() >= 30 and there[1].sum() >= 30
            assert not (there[0] & there[1]).any()
    kinds = [pair.kind for pair in pairs]
    assert {kind: kinds.count(kind) for kind in most} == most


def test_true_pose_of_parts_is_that_of_turned_cameras(tmp_path):
    scene = _scene(tmp_path, "cube")
    (pair,) = pairs_of_scene(scene, {OTHER_PART: 1})
    R, t = true_pose(pair)
    point = scene.places[:1]
    ends = [
        (point @ image.image.R.T + image.image.t) @ turn_to_middle(bounds).T
        for image, bounds in ((pair.image0, pair.bounds0), (pair.image1, pair.bounds1))
    ]
    np.testing.assert_allclose(ends[0] @ R.T + t, ends[1], atol=1e-9)
    middle = np.append(pair.bounds0.reshape(2, 2).mean(axis=0), 1.0)
    np.testing.assert_allclose((turn_to_middle(pair.bounds0) @ middle)[:2], 0, atol=1e-12)


def test_scenes_of_one_place_are_not_two(tmp_path):
    scenes = [_scene(tmp_path, name, 3) for name in "abc"]
    pairs = pairs_of_two_scenes(scenes, [["a", "b"]], 100)
    assert {frozenset(p.scenes) for p in pairs} == {frozenset("ac"), frozenset("bc")}
    assert len(pairs) == 18 and {p.kind for p in pairs} == {OTHER_PLACE}
    assert len(pairs_of_two_scenes(scenes, [], 5)) == 5


def test_a_turned_object_has_no_other_side(tmp_path):
    """Only pairs of different sides go: all others stay what they were."""
    scenes = [_scene(tmp_path, name) for name in "ab"]
    options = {
        "real": 9, "other_side": 7, "other_part": 8, "other_place": 5, "one_place": [], "seed": 0,
    }
    pairs, fewer = (
        [p.name for p in planned_pairs(scenes, Namespace(**options, turned=turned))]
        for turned in ([], ["b"])
    )
    gone = [name for name in pairs if name.startswith(f"{OTHER_SIDE} 0: b/")]
    assert len(gone) == 7 and fewer == [name for name in pairs if name not in gone]


def _evidence(kind: str, right: int, strength: float, number: int) -> EvidenceRow:
    numbers = {"inliers": strength, "share": 0.5, "extent": 1.0}
    return EvidenceRow(
        f"{kind} {number}", kind, "a", "b", 2000, "essential, points", right, 1.0,
        json.dumps(numbers), "",
    )


def test_models_are_calibrated_and_the_threshold_claims_what_it_may():
    rng = np.random.default_rng(0)
    rows = []
    for number in range(600):
        # Log odds of 2 (s − 3) where both kinds are as many: normal with mean 4 and 2, variance 1.
        rows.append(_evidence(REAL, 1, rng.normal(4, 1), number))
        kind = (OTHER_PART, OTHER_SIDE, OTHER_PLACE)[number % 3]
        rows.append(_evidence(kind, 0, rng.normal(2, 1), number))
    model = fit_models(rows)["essential, points"]
    strengths = np.array([row.numbers["inliers"] for row in rows])
    truth = 1 / (1 + np.exp(-2 * (strengths - 3)))
    assert np.abs(probabilities(model, rows) - truth).max() < 0.06
    with pytest.raises(ValueError, match="no threshold below 1"):
        choose_threshold(model, [_evidence(OTHER_PLACE, 0, 50.0, 0), *rows])
    mild = [row for row in rows if row.kind != OTHER_PLACE or row.numbers["inliers"] < 3.5]
    threshold = choose_threshold(model, mild, most=0.05)
    alike = [row for row in mild if row.kind in (OTHER_PART, OTHER_SIDE)]
    assert np.mean(probabilities(model, alike) >= threshold) <= 0.05
    assert np.mean(probabilities(model, alike) >= threshold - 0.01) > 0.05 or (
        probabilities(model, [r for r in mild if r.kind == OTHER_PLACE]).max() >= threshold - 0.01
    )


def test_scenes_are_judged_by_models_of_others():
    """Of scene b what speaks for a pair elsewhere speaks against it."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(400):
        right, scene = number % 2, "aab"[number % 3]
        strength = rng.normal(1 if right == (scene == "a") else -1, 0.5)
        row = _evidence(REAL if right else OTHER_SIDE, right, strength, number)
        rows.append(replace(row, scene0=scene, scene1=scene))
    (name,), (told,) = zip(*left_out_probabilities(rows).items())
    right = np.array([row.right for row in rows])
    of_b = np.array([row.scene0 == "b" for row in rows])
    assert np.mean((told > 0.5)[of_b] == right[of_b]) < 0.2
    table = claims_table(rows, {name: told}, {ESSENTIAL: 0.5, FUNDAMENTAL: 1.0})
    claimed = np.count_nonzero((told > 0.5) & (right == 0))
    cells = [cell.strip() for cell in table.splitlines()[-1].split("|")]
    assert cells[1] == "essential, points" and cells[4] == f"{claimed} of 200"


def test_models_want_pairs_of_both_sorts():
    with pytest.raises(ValueError, match="essential, points: 0 of 1 pairs are real"):
        fit_models([_evidence(OTHER_PART, 0, 1.0, 0)])


def _answer(kind: str, probability: float, undoubted: float, inliers: int, number: int):
    return AnswerRow(
        f"{kind} {number}", kind, 2000, probability, undoubted, probability, None,
        inliers, "",
    )


def test_report_counts_claims_by_kind():
    rows = [_answer(REAL, 0.99, 1.0, 40, i) for i in range(8)]
    rows += [_answer(REAL, 0.5, 2.0, 40, i) for i in range(8, 10)]
    rows += [_answer(REAL, 0.1, 90.0, 5, 10)]
    rows += [_answer(OTHER_PART, 0.95 if i < 1 else 0.02, 180.0, 20, i) for i in range(20)]
    # Whether these show the same is not known: their pose is right.
    rows += [_answer(OTHER_PART, 0.99, 2.0, 20, i) for i in range(20, 23)]
    rows += [_answer(OTHER_PLACE, 0.01, 180.0, 16, i) for i in range(10)]
    table = verdict_report(rows, {ESSENTIAL: 0.9, FUNDAMENTAL: 0.97})
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    assert "8: 80.0" in lines["real, solved within 10°"]
    assert "10: 100.0" in lines["real, solved within 10°"]  # of at least 15 inliers
    assert "3: 100.0" in lines["other part, solved within 10°"]
    assert "1: 5.0" in lines["other part"] and "20: 100.0" in lines["other part"]
    assert "0: 0.0 [0.0, 30.8]" in lines["other place"]
    # Of other parts one has 0.95: enough with cameras, not without.
    assert "1: 5.0" in lines["cameras known"] and "1: 5.0" not in lines["cameras not known"]
    # Of claims above 0.95, weights 8 / 10 and 1 / 30.
    assert lines["0.95 … 1"].split("|")[-2].strip() == "0.960"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two toy scenes, one of them dark and upside down, with points on their plane."""
    folder = tmp_path_factory.mktemp("scenes")
    for name in "ab":
        toy_scene.write_scene(folder / name, 4)
        rows = []
        for number in range(20 * 3 + 100):
            x, y = np.random.default_rng(number).uniform(-1, 1, 2)
            rows.append(f"{number} {x} {y} {toy_scene.DEPTH} 0 0 0 0.5")
        (folder / name / "sparse" / "points3D.txt").write_text("\n".join(rows) + "\n")
    for path in (folder / "b" / "images").iterdir():
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), cv2.GaussianBlur(255 - image[::-1], (0, 0), 1.5))
    return folder


def test_both_commands_on_toy_scenes(scenes, tmp_path, capsys):
    options = [
        "--work", tmp_path / "work", "--keypoints", "300", "--real", "3", "--other-part", "2",
        "--other-side", "0", "--other-place", "4",
    ]
    out = tmp_path / "verdict.json"
    train = ["train-verdict", scenes, "--val", scenes, "--out", out, *options]
    status = main([*map(str, train)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    verdict = read_verdict(out)
    assert len(verdict.models) == 6 and [*verdict.threshold] == [*GEOMETRIES]
    assert all(0 < value < 1 for value in verdict.threshold.values())
    assert verdict.notes["pairs"]["train"]["real"] == 6
    rows = (tmp_path / "work" / "evidence.csv").read_bytes()
    assert main([*map(str, train)]) == 0
    assert (tmp_path / "work" / "evidence.csv").read_bytes() == rows
    assert read_verdict(out) == verdict
    # The matches of before serve copies of the photographs: neither file is made again.
    stored = sorted(path for path in (tmp_path / "work").rglob("*.npz"))
    for path in scenes.rglob("images/*"):
        os.utime(path, (1, 1))
    (tmp_path / "work" / "evidence.csv").unlink()
    assert main([*map(str, train)]) == 0
    assert sorted(path for path in (tmp_path / "work").rglob("*.npz")) == stored
    capsys.readouterr()
    judge = ["evaluate-verdict", scenes, "--out", tmp_path / "report", *options]
    assert main([*map(str, judge)]) == 0
    assert (tmp_path / "report" / "verdict.png").read_bytes().startswith(b"\x89PNG")
    assert "300 keypoints" in (tmp_path / "report" / "verdict.md").read_text()


def test_matches_hold_second_nearest_neighbours_where_the_filter_looks(scenes, tmp_path):
    shipped = MatchFilter.from_pretrained("sift")
    net = MatchFilter(replace(shipped.config, second_nearest=True))
    net.load_state_dict(shipped.state_dict())
    save_weights(tmp_path / "second.safetensors", net)
    pair = pairs_of_scene(read_known_scene(scenes / "a", "a"), {REAL: 1})[0]
    plain = MatchStore(tmp_path, "sift", 300).read(pair)
    store = MatchStore(tmp_path, str(tmp_path / "second.safetensors"), 300)
    found, alone = store.read(pair), replace(store, points_alone=True).read(pair)
    count = len(plain.logits)
    assert len(found.logits) > count + 20 and len(alone.logits) == count
    np.testing.assert_array_equal(found.points0[:count], plain.points0)
    assert not found.mutual[count:].any() and (found.ratio[count:] >= 1).all()
    # No keypoint of image 0 is kept twice: a second nearest one has its nearest's place.
    kept = found.logits > 0
    assert kept.sum() > 10
    places = [tuple(p) for p in found.points0[count:][kept[count:]].tolist()]
    assert places
    nearest = [tuple(p) for p in found.points0[:count].tolist()]
    for place in places:
        rows = [i for i, p in enumerate(nearest) if p == place]
        assert len(rows) > 1 or not kept[rows[0]]  # several keypoints may lie in one place


def test_wrong_use_is_told(scenes, tmp_path, capsys):
    def error(*argv) -> str:
        assert main([*map(str, argv)]) == 2
        return capsys.readouterr().err

    common = ["evaluate-verdict", "--work", tmp_path]
    assert "stands for several scenes" in error(*common, scenes, scenes)
    assert "--keypoints must be at least 8, got 2" in error(*common, scenes, "--keypoints", "2")
    assert "--real must be at least 0, got -1" in error(*common, scenes, "--real", "-1")
    assert "no such folder" in error(*common, tmp_path / "none")
