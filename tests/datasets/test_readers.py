"""What the readers of RGB-D sequences, CNNet folders, pair lists and dumps choose and refuse."""

import cv2
import h5py
import numpy as np
import pytest
from layouts import (
    pair_line,
    write_cnnet,
    write_dump,
    write_pair_list,
    write_seven_scenes,
    write_sun3d,
)
from toy_scene import camera_matrix, make_record

from n3match.datasets.pairs.dump import count_dump, read_dump_record
from n3match.datasets.pairs.store import open_store
from n3match.datasets.scenes.cnnet import read_cnnet_scene
from n3match.datasets.scenes.pair_list import is_pair_list, read_pair_list
from n3match.datasets.scenes.rgbd import read_rgbd_scene
from n3match.datasets.scenes.source import ReadOptions, camera_from_world

USUAL = ReadOptions()


def ends(scene):
    return [(pair.view0, pair.view1) for pair in scene.pairs]


# RGB-D


def test_overlap_and_parallax_come_from_the_depth(tmp_path):
    scene = read_rgbd_scene(write_seven_scenes(tmp_path / "s"), "s", USUAL)
    overlap = {ends: pair.overlap for ends, pair in zip(ends(scene), scene.pairs)}
    frames = [f"frame-{i:06d}.color.png" for i in range(4)]
    near, far = overlap[frames[0], frames[1]], overlap[frames[0], frames[3]]
    assert 0.75 < near < 1 and far < near - 0.1
    # Cameras 0 and 1 are 0.26 apart, 4 from the plane.
    assert scene.pairs[0].parallax == pytest.approx(np.degrees(0.26 / 4), rel=0.1)
    limit = (near + far) / 2
    assert (frames[0], frames[3]) not in ends(
        read_rgbd_scene(tmp_path / "s", "s", ReadOptions(min_overlap=limit))
    )


def test_a_surface_in_between_hides_what_is_behind(tmp_path):
    folder = write_seven_scenes(tmp_path / "s", 2)
    cv2.imwrite(str(folder / "frame-000001.depth.png"), np.full((180, 240), 1000, np.uint16))
    assert read_rgbd_scene(folder, "s", USUAL).pairs == []
    cv2.imwrite(str(folder / "frame-000001.depth.png"), np.full((180, 240), 65535, np.uint16))
    assert read_rgbd_scene(folder, "s", USUAL).pairs == []


def test_frames_from_nearly_one_spot_are_no_pair(tmp_path):
    folder = write_seven_scenes(tmp_path / "s", 2)
    np.savetxt(folder / "frame-000001.pose.txt", _shifted(0.05))
    assert read_rgbd_scene(folder, "s", USUAL).pairs == []
    np.savetxt(folder / "frame-000001.pose.txt", _shifted(0.2))
    assert len(read_rgbd_scene(folder, "s", USUAL).pairs) == 1


def _shifted(x):
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def test_bad_frames_are_problems_and_the_rest_goes_on(tmp_path):
    folder = write_seven_scenes(tmp_path / "s", 7)
    np.savetxt(folder / "frame-000001.pose.txt", np.full((4, 4), np.nan))
    (folder / "frame-000002.pose.txt").write_text("1 2 3")
    (folder / "frame-000003.depth.png").unlink()
    cv2.imwrite(str(folder / "frame-000004.depth.png"), np.zeros((180, 240), np.uint8))
    (folder / "frame-000005.color.png").unlink()
    np.savetxt(folder / "frame-000006.pose.txt", 2 * np.eye(4))
    scene = read_rgbd_scene(folder, "s", USUAL)
    assert list(scene.views) == ["frame-000000.color.png"] and scene.pairs == []
    for problem, wanted in zip(
        scene.problems,
        [
            "frame-000001.pose.txt: found NaN or inf in a pose",
            "frame-000002.pose.txt: found 3 numbers, wanted 4 x 4",
            "frame-000003.depth.png: no such depth image",
            "frame-000004.depth.png: not a 16-bit grey image",
            "frame-000005.color.png: no such image",
            "frame-000006.pose.txt: found .*, wanted a rotation matrix",
        ],
        strict=True,
    ):
        with pytest.raises(ValueError, match=wanted):
            raise ValueError(problem)


def test_intrinsics_must_be_known(tmp_path):
    folder = write_seven_scenes(tmp_path / "s", 2)
    file = folder / "camera-intrinsics.txt"
    file.write_text("500 0 320 0 0 240 0 0 1")
    with pytest.raises(ValueError, match=r"camera-intrinsics\.txt: found intrinsics"):
        read_rgbd_scene(folder, "s", USUAL)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no intrinsics\.txt or camera-intr"):
        read_rgbd_scene(folder, "s", USUAL)
    K = camera_matrix() + np.diag([1, 1, 0])
    scene = read_rgbd_scene(folder, "s", ReadOptions(intrinsics=K))
    np.testing.assert_array_equal(scene.views["frame-000000.color.png"].K, K)


def test_sun3d_poses_must_be_one_for_each_image(tmp_path):
    folder = write_sun3d(tmp_path / "s", 3)
    next((folder / "image").iterdir()).unlink()
    with pytest.raises(ValueError, match="found 36 numbers, wanted 3 x 4 for 2 images"):
        read_rgbd_scene(folder, "s", USUAL)


def test_a_real_sequence_fits_its_own_epipolar_lines(shared_data):
    folder = shared_data / "scenes/rgbd/kitchen/dev"
    K = np.array([[525.0, 0, 320], [0, 525, 240], [0, 0, 1]])
    scene = read_rgbd_scene(folder, "kitchen", ReadOptions(intrinsics=K))
    assert len(scene.views) == 20 and scene.problems == [] and len(scene.pairs) > 50
    # The scene is a room: cameras stand some decimetres apart.
    assert 0.05 < np.median([np.linalg.norm(pair.t) for pair in scene.pairs]) < 1


# CNNet


def test_pairs_are_those_with_more_than_100_points_or_030(tmp_path):
    names = [f"images/{i}.png" for i in range(5)]
    near = [(names[i], names[j]) for i in range(5) for j in range(i + 1, 5) if j - i < 3]
    scene = read_cnnet_scene(write_cnnet(tmp_path / "a", 5), "a", USUAL)
    assert ends(scene) == near  # 160, 140, 120, but not 100
    assert [p.num_shared for p in scene.pairs][:2] == [140, 120]
    every = read_cnnet_scene(tmp_path / "a", "a", ReadOptions(min_shared=80))
    assert len(every.pairs) == 10
    scene = read_cnnet_scene(write_cnnet(tmp_path / "b", 8, shares=True), "b", USUAL)
    assert max(p.overlap for p in scene.pairs) == pytest.approx(0.7)
    assert min(p.overlap for p in scene.pairs) == pytest.approx(0.4)


def test_the_more_of_two_directions_counts(tmp_path):
    folder = write_cnnet(tmp_path / "a", 2)
    (folder / "visibility" / "0.txt").write_text("200 7")
    assert len(read_cnnet_scene(folder, "a", USUAL).pairs) == 1
    (folder / "visibility" / "1.txt").write_text("7 200")
    assert read_cnnet_scene(folder, "a", USUAL).pairs == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("K", np.zeros((3, 3)), r"calibration_1\.h5: K: found intrinsics"),
        ("K", None, r"calibration_1\.h5: K: found nothing, wanted 9 numbers"),
        ("R", np.full((3, 3), np.nan), r"calibration_1\.h5: R, T: found NaN or inf"),
        ("R", np.diag([1, 1, -1]), r"calibration_1\.h5: R, T: found .*wanted a rotation matrix"),
        ("T", np.zeros(4), r"calibration_1\.h5: T: found \(4,\), wanted 3 numbers"),
        ("T", ["a", "b", "c"], r"calibration_1\.h5: T: found type"),
        ("imsize", [[640, 480]], r"imsize is \[640.0, 480.0\], 1\.png has 240 x 180 pixels"),
    ],
)
def test_a_bad_calibration_is_a_problem_of_its_image(tmp_path, field, value, message):
    folder = write_cnnet(tmp_path / "a", 3)
    with h5py.File(folder / "calibration/calibration_1.h5", "r+") as file:
        del file[field]
        if value is not None:
            file[field] = value
    scene = read_cnnet_scene(folder, "a", USUAL)
    assert ends(scene) == [("images/0.png", "images/2.png")]
    with pytest.raises(ValueError, match=message):
        raise ValueError(*scene.problems)


def test_bad_files_of_a_cnnet_scene(tmp_path):
    folder = write_cnnet(tmp_path / "a", 4)
    calibration = folder / "calibration/calibration_0.h5"
    calibration.write_bytes(calibration.read_bytes()[:500])
    (folder / "calibration/calibration_1.h5").unlink()
    (folder / "images/2.png").unlink()
    scene = read_cnnet_scene(folder, "a", USUAL)
    assert list(scene.views) == ["images/3.png"]
    assert "calibration_0.h5: not a readable HDF5 file" in scene.problems[0]
    assert "calibration_1.h5: no such calibration file" in scene.problems[1]
    assert "2.png: no such image" in scene.problems[2]
    (folder / "visibility/2.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"2\.txt: found 3 numbers, wanted 4"):
        read_cnnet_scene(folder, "a", USUAL)
    (folder / "visibility.txt").write_text("visibility/0.txt\n")
    with pytest.raises(ValueError, match=r"visibility\.txt: found 1 lines, wanted 4"):
        read_cnnet_scene(folder, "a", USUAL)


# Pair lists


def test_bad_lines_are_problems_and_the_rest_goes_on(tmp_path):
    path = write_pair_list(tmp_path / "s", 3)
    good = pair_line(0, 1)
    words = good.split()
    lines = [
        good,
        "",
        "0.png 1.png",
        " ".join([*words[:4], "x", *words[5:]]),
        " ".join([*words[:4], "-1", *words[5:]]),
        " ".join([*words[:22], "nan", *words[23:]]),
        " ".join([*words[:22], "3", *words[23:]]),
        " ".join([*words[:2], "4", *words[3:]]),
        good.replace("1.png", "0.png"),
        good.replace(" ".join(words[22:]), " ".join(map(str, np.eye(4).ravel()))),
        pair_line(0, 2),
    ]
    path.write_text("\n".join(lines))
    scene = read_pair_list(path, "s", USUAL)
    assert ends(scene) == [("0.png", "1.png"), ("0.png", "2.png")]
    for problem, wanted in zip(
        scene.problems,
        [
            "line 3: found 2 words, wanted 38",
            "line 4: .*wanted numbers",
            "line 5: K0: found intrinsics",
            "line 6: T_0to1: found NaN or inf",
            "line 7: T_0to1: found .* wanted a rotation",
            r"line 8: found rotations \[4, 1\]",
            "line 9: found '0.png' twice",
            "line 10: T_0to1: found no translation",
        ],
        strict=True,
    ):
        with pytest.raises(ValueError, match=wanted):
            raise ValueError(problem)


def test_other_intrinsics_of_a_photograph_make_another_view(tmp_path):
    path = write_pair_list(tmp_path / "s", 3)
    K = camera_matrix() * [[2], [2], [1]]
    path.write_text("\n".join([pair_line(0, 1), pair_line(0, 2), pair_line(0, 1, K1=K)]))
    scene = read_pair_list(path, "s", ReadOptions(image_root=tmp_path / "photos"))
    assert list(scene.views) == ["0.png", "1.png", "2.png", "1.png#2"]
    np.testing.assert_array_equal(scene.views["1.png#2"].K, K)
    assert scene.views["1.png#2"].path == tmp_path / "photos" / "1.png"


def test_a_pair_list_as_written_for_scannet(tmp_path):
    """Numbers padded to a width, without digits behind the point where there are none, matrices
    rounded to five decimals: rotations are then right to 1e-5 only, and made exact."""
    T = np.array(pair_line(0, 1).split()[-16:], float).reshape(4, 4)
    K = np.array([[1163.45, 0, 653.626], [0, 1164.79, 481.6], [0, 0, 1]])
    numbers = " ".join(f"{np.format_float_positional(x, 5):9}" for x in [*K.ravel()] * 2)
    pose = " ".join(f"{np.format_float_positional(x, 5):>8}" for x in T.ravel())
    path = tmp_path / "pairs_with_gt.txt"
    path.write_text(f"scene_00_frame-001680.jpg scene_00_frame-001995.jpg 0 3 {numbers} {pose}\n")
    assert is_pair_list(path)
    scene = read_pair_list(path, "s", USUAL)
    assert not scene.problems
    (pair,) = scene.pairs
    np.testing.assert_array_equal(scene.views[pair.view0].K, K)
    np.testing.assert_allclose(pair.R, T[:3, :3], atol=2e-5)
    np.testing.assert_allclose(pair.R @ pair.R.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pair.t, T[:3, 3], atol=1e-5)


def test_a_pair_list_is_told_by_its_first_line(tmp_path):
    path = tmp_path / "list"
    for content, answer in (
        ("\n" + pair_line(0, 1), True),
        ("0.png 1.png 0 0", False),
        ("a b " + "c " * 36, False),
        ("", False),
    ):
        path.write_text(content)
        assert is_pair_list(path) == answer
    path.write_bytes(b"\x89HDF\r\n\xff\xfe")
    assert not is_pair_list(path) and not is_pair_list(tmp_path)


# Dumps


def dump_of(path, **changes):
    record = make_record(3)
    pair = {
        "x": record.xs, "R": record.R, "t": record.t, "K0": record.K0, "K1": record.K1,
        "ratio": record.ratio, "mutual": record.mutual,
    }  # fmt: skip
    return write_dump(path, [pair, {**pair, **changes}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"R": np.full((3, 3), np.nan)}, "Rs/1: found NaN or inf"),
        ({"R": 2 * np.eye(3)}, "Rs/1, ts/1: found .*wanted a rotation"),
        ({"t": np.zeros(3)}, "ts/1: found a zero vector"),
        ({"K1": np.diag([-5.0, 5, 1])}, "f2s/1: found intrinsics"),
        ({"ratio": np.full(5, 1.5)}, r"ratios/1: found numbers outside \[0, 1\]"),
        ({"mutual": np.zeros(4)}, "mutuals/1: found shape"),
    ],
)
def test_a_bad_pair_of_a_dump_is_refused_by_field(tmp_path, changes, message):
    path = dump_of(tmp_path / "dump.h5", **changes)
    assert count_dump(path) == 2
    with open_store(path) as file:
        assert len(read_dump_record(file, 0, "d").xs) == 5
        with pytest.raises(ValueError, match=rf"dump\.h5: {message}"):
            read_dump_record(file, 1, "d")


def test_a_dump_without_intrinsics_is_refused(tmp_path):
    path = dump_of(tmp_path / "dump.h5")
    with h5py.File(path, "r+") as file:
        del file["f2s"]
    with pytest.raises(ValueError, match=r"dump\.h5: has no group 'f2s', wanted the intrinsics"):
        count_dump(path)


def test_a_pose_that_a_text_file_rounded_is_made_exact():
    R = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    matrix = np.column_stack([R + 1e-5, [1, 2, 3]])
    found, t = camera_from_world(matrix, "here")
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(-found.T @ t, [1, 2, 3], atol=1e-12)
