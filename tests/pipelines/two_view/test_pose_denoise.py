"""`n3match pose` and `match` with --denoise: the network's image is what keypoints come from."""

import json

import cv2
import h5py
import numpy as np
import pytest
from demo_photos import CAMERAS, PHOTO0, PHOTO1, write_image
from tiny_denoisers import blurring_weights, random_weights

from n3match.denoising import Denoiser, denoise
from n3match.matching import extract_sift
from n3match.pipelines.cli import main
from n3match.pipelines.two_view.photograph import read_photograph

SMALL = ["--max-size", "300", "--max-keypoints", "300"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    return random_weights(path, maps=("sigma",), sigma=(0, 75))


def run(*argv):
    return main([str(word) for word in argv])


def test_keypoints_are_those_of_the_denoised_photographs(tmp_path, weights, capsys):
    out = tmp_path / "m.h5"
    common = [PHOTO0, PHOTO1, *CAMERAS, *SMALL, "-o", out, "--denoise", weights, "--sigma", 10]
    assert run("match", *common) == 0
    assert f"denoised by {weights}" in capsys.readouterr().out
    net = Denoiser.from_pretrained(weights)
    photo = read_photograph(PHOTO0, max_size=300)
    image = denoise(photo.image, 10, weights=net)
    assert not np.array_equal(image, photo.image)
    wanted = photo.to_file(extract_sift(image, 300).keypoints.astype(np.float64))
    with h5py.File(out) as file:
        np.testing.assert_allclose(file["keypoints0"][:], wanted)
        assert file.attrs["denoised1"] == str(weights)
    assert run("match", *common[:-4]) == 0
    with h5py.File(out) as file:
        assert "denoised0" not in file.attrs
        assert not np.array_equal(file["keypoints0"][:], wanted)


def test_pose_says_that_it_denoised_and_how_long_it_took(weights, capsys):
    status = run("pose", PHOTO0, PHOTO1, *CAMERAS, *SMALL, "--json", "--denoise", weights)
    result = json.loads(capsys.readouterr().out)
    assert status in (0, 1)
    assert [image["denoised"] for image in result["images"]] == [str(weights)] * 2
    stages = ["weights", "read", "denoise", "sift", "matching", "filter", "pose"]
    assert list(result["seconds"]) == stages


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--sigma", "25"], "--denoise"),
        (["--denoise", "absent"], "absent"),
        (["--denoise", "sift"], "not a denoising network"),
        (["--denoise", "WEIGHTS", "--sigma", "200"], "0 … 75"),
        (["--denoise", "WEIGHTS", "--sigma", "x"], "sigma"),
    ],
)
def test_errors_are_one_line(weights, capsys, arguments, word):
    arguments = [str(weights) if word == "WEIGHTS" else word for word in arguments]
    assert run("pose", PHOTO0, PHOTO1, *SMALL, *arguments) == 2
    err = capsys.readouterr().err
    assert word in err and err.count("\n") == 1


def test_a_photograph_too_small_to_estimate_from_is_named(tmp_path, weights, capsys):
    photo = write_image(tmp_path / "tiny.png", np.zeros((3, 3), np.uint8))
    assert run("pose", photo, photo, "--denoise", weights) == 2
    err = capsys.readouterr().err
    assert "tiny.png" in err and "give sigma" in err
    assert run("pose", photo, photo, "--denoise", weights, "--sigma", 20) == 1


def test_noise_taken_out_brings_matches_back(tmp_path, capsys):
    """A network that blurs, made by hand, stands in for a trained one."""
    blur = blurring_weights(tmp_path / "blur.safetensors")
    rng = np.random.default_rng(0)
    photos = []
    for photo in (PHOTO0, PHOTO1):
        image = cv2.resize(cv2.imread(str(photo), 0), (384, 512), interpolation=cv2.INTER_AREA)
        noisy = np.clip(np.rint(image + rng.normal(scale=30, size=image.shape)), 0, 255)
        photos.append(write_image(tmp_path / photo.with_suffix(".png").name, noisy.astype("u1")))
    kept = []
    for more in ([], ["--denoise", blur]):
        run("pose", *photos, "--json", "--max-keypoints", 600, *more)
        kept.append(json.loads(capsys.readouterr().out)["matches"]["kept"])
    assert kept[1] > kept[0]
