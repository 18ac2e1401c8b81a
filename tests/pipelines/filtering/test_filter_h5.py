"""`n3match filter-h5`: layout, cameras, side information, kills, wrong use."""

import os

import h5py
import numpy as np
import pytest
from hloc_files import NAMES, write_hloc
from killed import die_before, die_in_record, run_until_killed
from putative_scenes import K0, K1, SIZE0, SIZE1

from n3match.pipelines.cli import main
from n3match.pipelines.common.progress_log import ProgressLog
from n3match.pipelines.filtering import hloc_files
from n3match.weights.verdict import ESSENTIAL, FUNDAMENTAL, shipped_verdict

GROUPS = ["/".join(name.replace("/", "-") for name in names) for names in NAMES]


def run(*argv) -> int:
    return main(["filter-h5", *map(str, argv)])


def arrays(path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Group) and "matches0" in item:
            found[name] = item["matches0"][()], item["matching_scores0"][()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def error_of(capsys, *argv) -> str:
    assert run(*argv) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def hloc(tmp_path_factory):
    return write_hloc(tmp_path_factory.mktemp("hloc"))


@pytest.fixture(scope="module")
def filtered(hloc, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "filtered.h5"
    assert run(hloc[0], hloc[1], out) == 0
    return arrays(out)


def test_keeps_mostly_right_matches_in_hlocs_layout(hloc, filtered):
    assert sorted(filtered) == sorted(GROUPS)
    for group, scene in zip(GROUPS, hloc[2]):
        matches0, probability = filtered[group]
        assert matches0.dtype == np.int16 and probability.dtype == np.float16
        kept = matches0 >= 0
        np.testing.assert_array_equal(matches0[kept], np.flatnonzero(kept))
        assert (matches0[~kept] == -1).all() and (probability[~kept] == 0).all()
        assert (probability[kept] >= 0.5).all() and (probability <= 1).all()
        assert scene.right[kept].mean() > 0.7
        assert scene.right[kept].sum() > 0.6 * scene.right.sum()


def test_old_separator_gives_the_same(hloc, filtered, tmp_path):
    features, matches, _ = write_hloc(tmp_path, joint="_")
    assert run(features, matches, tmp_path / "out.h5") == 0
    found = arrays(tmp_path / "out.h5")
    for group, names in zip(GROUPS, NAMES):
        old = "_".join(name.replace("/", "-") for name in names)
        np.testing.assert_array_equal(found[old][0], filtered[group][0])


def test_pairs_list_in_either_order(hloc, filtered, tmp_path):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"{NAMES[1][1]} {NAMES[1][0]}\n{NAMES[0][0]} {NAMES[0][1]}\n")
    assert run(hloc[0], hloc[1], tmp_path / "out.h5", "--pairs", pairs) == 0
    found = arrays(tmp_path / "out.h5")
    assert sorted(found) == sorted(GROUPS[:2])
    np.testing.assert_array_equal(found[GROUPS[1]][0], filtered[GROUPS[1]][0])


def test_a_pair_that_the_file_lacks_is_named(hloc, tmp_path, capsys):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"{NAMES[0][0]} {NAMES[1][0]}\n")
    line = error_of(capsys, hloc[0], hloc[1], tmp_path / "out.h5", "--pairs", pairs)
    assert "matches.h5: lacks the pair db/a_1.jpg, db/a_2.jpg" in line
    assert not (tmp_path / "out.h5").exists()


def intrinsics_list(path, shift=0.5, size0=SIZE0):
    lines = []
    for name0, name1 in NAMES:
        for name, K, size in ((name0, K0, size0), (name1, K1, SIZE1)):
            fx, cx, cy = K[0, 0], K[0, 2] + shift, K[1, 2] + shift
            lines.append(f"{name} SIMPLE_PINHOLE {size[0]} {size[1]} {fx} {cx} {cy}")
    path.write_text("\n".join(lines))
    return path


def test_cameras_of_a_list_are_in_colmaps_pixels(hloc, tmp_path, monkeypatch, capsys):
    seen = {}
    read = hloc_files.calibrated_keypoints

    def spy(name, keypoints, camera):
        seen[name] = camera.K
        return read(name, keypoints, camera)

    monkeypatch.setattr(hloc_files, "calibrated_keypoints", spy)
    cameras = intrinsics_list(tmp_path / "cameras.txt")
    assert run(hloc[0], hloc[1], tmp_path / "out.h5", "--intrinsics", cameras) == 0
    assert "6 from the intrinsics list" in capsys.readouterr().out
    for name0, name1 in NAMES:
        np.testing.assert_allclose(seen[name0], K0)
        np.testing.assert_allclose(seen[name1], K1)


def test_only_the_pairs_of_a_panorama_are_left_as_they_are_and_named(
    hloc, filtered, tmp_path, capsys
):
    cameras = tmp_path / "cameras.txt"
    cameras.write_text(f"{NAMES[1][0]} EQUIRECTANGULAR {SIZE0[0]} {SIZE0[1]} 1024 768\n")
    assert run(hloc[0], hloc[1], tmp_path / "out.h5", "--intrinsics", cameras) == 0
    out = capsys.readouterr().out
    assert f"1 of 3 pairs, left as they are: of {NAMES[1][0]}" in out and "EQUIRECTANGULAR" in out
    found = arrays(tmp_path / "out.h5")
    np.testing.assert_array_equal(found[GROUPS[1]][0], arrays(hloc[1])[GROUPS[1]][0])
    np.testing.assert_array_equal(found[GROUPS[0]][0], filtered[GROUPS[0]][0])
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"{NAMES[1][0]} {NAMES[1][1]}\n")
    argv = hloc[0], hloc[1], tmp_path / "one.h5", "--intrinsics", cameras, "--pairs", pairs
    assert "no pair that can be filtered" in error_of(capsys, *argv)


def test_no_keypoint_of_image_1_is_matched_twice(hloc, tmp_path):
    features, matches, _ = write_hloc(tmp_path)
    with h5py.File(matches, "r+") as file:
        found = file[GROUPS[0]]["matches0"]
        twice = found[()]
        twice[1::6] = twice[::6][: len(twice[1::6])]
        found[...] = twice
    assert run(features, matches, tmp_path / "out.h5") == 0
    kept = arrays(tmp_path / "out.h5")[GROUPS[0]][0]
    assert (kept[::6] >= 0).any() or (kept[1::6] >= 0).any()
    kept = kept[kept >= 0]
    assert len(kept) > 5 and len(np.unique(kept)) == len(kept)


def test_what_was_assumed_is_said(hloc, tmp_path, capsys):
    assert run(hloc[0], hloc[1], tmp_path / "out.h5") == 0
    out = capsys.readouterr().out
    assert "cameras    6 assumed (focal length 1.2 × the longer side)" in out
    assert "3 pairs without" in out


def test_camera_of_another_image_size_is_told(hloc, tmp_path, capsys):
    cameras = intrinsics_list(tmp_path / "cameras.txt", size0=(512, 384))
    line = error_of(capsys, hloc[0], hloc[1], tmp_path / "o.h5", "--intrinsics", cameras)
    assert "1024 x 768" in line and "512 x 384" in line


def test_keypoints_beyond_the_image_are_told(tmp_path, capsys):
    features, matches, _ = write_hloc(tmp_path, names=NAMES[:1])
    with h5py.File(features, "a") as file:
        file[NAMES[0][0]]["image_size"][...] = [512, 384]
    line = error_of(capsys, features, matches, tmp_path / "out.h5")
    assert NAMES[0][0] in line and "keypoints of another image size?" in line


def test_side_information_comes_from_sift_descriptors_alone(tmp_path, capsys):
    features, matches, scenes = write_hloc(tmp_path, names=NAMES[:1])
    rng = np.random.default_rng(0)
    base = rng.random((128, len(scenes[0].right)))
    noise = np.where(scenes[0].right, 0.02, 0.3) * rng.random(base.shape)
    with h5py.File(features, "a") as file:
        for name, array in zip(NAMES[0], (base, base + noise)):
            file[name]["descriptors"] = array.astype(np.float16)
            file[name]["scales"] = np.full(array.shape[1], 3.0)
            file[name]["oris"] = np.full(array.shape[1], -20.0)
    assert run(features, matches, tmp_path / "a.h5") == 0
    assert "1 pairs with side information" in capsys.readouterr().out
    assert run(features, matches, tmp_path / "b.h5", "--no-descriptors") == 0
    assert "1 pairs without" in capsys.readouterr().out

    def right(path):
        return scenes[0].right[arrays(tmp_path / path)[GROUPS[0]][0] >= 0]

    assert right("a.h5").mean() >= right("b.h5").mean()
    told, untold = (arrays(tmp_path / path)[GROUPS[0]][1] for path in ("a.h5", "b.h5"))
    assert not np.array_equal(told, untold)
    with h5py.File(features, "a") as file:  # as learned descriptors are: of both signs
        for name in NAMES[0]:
            file[name]["descriptors"][...] -= 0.5
    assert run(features, matches, tmp_path / "c.h5") == 0
    assert "1 pairs without" in capsys.readouterr().out


@pytest.mark.parametrize(
    "die",
    [die_in_record(0), die_in_record(2), die_before(hloc_files, "_write"),
     die_before(os, "replace"), die_before(ProgressLog, "remove")],
    ids=["first record", "third record", "writing the result", "before renaming", "after it"],
)
def test_goes_on_after_sigkill_and_gives_the_same(hloc, filtered, tmp_path, capsys, die):
    out = tmp_path / "out.h5"
    run_until_killed(lambda: run(hloc[0], hloc[1], out), die)
    assert (tmp_path / "out.h5.part").exists()
    capsys.readouterr()
    assert run(hloc[0], hloc[1], out) == 0
    said = capsys.readouterr().out
    assert "begun anew" not in said
    found = arrays(out)
    for group in GROUPS:
        for got, wanted in zip(found[group], filtered[group]):
            np.testing.assert_array_equal(got, wanted)
    assert os.listdir(tmp_path) == ["out.h5"]


def test_done_pairs_are_not_done_again(hloc, tmp_path, capsys):
    out = tmp_path / "out.h5"
    run_until_killed(lambda: run(hloc[0], hloc[1], out), die_in_record(2))
    capsys.readouterr()
    assert run(hloc[0], hloc[1], out) == 0
    assert "3, 2 of them done before" in capsys.readouterr().out


def test_results_of_other_options_are_not_taken(hloc, tmp_path, capsys):
    out = tmp_path / "out.h5"
    run_until_killed(lambda: run(hloc[0], hloc[1], out), die_in_record(2))
    capsys.readouterr()
    assert run(hloc[0], hloc[1], out, "--no-descriptors") == 0
    said = capsys.readouterr().out
    assert "begun anew" in said and "done before" not in said


def test_two_runs_at_once_are_refused(hloc, tmp_path, capsys):
    with ProgressLog(tmp_path / "out.h5.part", {}):
        assert "in use" in error_of(capsys, hloc[0], hloc[1], tmp_path / "out.h5")


def test_matches_past_the_keypoints_are_told(tmp_path, capsys):
    features, matches, _ = write_hloc(tmp_path, names=NAMES[:1])
    with h5py.File(matches, "a") as file:
        file[GROUPS[0]]["matches0"][3] = 360
    line = error_of(capsys, features, matches, tmp_path / "out.h5")
    assert f"{GROUPS[0]}/matches0: an index of 360, but image 1 has 360 keypoints" in line


def test_matches_of_other_keypoints_are_told(tmp_path, capsys):
    features, matches, _ = write_hloc(tmp_path, names=NAMES[:1])
    with h5py.File(features, "a") as file:
        keypoints = file[NAMES[0][0]]["keypoints"][:-5]
        del file[NAMES[0][0]]["keypoints"]
        file[NAMES[0][0]]["keypoints"] = keypoints
    line = error_of(capsys, features, matches, tmp_path / "out.h5")
    assert "found 360 entries, but image 0 has 355 keypoints" in line


def test_group_of_unknown_images_is_named(hloc, tmp_path, capsys):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x.jpg/y.jpg/matches0"] = np.zeros(3, np.int16)
    assert "x.jpg/y.jpg" in error_of(capsys, hloc[0], tmp_path / "m.h5", tmp_path / "out.h5")


def test_files_that_are_not_hlocs_are_named(hloc, tmp_path, capsys):
    (tmp_path / "text.h5").write_text("nothing of the kind")
    assert "text.h5" in error_of(capsys, hloc[0], tmp_path / "text.h5", tmp_path / "out.h5")
    assert "absent.h5" in error_of(capsys, tmp_path / "absent.h5", hloc[1], tmp_path / "out.h5")
    assert "is an input" in error_of(capsys, hloc[0], hloc[1], hloc[1])
    assert "holds no pairs" in error_of(capsys, hloc[0], hloc[0], tmp_path / "out.h5")


def test_empty_pair_stays_empty(tmp_path):
    features, matches, _ = write_hloc(tmp_path, names=NAMES[:1])
    with h5py.File(matches, "a") as file:
        file[GROUPS[0]]["matches0"][...] = -1
    assert run(features, matches, tmp_path / "out.h5") == 0
    assert (arrays(tmp_path / "out.h5")[GROUPS[0]][0] == -1).all()


def test_pairs_that_are_not_real_are_left_out_and_listed(hloc, filtered, tmp_path, capsys):
    out, listed = tmp_path / "out.h5", tmp_path / "out.h5.left_out.txt"
    assert run(hloc[0], hloc[1], out, "--min-pair-probability", "1") == 0
    assert f"left out   {len(GROUPS)} of {len(GROUPS)} pairs" in capsys.readouterr().out
    assert all((matches0 == -1).all() for matches0, _ in arrays(out).values())
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert {(name0, name1) for name0, name1, *_ in lines} == {*NAMES}
    for _, _, real, matches in lines:
        assert 0.5 < float(real) < 1 and int(matches) > 50
    for least in ("0", None):
        options = [] if least is None else ["--min-pair-probability", least]
        assert run(hloc[0], hloc[1], out, *options) == 0
        assert not listed.exists()
        for group, (matches0, _) in arrays(out).items():
            np.testing.assert_array_equal(matches0, filtered[group][0])
    assert "wanted a number from 0 to 1, got '2'" in error_of(
        capsys, hloc[0], hloc[1], out, "--min-pair-probability", "2"
    )


def test_each_pair_has_the_threshold_of_its_own_geometry(hloc, tmp_path, monkeypatch, capsys):
    threshold = shipped_verdict().threshold
    between = (threshold[ESSENTIAL] + threshold[FUNDAMENTAL]) / 2
    monkeypatch.setattr(hloc_files, "two_view_geometry", lambda *_: (None, between))
    out, cameras = tmp_path / "out.h5", intrinsics_list(tmp_path / "cameras.txt")
    cameras.write_text("\n".join(cameras.read_text().splitlines()[:2]))  # of the first pair
    assert run(hloc[0], hloc[1], out, "--intrinsics", cameras) == 0
    told = capsys.readouterr().out
    assert f"below {threshold[ESSENTIAL]:g}, or {threshold[FUNDAMENTAL]:g} where a focal" in told
    kept = [group for group, (matches0, _) in arrays(out).items() if (matches0 >= 0).any()]
    assert kept == GROUPS[:1]
    assert run(hloc[0], hloc[1], out) == 0
    told = capsys.readouterr().out
    assert f"{len(GROUPS)} of {len(GROUPS)} pairs" in told
    assert f"below {threshold[FUNDAMENTAL]:g}:" in told
