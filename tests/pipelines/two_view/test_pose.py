"""`n3match pose` end to end, and the photographs it reads."""

import json

import cv2
import numpy as np
import pytest
from demo_photos import (
    CAMERAS,
    PHOTO0,
    PHOTO1,
    R,
    T,
    blank,
    intrinsics,
    run_command,
    write_image,
)
from PIL import ExifTags, Image

from n3match.geometry import pose_error_deg, rotation_error_deg
from n3match.pipelines.cli import main
from n3match.pipelines.two_view.photograph import read_photograph


def run_json(capsys, *argv) -> tuple[int, dict]:
    status = main(["pose", *(str(word) for word in argv), "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    return status, json.loads(out)


def error_deg(result: dict) -> float:
    return float(pose_error_deg(np.array(result["R"]), np.array(result["t"]), R, T))


def test_command_prints_the_pose_and_draws_the_matches(tmp_path):
    picture = tmp_path / "picture.png"
    done = run_command(
        "pose", PHOTO0, PHOTO1, *CAMERAS, "--max-keypoints", 1000, "--plot", picture, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "image", "image", "matches", "pair", "status", "R", "t", "seconds", "picture"
    ]
    assert "status     ok (estimator" in done.stdout
    for stage in ("weights", "read", "sift", "matching", "filter", "pose", "plot"):
        assert f"{stage} " in lines[-2]
    assert cv2.imread(str(picture)).shape[1] == 1200


def test_json_holds_a_pose_close_to_the_known_one(capsys):
    status, result = run_json(capsys, PHOTO0, PHOTO1, *CAMERAS, "--distortion0",
                              "-0.038,0,0,0", "--distortion1", "-0.038,0,0,0")
    assert (status, result["status"]) == (0, "ok")
    assert error_deg(result) < 5
    rotation, t = np.array(result["R"]), np.array(result["t"])
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.norm(t) == pytest.approx(1)
    skew = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    E = np.array(result["E"])
    np.testing.assert_allclose(E / np.linalg.norm(E), skew @ rotation / 2**0.5, atol=1e-9)
    matches = result["matches"]
    assert 4000 >= matches["found"] > 2000 > matches["kept"] >= matches["inliers"] >= 20
    assert [image["intrinsics"] for image in result["images"]] == ["given", "given"]
    assert result["images"][0]["distortion"] == [-0.038, 0, 0, 0]
    assert 0.9 < result["pair_probability"] < 1
    assert list(result["seconds"]) == ["weights", "read", "sift", "matching", "filter", "pose"]


def test_same_seed_same_result(capsys):
    argv = (PHOTO0, PHOTO1, *CAMERAS, "--max-keypoints", 600, "--seed", 3)
    first, second = run_json(capsys, *argv), run_json(capsys, *argv)
    for _, result in (first, second):
        del result["seconds"]
        assert result["matches"]["found"] <= 600
        assert result["seed"] == 3
    assert first == second


@pytest.mark.parametrize("estimator", ["opencv_usac", "opencv_ransac"])
def test_estimator_is_the_one_asked_for(capsys, estimator):
    status, result = run_json(capsys, PHOTO0, PHOTO1, *CAMERAS, "--estimator", estimator)
    assert (status, result["estimator"]) == (0, estimator)
    assert error_deg(result) < 15


def test_without_filter_all_matches_go_to_the_estimator(capsys):
    argv = (PHOTO0, PHOTO1, *CAMERAS, "--max-keypoints", 500, "--filter", "none")
    _, result = run_json(capsys, *argv, "--estimator", "opencv_ransac")
    assert result["matches"]["kept"] == result["matches"]["found"] > 0
    assert "filter" not in result["seconds"]


def test_two_cameras_of_different_size(capsys, tmp_path):
    # Image 1 from a camera with fewer pixels: same pose, its own K.
    scale = 0.625
    small = cv2.resize(cv2.imread(str(PHOTO1)), (480, 640), interpolation=cv2.INTER_AREA)
    photo1 = write_image(tmp_path / "small.png", small)
    status, result = run_json(
        capsys, PHOTO0, photo1, "--intrinsics0", intrinsics(), "--intrinsics1", intrinsics(scale)
    )
    assert status == 0
    assert error_deg(result) < 5
    assert (result["images"][1]["width"], result["images"][1]["height"]) == (480, 640)


def test_large_photographs_are_reduced_and_told_so(capsys):
    status, result = run_json(capsys, PHOTO0, PHOTO1, *CAMERAS, "--max-size", 800)
    assert status == 0
    assert error_deg(result) < 5
    for image in result["images"]:  # the file's size and camera, not the reduced one's
        assert (image["width"], image["height"]) == (768, 1024)
        np.testing.assert_allclose(image["K"][0], [840.623698, 0, 383.5])
    main(["pose", str(PHOTO0), str(PHOTO1), "--max-size", "400", "--max-keypoints", "50"])
    assert capsys.readouterr().out.count("matched at 300 × 400") == 2


def test_blank_photographs_are_an_ordinary_result(capsys, tmp_path):
    photo = blank(tmp_path / "blank.png")
    status, result = run_json(capsys, photo, photo)
    assert (status, result["status"]) == (1, "too_few_matches")
    assert result["R"] is result["t"] is result["E"] is None
    assert result["matches"] == {"found": 0, "kept": 0, "inliers": 0}
    assert main(["pose", str(photo), str(PHOTO1), "--plot", str(tmp_path / "p.png")]) == 1
    out = capsys.readouterr().out
    assert "status     too_few_matches" in out and "\nR" not in out
    assert (tmp_path / "p.png").stat().st_size > 0


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 200), (12, 12)])
def test_tiny_photographs_give_too_few_matches(capsys, tmp_path, shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    photo = write_image(tmp_path / "tiny.png", noise)
    for pair in ((photo, photo), (photo, PHOTO1), (PHOTO0, photo)):
        status, result = run_json(capsys, *pair, "--max-keypoints", 200)
        assert status == 1
        assert result["status"] in ("too_few_matches", "degenerate")
        assert result["t"] is None


def test_identical_photographs_have_no_parallax(capsys):
    status, result = run_json(capsys, PHOTO0, PHOTO0, *CAMERAS, "--max-keypoints", 800)
    assert (status, result["status"]) == (1, "no_parallax")
    assert result["t"] is result["E"] is None
    assert float(rotation_error_deg(np.array(result["R"]), np.eye(3))) < 0.1


def test_unrelated_photographs_give_no_confident_pose(capsys, tmp_path):
    rng = np.random.default_rng(0)
    photos = []
    for i in (0, 1):  # soft random texture: many keypoints, no common scene
        noise = cv2.GaussianBlur(rng.normal(size=(400, 500)), (0, 0), 3)
        image = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
        photos.append(write_image(tmp_path / f"noise{i}.png", image))
    status, result = run_json(capsys, *photos, "--max-keypoints", 500)
    assert result["matches"]["found"] > 300
    assert status == 1
    assert result["t"] is None


def save_with_exif(path, size, tags):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif).update(tags)
    Image.new("L", size, 127).save(path, exif=exif)
    return path


def test_camera_is_from_exif_where_not_given_else_assumed(capsys, tmp_path):
    told = save_with_exif(
        tmp_path / "told.jpg", (600, 400), {ExifTags.Base.FocalLengthIn35mmFilm: 36}
    )
    silent = blank(tmp_path / "silent.png", height=400, width=500)
    _, result = run_json(capsys, told, silent)
    assert [image["intrinsics"] for image in result["images"]] == ["exif", "assumed"]
    # A 36 mm lens on 36 mm × 24 mm film, of the photograph's shape: as long as it is wide.
    np.testing.assert_allclose(result["images"][0]["K"], [[600, 0, 299.5], [0, 600, 199.5],
                                                          [0, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(result["images"][1]["K"], [[600, 0, 249.5], [0, 600, 199.5],
                                                          [0, 0, 1]])
    _, result = run_json(capsys, told, silent, "--intrinsics0", "700,710,300,200")
    assert result["images"][0]["intrinsics"] == "given"
    assert result["images"][0]["K"] == [[700, 0, 300], [0, 710, 200], [0, 0, 1]]
    main(["pose", str(told), str(silent)])
    out = capsys.readouterr().out
    assert "600.0 px (from EXIF)" in out and "(assumed: 1.2 × the longer side)" in out


def test_reduced_photograph_keeps_rays_and_file_coordinates():
    K = np.array([[900.0, 0, 380], [0, 910, 500], [0, 0, 1]])
    full = read_photograph(PHOTO0, K=K)
    half = read_photograph(PHOTO0, K=K, max_size=333)
    assert half.image.shape == (333, 250)
    np.testing.assert_allclose(half.file_K, K)
    assert half.size == full.size == (768, 1024)
    # The corners of the picture, half a pixel outside the centres of its corner pixels.
    corners = np.array([[-0.5, -0.5], [249.5, 332.5]])
    np.testing.assert_allclose(half.to_file(corners), [[-0.5, -0.5], [767.5, 1023.5]])
    points = np.array([[10.0, 20.0], [200.0, 300.0]])
    homogeneous = np.column_stack((points, np.ones(2)))
    rays = np.linalg.solve(half.K, homogeneous.T)
    file_rays = np.linalg.solve(K, np.column_stack((half.to_file(points), np.ones(2))).T)
    np.testing.assert_allclose(rays, file_rays)
