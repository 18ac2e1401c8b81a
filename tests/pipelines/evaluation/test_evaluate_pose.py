"""Pose evaluation: tables checked by hand, filters against their own libraries, resumed runs."""

import csv
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from toy_pairs import SIZE, K, make_record, parse, run, save_net, table_rows, timeless, write_store
from toy_scene import write_scene

from n3match import MatchFilter, match_logits
from n3match.datasets.pairs.dataset import PairDataset
from n3match.matching import one_to_one
from n3match.pipelines.common.result_rows import read_rows
from n3match.pipelines.common.tables import markdown_table
from n3match.pipelines.evaluation import match_filters
from n3match.pipelines.evaluation.choices import PROTOCOLS
from n3match.pipelines.evaluation.evaluate_pose import main
from n3match.pipelines.evaluation.match_filters import CLASSICAL, FilterSource, parse_filters
from n3match.pipelines.evaluation.pose_evaluation import evaluate_pose
from n3match.pipelines.evaluation.protocol import sampling_weights, with_guessed_cameras
from n3match.pipelines.evaluation.records import Filtered, PoseResult
from n3match.pipelines.evaluation.report import (
    bootstrap_interval,
    difference_report,
    hardest_third,
    make_report,
)
from n3match.weights import save_weights


@pytest.mark.parametrize("estimator", ["eight_point", "opencv_ransac", "opencv_usac", "poselib"])
def test_exact_matches_have_all_marks(tmp_path, estimator):
    if estimator == "poselib":
        pytest.importorskip("poselib")
    store = write_store(tmp_path / "s.h5", [make_record(seed=s) for s in range(3)])
    results = run(store, ["none"], [estimator])
    assert [r.status for r in results] == ["ok"] * 3
    assert max(r.error_deg for r in results) < 0.01
    assert results[0].matches == results[0].right == results[0].kept == results[0].kept_right == 100
    rows = table_rows(make_report(results, ["none"], [estimator]))
    assert rows["", "none"][:3] == ["100", "100.0", "100.0"]
    cells = rows[f"{PROTOCOLS[estimator].title}:", "none"]
    assert cells[:3] == ["100.0 [100, 100]", "100.0", "100.0"]
    assert min(map(float, cells[3:6])) > 99.8
    assert cells[6] == "0"


def test_marks_of_known_errors_are_those_worked_out_by_hand(tmp_path):
    """Errors of 7°, 0° and 180°: acc(5) = 1/3, acc(10) = acc(15) = acc(20) = 2/3."""
    records = [make_record(turned_deg=7), make_record(), make_record(true=4)]
    results = run(write_store(tmp_path / "s.h5", records), ["none"], ["opencv_ransac"])
    turned, exact, few = results
    assert turned.rotation_error_deg == pytest.approx(7, abs=1e-2)
    assert turned.error_deg == turned.rotation_error_deg
    assert exact.error_deg < 1e-2
    assert (few.status, few.error_deg, few.rotation_error_deg) == ("too_few_matches", 180, None)
    cells = next(
        cells
        for (title, _), cells in table_rows(
            make_report(results, ["none"], ["opencv_ransac"])
        ).items()
        if title
    )
    # The curve of AUC starts at 1/3 and, where 7 is below the threshold, rises to 2/3 there.
    areas = {5: 5 / 3, 10: 7 * (1 / 3 + 2 / 3) / 2 + 3 * 2 / 3, 20: 3.5 + 13 * 2 / 3}
    low, high = bootstrap_interval(1, 3)
    assert cells[0] == f"33.3 [{100 * low:.0f}, {100 * high:.0f}]"
    mean_precision = (1 / 3 + 2 / 3) / 2, (1 / 3 + 3 * 2 / 3) / 4
    assert cells[1:3] == [f"{100 * p:.1f}" for p in mean_precision]
    assert [float(c) for c in cells[3:6]] == pytest.approx(
        [100 * area / t for t, area in areas.items()], abs=0.1
    )
    assert cells[6] == "1"


def test_marks_by_estimator_are_those_of_the_estimators_tables(tmp_path):
    records = [make_record(true=40, false=60, seed=s, turned_deg=7 * (s == 2)) for s in range(4)]
    filters, estimators = ["none", "mutual-ratio"], ["opencv_usac", "eight_point"]
    results = run(write_store(tmp_path / "s.h5", records), filters, estimators)
    rows = table_rows(make_report(results, filters, estimators))
    seen = set()
    for label in filters:
        cells = rows["mAP@5 [95 % CI] by estimator:", label]
        titles = [f"{PROTOCOLS[name].title}:" for name in estimators]
        assert cells == [rows[title, label][0] for title in titles]
        seen.update(cells)
    assert len(seen) > 1


def test_a_difference_is_that_of_the_same_pairs():
    """Filter b solves pairs 0 … 29 of 40, a 10 … 29: ten more, on whichever pairs are drawn."""
    rows = []
    for label, solved in (("a", range(10, 30)), ("b", range(30))):
        for name in ("opencv_usac", "poselib"):
            for pair in range(40):
                error = 1.0 if pair in solved or name == "poselib" else 90.0
                rows.append(
                    PoseResult(
                        "s.h5", pair, "scene", "0", "1", 100, 50, label, 40, 40, 1.0, 1.0, name,
                        "ok", error, error, error, 1.0, "",
                    )
                )
    text = difference_report(rows, ["a", "b"], ["opencv_usac", "poselib"], "a")
    found = [float(x) for x in re.findall(r"[+-][\d.]+", text.splitlines()[-1])]
    assert found[0] == 25.0 and found[3:6] == [0, 0, 0] and found[6] == 12.5
    # Of 40 pairs with a difference in a quarter: a binomial's deviation is 6.8 points.
    assert 25 - 16 < found[1] < 25 - 10 and 25 + 10 < found[2] < 25 + 16


def test_of_several_trainings_there_are_means_and_each(tmp_path, capsys):
    """The tables of a network trained twice are those of its rows together, with the interval of as
    many pairs; a third filter is what it is without them."""
    store = write_store(
        tmp_path / "s.h5", [make_record(true=40, false=40, seed=s) for s in range(6)]
    )
    nets = [save_net(tmp_path / f"{i}.safetensors", seed=i) for i in range(2)]
    arguments = ("--estimators", "eight_point", "opencv_ransac", "--workers", 1)

    def printed(*filters):
        assert main(parse(store, "--filters", *filters, *arguments)) == 0
        return capsys.readouterr().out

    out = ("--out", tmp_path / "out", "--against", "n")
    text = printed("mutual", f"n={nets[0]}", f"n={nets[1]}", *out)
    assert "mAP@5 less that of n on the same pairs" in text
    assert (tmp_path / "out" / "figures" / "precision.png").exists()
    rows = table_rows(text)
    alone = [table_rows(printed(f"n={net}", "mutual")) for net in nets]
    title = "mAP@5 [95 % CI] by estimator:"

    def marks(cells):
        return [float(cell.split()[0]) for cell in cells]

    each = [marks(table[title, "n"]) for table in alone]
    assert marks(rows[title, "n"]) == pytest.approx(np.mean(each, 0), abs=0.11)
    share = np.mean(each, 0)[0] / 100
    low, high = bootstrap_interval(6 * share, 6)
    assert rows[title, "n"][0].endswith(f" [{100 * low:.0f}, {100 * high:.0f}]")
    assert rows[title, "mutual"] == alone[0][title, "mutual"]
    by_itself = "Each training by itself, and mean ± deviation of them:"
    assert each[0] != each[1]
    for number in (1, 2):
        assert marks(rows[by_itself, f"n {number}"])[:2] == each[number - 1]
    mean, _, deviation = rows[by_itself, "n"][1].split()
    assert float(mean) == marks(rows[title, "n"])[1]
    assert float(deviation) == pytest.approx(np.std([e[1] for e in each], ddof=1), abs=0.11)
    assert "Of a network trained several times" in text
    assert not any(by_itself in t for table in alone for t, _ in table)


def test_hopeless_matches_count_180_degrees(tmp_path):
    store = write_store(tmp_path / "s.h5", [make_record(true=0, false=n) for n in (0, 1, 4)])
    filters = list(CLASSICAL)
    results = run(store, filters, ["eight_point", "opencv_ransac", "opencv_usac"])
    assert len(results) == 3 * len(filters) * 3
    assert {r.error_deg for r in results} == {180.0}
    for (title, _), cells in table_rows(
        make_report(results, filters, ["eight_point", "opencv_ransac", "opencv_usac"])
    ).items():
        if "seconds" in title:
            assert len(cells) == 5
        elif "by estimator" in title:
            assert cells == ["0.0 [0, 0]"] * 3
        elif title:
            assert cells[0].startswith("0.0 [0, 0]")
            assert cells[1:7] == ["0.0"] * 5 + ["3"]
        else:
            assert cells[1:3] == ["0.0", "–"]  # nothing right to be found


@pytest.mark.parametrize(
    ("label", "kept_false"), [("none", 90), ("ratio", 30), ("mutual", 60), ("mutual-ratio", 30)]
)
def test_kept_precision_and_recall_are_those_of_the_rule(tmp_path, label, kept_false):
    """The second pair has half as many true matches, so means over pairs and matches differ."""
    records = [make_record(true=120, false=90), make_record(true=60, false=90)]
    if label == "ratio":  # a true match that the ratio test loses
        records[0].ratio[:12] = 0.8
    results = run(write_store(tmp_path / "s.h5", records), [label], ["eight_point"])
    kept = [(120 - 12 * (label == "ratio")), 60]
    assert [r.kept_right for r in results] == kept
    assert [r.kept for r in results] == [k + kept_false for k in kept]
    cells = table_rows(make_report(results, [label], ["eight_point"]))["", label]
    precision = np.mean([k / (k + kept_false) for k in kept])
    recall = np.mean([kept[0] / 120, kept[1] / 60])
    assert cells[0] == f"{np.mean(kept) + kept_false:.0f}"
    assert cells[1:3] == [f"{100 * precision:.1f}", f"{100 * recall:.1f}"]


@pytest.mark.parametrize("name", list(CLASSICAL))
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_filters_take_any_number_of_matches(name, count):
    filtered = CLASSICAL[name](make_record(true=count))()
    assert filtered.kept.shape == (count,)
    assert filtered.kept.dtype == bool


def test_gms_keeps_matches_that_move_together():
    rng = np.random.default_rng(0)
    record = make_record(true=3000, false=300)
    start = rng.uniform((0, 0), (1180, 860), (3000, 2))
    record.points0[:3000], record.points1[:3000] = start, start + np.array([60, 40])
    kept = CLASSICAL["gms"](record)().kept
    assert kept[:3000].mean() > 0.9
    assert kept[3000:].mean() < 0.2


def test_adalam_is_what_kornia_makes_of_the_descriptors():
    """From stored matches alone: the matches that kornia's own matcher returns."""
    feature = pytest.importorskip("kornia.feature")
    from n3match.matching import putative_matches

    rng = np.random.default_rng(1)
    n = 300
    points0 = rng.uniform((100, 100), (800, 600), (n, 2))
    angle, scale = 25.0, 1.2
    turn = Rotation.from_rotvec([0, 0, np.radians(angle)]).as_matrix()[:2, :2]
    points1 = scale * points0 @ turn.T + (200, 10) + rng.normal(0, 0.5, (n, 2))
    desc0 = rng.random((n, 32), dtype=np.float32)
    desc0 /= np.linalg.norm(desc0, axis=1, keepdims=True)
    desc1 = desc0 + rng.normal(0, 0.05, desc0.shape).astype(np.float32)
    angles0 = rng.uniform(0, 360, n)
    sizes0 = rng.uniform(3, 9, n)
    angles1, sizes1 = (angles0 + angle + rng.normal(0, 4, n)) % 360, scale * sizes0
    lost = rng.permutation(n)[: n // 2]  # of these, everything in image 1 is wrong
    points1[lost] = rng.uniform((0, 0), SIZE, (len(lost), 2))
    desc1[lost] = rng.random((len(lost), 32), dtype=np.float32)
    matches = putative_matches(points0, desc0, points1, desc1)
    record = replace(
        make_record(true=n),
        points0=matches.points0,
        points1=matches.points1,
        ratio=matches.ratio,
        mutual=matches.mutual,
        sizes_angles0=np.stack([sizes0, angles0], 1)[matches.index0],
        sizes_angles1=np.stack([sizes1, angles1], 1)[matches.index1],
    )
    kept = CLASSICAL["adalam"](record)().kept

    def lafs(points, sizes, angles):
        tensors = (torch.tensor(a, dtype=torch.float32) for a in (points, sizes, angles))
        xy, size, angle = tensors
        # OpenCV's angle is clockwise, kornia's is not.
        return feature.laf_from_center_scale_ori(
            xy[None], size.view(1, -1, 1, 1), -angle.view(1, -1, 1)
        )

    _, found = feature.match_adalam(
        torch.tensor(desc0),
        torch.tensor(desc1),
        lafs(points0, sizes0, angles0),
        lafs(points1, sizes1, angles1),
        hw1=SIZE,
        hw2=SIZE,
    )
    assert 80 < kept.sum() < 200
    expected = np.zeros(n, dtype=bool)
    expected[found[:, 0].numpy()] = True
    np.testing.assert_array_equal(kept, expected)


def test_learned_filter_keeps_what_match_logits_keeps(tmp_path):
    path = save_net(tmp_path / "net.safetensors")
    record = make_record(true=80, false=60)
    filtered = FilterSource.parse(f"mine={path}").load()(record)()
    logits = match_logits(
        record.points0, record.points1, K, K,
        side_info=np.stack([record.ratio, record.mutual], 1), filter=path,
    )
    assert 0 < filtered.kept.sum() < 140
    np.testing.assert_array_equal(filtered.kept, logits > 0)
    np.testing.assert_allclose(filtered.weights, np.maximum(np.tanh(logits), 0), atol=1e-5)


def test_a_filter_that_looks_at_second_nearest_neighbours_speaks_of_them_too(tmp_path):
    """Others see the nearest alone, in the same store."""
    record = make_record(true=90, false=60)
    known = {
        "back_ratio": np.full(150, 0.9), "apart": np.full(150, 50.0),
        "near_mutual": record.mutual, "index1": np.arange(150) % 140,
        # The last ten claim the keypoints of the first ten, in either image.
        "index0": np.r_[np.arange(140), np.arange(10)],
    }
    record = replace(record, **known).split(130)
    store = write_store(tmp_path / "s.h5", [record])
    record = PairDataset(store).record(0)
    assert len(record.xs) == 130 and len(record.second.xs) == 20
    whole = record.with_second()

    plain = save_net(tmp_path / "plain.safetensors")
    net = MatchFilter.from_pretrained(plain)
    net = MatchFilter(replace(net.config, mutual_only=True))
    net.load_state_dict(MatchFilter.from_pretrained(plain).state_dict())
    save_weights(tmp_path / "mutual.safetensors", net)
    second = MatchFilter(replace(net.config, second_nearest=True))
    second.load_state_dict(net.state_dict())
    save_weights(tmp_path / "second.safetensors", second)

    alone = FilterSource.parse(f"mine={tmp_path / 'mutual.safetensors'}").load()(record)()
    assert alone.points is None and len(alone.kept) == 130
    both = FilterSource.parse(f"mine={tmp_path / 'second.safetensors'}").load()(record)()
    np.testing.assert_array_equal(both.points[0], whole.points0)
    np.testing.assert_array_equal(both.points[1], whole.points1)
    logits = match_logits(
        whole.points0, whole.points1, K, K, filter=second.eval(),
        side_info=np.stack([whole.ratio, whole.near_mutual], 1),
    )
    assert (logits > 0).sum() > both.kept.sum() > 0
    np.testing.assert_array_equal(both.kept, one_to_one(whole.index0, whole.index1, logits))
    assert (both.weights > 0).sum() == both.kept.sum()

    rows = run(
        store, ["none", "mutual-ratio", f"mine={tmp_path / 'second.safetensors'}"],
        ["opencv_ransac"], focal_guess=True,
    )
    by_name = {row.filter: row for row in rows}
    mine, usual = by_name["mine"], by_name["mutual-ratio"]
    assert [row.matches for row in rows] == [130] * 3 and by_name["none"].kept == 130
    assert usual.kept == (record.mutual & (record.ratio < 0.9)).sum()
    assert mine.status == "ok"
    guessed = with_guessed_cameras(record)
    K_guessed = guessed.K0
    wanted = (record.second.points0 - K_guessed[:2, 2]) / K_guessed[0, 0]
    np.testing.assert_allclose(guessed.second.xs[:, :2], wanted, rtol=1e-5)
    assert np.abs(wanted - record.second.xs[:, :2]).max() > 0.01


def test_eight_point_uses_the_weights_of_the_filter(tmp_path, monkeypatch):
    """Everything kept, but wrong matches have no weight: exact. Kept alike, they ruin it."""

    def oracle(record):
        right = record.distances_squared < 1e-4
        return lambda: Filtered(np.ones_like(right), np.where(right, 0.9, 0.0))

    monkeypatch.setitem(match_filters.CLASSICAL, "oracle", oracle)
    store = write_store(tmp_path / "s.h5", [make_record(true=80, false=60)])
    all_alike, weighted = run(store, ["none", "oracle"], ["eight_point"])
    assert all_alike.kept == weighted.kept == 140
    assert weighted.error_deg < 0.01
    assert all_alike.error_deg > 5


def test_a_second_run_reads_its_results_back(tmp_path):
    store = write_store(tmp_path / "s.h5", [make_record(false=50, seed=s) for s in range(4)])
    out = tmp_path / "out"
    filters, estimators = ["ratio", "none"], ["eight_point", "opencv_ransac"]
    first = run(store, filters, estimators, out=out)
    file = out / "results.csv"
    text = file.read_bytes()
    assert run(store, filters, estimators, out=out) == first
    assert file.read_bytes() == text

    # Half of the rows lost: these alone are worked out again, to the same errors.
    lines = text.decode().splitlines(keepends=True)
    file.write_text("".join(lines[:9]), newline="")
    third = run(store, filters, estimators, out=out)
    assert third[:8] == first[:8]
    assert [timeless(r) for r in third] == [
        timeless(r) for r in first
    ]
    assert file.read_text().splitlines()[:9] == text.decode().splitlines()[:9]

    # Other filters are added beside the rows that are there.
    run(store, ["mutual"], ["eight_point"], out=out, limit=2)
    assert len(read_rows(file, PoseResult)) == 16 + 2
    assert not [p for p in out.iterdir() if p.suffix == ".tmp"]


def test_rows_made_otherwise_are_not_used_again(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s.h5", [make_record(false=50)])
    net, out = save_net(tmp_path / "net.safetensors"), tmp_path / "out"
    (before,) = run(store, [f"n={net}"], ["eight_point"], out=out)
    save_net(net, seed=1)
    (after,) = run(store, [f"n={net}"], ["eight_point"], out=out)
    assert (after.kept, after.error_deg) != (before.kept, before.error_deg)
    (seeded,) = run(store, [f"n={net}"], ["eight_point"], out=out, seed=1)
    assert seeded.settings != after.settings
    assert read_rows(out / "results.csv", PoseResult) == [seeded]


def test_a_run_that_is_stopped_keeps_what_it_has(tmp_path, monkeypatch):
    store = write_store(tmp_path / "s.h5", [make_record(seed=s) for s in range(5)])
    calls = []

    def stops(record):
        calls.append(record)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return CLASSICAL["none"](record)

    monkeypatch.setitem(match_filters.CLASSICAL, "stops", stops)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(store, ["stops"], ["eight_point"], out=out)
    assert [r.pair for r in read_rows(out / "results.csv", PoseResult)] == [0, 1]
    assert len(run(store, ["stops"], ["eight_point"], out=out)) == 5
    assert len(calls) == 3 + 3


def test_processes_give_the_same_results(tmp_path, prepared_processes):
    store = write_store(tmp_path / "s.h5", [make_record(true=40, false=20, seed=s) for s in (0, 1)])
    net = save_net(tmp_path / "net.safetensors")
    options = (["mutual", f"n={net}"], ["eight_point", "opencv_ransac"])
    alone, together = run(store, *options), run(store, *options, workers=2)
    assert [timeless(r) for r in together] == [
        timeless(r) for r in alone
    ]


def test_limit_spreads_over_all_stores(tmp_path):
    stores = [
        write_store(tmp_path / name, [make_record(true=20, seed=s) for s in range(4)])
        for name in ("a.h5", "b.h5")
    ]
    results = evaluate_pose(
        stores, filters=["none"], estimators=["eight_point"], limit=4, progress=False
    )
    assert [(r.store, r.pair) for r in results] == [
        ("a.h5", 0), ("a.h5", 2), ("b.h5", 0), ("b.h5", 2)
    ]


def test_hardest_third_has_the_smallest_shares_of_right_matches(tmp_path):
    records = [make_record(true=50, false=f) for f in (0, 80, 30, 90, 10)]
    results = run(write_store(tmp_path / "s.h5", records), ["none", "ratio"], ["eight_point"])
    hardest = hardest_third(results)
    assert {r.pair for r in hardest} == {1, 3}
    assert len(hardest) == 4
    report = make_report(results, ["none", "ratio"], ["eight_point"], hardest=True)
    assert report.startswith("5 pairs of 1 scene, ")
    assert "The third with the smallest share of right matches: 2 pairs of 1 scene, " in report
    assert "hardest" not in make_report(results, ["none", "ratio"], ["eight_point"])


def test_bootstrap_interval_is_that_of_drawn_pairs():
    rng = np.random.default_rng(3)
    hits = np.arange(60) < 40
    shares = hits[rng.integers(0, 60, (10_000, 60))].mean(1)
    expected = np.percentile(shares, (2.5, 97.5))
    assert bootstrap_interval(40, 60) == pytest.approx(expected, abs=0.018)
    assert bootstrap_interval(40, 60, seed=5) == bootstrap_interval(40, 60, seed=5)
    assert bootstrap_interval(0, 60) == (0, 0)


def test_markdown_table_lines_up():
    assert markdown_table(["a|b", "n"], [["x", 1.5], ["longer", "22"]]).splitlines() == [
        "| a\\|b   |   n |",
        "| ------ | --: |",
        "| x      | 1.5 |",
        "| longer |  22 |",
    ]
    with pytest.raises(ValueError, match="found one of 1 cells, wanted 2"):
        markdown_table(["a", "b"], [["x"]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": ["nonesuch"]}, "filters: 'nonesuch' is none of none, ratio, mutual"),
        ({"filters": ["a=nonesuch.safetensors"]}, "filters: 'a=nonesuch.safetensors' is none of"),
        ({"filters": []}, "filters: none given"),
        ({"estimators": ["lmeds"]}, "estimators: 'lmeds' is none of eight_point, opencv_ransac"),
        ({"estimators": []}, "estimators: none given"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(tmp_path, change, message):
    store = write_store(tmp_path / "s.h5", [make_record(true=20)])
    options = {"filters": ["none"], "estimators": ["eight_point"], **change}
    with pytest.raises(ValueError, match=message):
        evaluate_pose([store], **options)


def test_wrong_files_are_named(tmp_path):
    options = {"filters": ["none"], "estimators": ["eight_point"], "progress": False}
    store = write_store(tmp_path / "s.h5", [make_record(true=20)])
    with pytest.raises(FileNotFoundError, match=r"absent\.h5: no such pair store"):
        evaluate_pose([tmp_path / "absent.h5"], **options)
    text = tmp_path / "notes.txt"
    text.write_text("no store")
    with pytest.raises(ValueError, match=r"notes\.txt: not a readable HDF5 file"):
        evaluate_pose([text], **options)
    with pytest.raises(ValueError, match=r"notes\.txt holds no weights"):
        evaluate_pose([store], **{**options, "filters": [str(text)]})
    with pytest.raises(NotADirectoryError, match=r"out: .*notes\.txt is a file, wanted a folder"):
        evaluate_pose([store], **options, out=text)
    dump = tmp_path / "oanet.h5"
    with h5py.File(store) as source, h5py.File(dump, "w") as target:
        for group in ("xs", "ys", "Rs", "ts", "ratios", "mutuals"):
            source.copy(group, target)
    with pytest.raises(ValueError, match=r"oanet\.h5: has no pixels"):
        evaluate_pose([dump], **options)
    empty = write_store(tmp_path / "empty.h5", [])
    with pytest.raises(ValueError, match=r"no pairs in empty\.h5"):
        evaluate_pose([empty], **options)
    (tmp_path / "other").mkdir()
    namesake = write_store(tmp_path / "other" / "s.h5", [make_record(true=20)])
    with pytest.raises(ValueError, match=r"several are called s\.h5"):
        evaluate_pose([store, namesake], **options)
    nets = [save_net(tmp_path / f"{i}.safetensors") for i in range(2)]
    for label, named in (
        ("m", [f"m={nets[0]}", f"m={store}"]),  # a file of matches
        ("ratio", ["ratio", f"ratio={nets[0]}"]),
        ("n 2", [f"n={nets[0]}", f"n={nets[1]}", f"n 2={nets[0]}"]),
        ("n 1", [f"n={nets[0]}", f"n={nets[1]}", f"n 1={nets[0]}", f"n 1={nets[1]}"]),
    ):
        with pytest.raises(ValueError, match=f"the label '{label}' stands for several filters"):
            parse_filters(named)


def test_results_of_something_else_are_refused(tmp_path):
    store = write_store(tmp_path / "s.h5", [make_record(true=20)])
    out = tmp_path / "out"
    run(store, ["none"], ["eight_point"], out=out)
    file = out / "results.csv"
    good = list(csv.reader(file.read_text().splitlines()))
    kept = [*good[0][:-1], "other"]
    for rows, message in (
        ([kept], r"results\.csv: not results of evaluate-pose"),
        ([good[0], good[1][:-1]], r"results\.csv, line 2: "),
        ([good[0], [*good[1][:1], "x", *good[1][2:]]], r"results\.csv, line 2: .*'x'"),
    ):
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        with pytest.raises(ValueError, match=message):
            run(store, ["none"], ["eight_point"], out=out)


def test_command_prints_and_writes_the_table(tmp_path, capsys):
    store = write_store(tmp_path / "s.h5", [make_record(true=60, false=30, seed=s) for s in (0, 1)])
    out = tmp_path / "out"
    arguments = parse(
        store, "--filters", "none", "mutual-ratio", "--estimators", "opencv_ransac",
        "--out", out, "--workers", 1, "--hardest",
    )
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed == (out / "table.md").read_text()
    rows = table_rows(printed)
    assert rows["OpenCV five-point RANSAC, 1e-3 in calibrated units:", "mutual-ratio"][0] == (
        "100.0 [100, 100]"
    )
    assert len(read_rows(out / "results.csv", PoseResult)) == 4
    with pytest.raises(ValueError, match="estimators: 'none' is none of"):
        main(parse(store, "--estimators", "none"))


@pytest.fixture(params=["toy", pytest.param("chalmers7", marks=pytest.mark.slow)])
def scenes(request, tmp_path):
    """A folder of one scene, and how many of its pairs have 20 common points."""
    folder = tmp_path / "scenes"
    if request.param == "toy":
        write_scene(folder / "toy", 5)
        return folder, 10
    folder.mkdir()
    shared = request.getfixturevalue("shared_data")
    (folder / "chalmers7").symlink_to(shared / "scenes" / "dev" / "chalmers7")
    return folder, 21  # by the data's own list


def test_a_folder_of_scenes_becomes_a_store_once(tmp_path, scenes, capsys):
    folder, count = scenes
    out = tmp_path / "out"
    arguments = parse(
        folder, "--filters", "mutual-ratio", "--estimators", "opencv_usac",
        "--out", out, "--keypoints", 100, "--limit", 4, "--workers", 1,
    )
    assert main(arguments) == 0
    store = out / "scenes-100.h5"
    with h5py.File(store) as file:
        assert len(file["xs"]) == count
    made = store.stat().st_mtime_ns
    assert main(arguments) == 0
    assert store.stat().st_mtime_ns == made
    first, second = capsys.readouterr().out.split("4 pairs of 1 scene")[1:]
    assert first == second


def test_filters_may_see_a_guessed_camera(tmp_path):
    record = make_record(true=80, false=60)
    guessed = with_guessed_cameras(record)
    focal = 1.2 * max(SIZE)
    np.testing.assert_allclose(
        guessed.xs[:, 2:] * focal + (np.array(SIZE) - 1) / 2, record.points1, atol=1e-2
    )
    store = write_store(tmp_path / "s.h5", [record])
    net = str(save_net(tmp_path / "net.safetensors"))
    filters, estimators = ["mutual", f"net={net}"], ["opencv_usac"]
    known = run(store, filters, estimators, out=tmp_path / "out")
    guess = run(store, filters, estimators, out=tmp_path / "out", focal_guess=True)
    for before, after in zip(known, guess):
        assert before.settings != after.settings  # the rows of one are not taken for the other's
        assert (before.kept == after.kept) == (before.filter == "mutual")
        assert before.status == after.status == "ok"


def test_estimators_may_sample_the_best_matches_first(tmp_path, capsys):
    store = write_store(tmp_path / "s.h5", [make_record(true=80, false=60)])
    arguments = parse(
        store, "--filters", "none", "--sampling", "by_weight", "--out", tmp_path / "out",
        "--workers", 1, "--worst", 0,
    )
    assert main(arguments) == 0
    assert "best matches first (PROSAC)" in capsys.readouterr().out
    rows = read_rows(tmp_path / "out" / "results.csv", PoseResult)
    assert {row.estimator for row in rows} <= {"opencv_usac", "poselib"}  # those that can
    plain = run(store, ["none"], ["opencv_usac"], out=tmp_path / "out")
    assert plain[0].settings != rows[0].settings  # the rows of one are not taken for the other's
    with pytest.raises(ValueError, match=r"sampling: 'by_weight' is for .*, not for 'eight_point'"):
        run(store, ["none"], ["eight_point"], sampling="by_weight")


def test_weights_to_sample_by():
    record = make_record(true=20, false=10)
    everything = np.ones(30, dtype=bool)
    np.testing.assert_allclose(sampling_weights(record, Filtered(everything)), 1 - record.ratio)
    weights = np.random.default_rng(0).random(30)
    np.testing.assert_array_equal(sampling_weights(record, Filtered(everything, weights)), weights)
    own = Filtered(np.ones(4, dtype=bool), points=(np.zeros((4, 2)), np.zeros((4, 2))))
    np.testing.assert_array_equal(sampling_weights(record, own), np.ones(4))
