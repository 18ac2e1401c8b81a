"""Evaluation on raw noise: its variance, the transform for methods of white noise, BM3D."""

import csv
import importlib.util
import sys
import types

import cv2
import numpy as np
import pytest
from tiny_denoisers import blurring_weights, random_weights

from n3match.denoising import Denoiser, denoise_raw
from n3match.pipelines.cli import main
from n3match.pipelines.denoising.denoise_evaluation import psnr
from n3match.pipelines.denoising.evaluation_noise import RawNoise
from n3match.pipelines.denoising.methods import CLASSICAL, stabilised


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clean"
    path.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (45, 36)), ("b.png", (30, 40, 3))):
        smooth = cv2.GaussianBlur(rng.random(size), (0, 0), 3)
        smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
        cv2.imwrite(str(path / name), np.rint(smooth).astype(np.uint8))
    return path


def run(*arguments):
    return main(["evaluate-denoise", *map(str, arguments)])


def figures(out):
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["image"], r["noise"], r["method"]): float(r["psnr"]) for r in rows}


def test_noise_has_its_variance_and_clean_images_don_t_depend_on_it():
    image = np.full((400, 301), 230, np.uint8)
    clean, noisy = RawNoise(0.003, 1e-4, False).pair(image, 2)
    assert clean.shape == noisy.shape == (400, 301) and clean.dtype == noisy.dtype == np.float32
    assert np.ptp(clean) == 0 and 0 < clean[0, 0] < 0.9
    wanted = 0.003 * clean[0, 0] + 1e-4
    assert (noisy - clean).var() == pytest.approx(wanted, rel=0.03)
    other, noisier = RawNoise(0.01, 1e-4, False).pair(image, 2)
    assert np.array_equal(other, clean) and not np.array_equal(noisier, noisy)
    assert not np.array_equal(RawNoise(0.003, 1e-4, False).pair(image, 3)[0], clean)
    planes, _ = RawNoise(0.003, 1e-4, True).pair(np.full((51, 40, 3), 230, np.uint8), 0)
    assert planes.shape == (25, 20, 4)
    assert planes[0, 0, 0] < planes[0, 0, 1] == planes[0, 0, 2] > planes[0, 0, 3]


@pytest.mark.parametrize(("a", "b"), [(3e-4, 1e-6), (0.01, 1e-3), (0.05, 1e-5)])
def test_transform_makes_the_noise_white_and_comes_back_without_bias(a, b):
    rng = np.random.default_rng(0)
    found = []

    def method(noisy, sigma):
        found.append(noisy.std() / (sigma / 255))
        return np.full_like(noisy, noisy.mean())

    for x in (0.2, 0.5, 0.9):
        photons = rng.poisson(x / a, (300, 300)) * a
        noisy = photons + rng.normal(scale=b**0.5, size=photons.shape)
        back = stabilised(method, noisy.astype(np.float32), a, b)
        assert back[0, 0] == pytest.approx(x, rel=0.01)
    assert found == pytest.approx([1.0] * 3, rel=0.03)
    dark = stabilised(method, np.zeros((4, 4), np.float32), a, b)
    assert np.isfinite(dark).all() and (dark >= 0).all()


def test_command_on_grey_noise(folder, tmp_path, capsys):
    raw = random_weights(tmp_path / "raw.safetensors", maps=("a", "b"))
    blind = blurring_weights(tmp_path / "blind.safetensors", maps=("sigma",), sigma=(0, 75))
    out = tmp_path / "out"
    assert run(
        folder, "--noise", "raw", "--levels", "0.01,1e-4", "0.03,0.001", "--methods", "noisy",
        "cv2-nlm", "--weights", raw, blind, "--out", out,
    ) == 0
    assert "PSNR a 0.01 b 0.0001" in capsys.readouterr().out
    found = figures(out)
    assert len(found) == 2 * 2 * 4
    net = Denoiser.from_pretrained(raw)
    image = cv2.imread(str(folder / "a.png"), 0)
    for noise in (RawNoise(0.01, 1e-4, False), RawNoise(0.03, 1e-3, False)):
        clean, noisy = noise.pair(image, 0)
        assert found["a.png", noise.label, "noisy"] == pytest.approx(psnr(noisy, clean), abs=1e-4)
        done = denoise_raw(noisy, noise.a, noise.b, weights=net)
        assert found["a.png", noise.label, "raw"] == pytest.approx(psnr(done, clean), abs=1e-4)
    for name in ("a.png", "b.png"):
        for method in ("cv2-nlm", "blind"):
            assert found[name, "0.03,0.001", method] > found[name, "0.03,0.001", "noisy"] + 1


def test_command_on_bayer_planes(folder, tmp_path):
    raw = random_weights(tmp_path / "raw.safetensors", maps=("a", "b"), channels=4)
    out = tmp_path / "out"
    assert run(
        folder, "--noise", "bayer", "--levels", "0.05,0.001", "--methods", "noisy", "cv2-nlm",
        "--weights", raw, "--out", out,
    ) == 0
    found = figures(out)
    assert {method for *_, method in found} == {"noisy", "cv2-nlm", "raw"}
    # The other image is so dark that 8 bits are too few for it.
    assert found["b.png", "0.05,0.001", "cv2-nlm"] > found["b.png", "0.05,0.001", "noisy"] + 1


def test_errors_are_one_line(folder, tmp_path, capsys):
    single = random_weights(tmp_path / "n25.safetensors", sigma=(25, 25))
    for arguments, word in (
        (["--levels", "0.1,0.1"], "--levels"),
        (["--noise", "raw", "--levels", "0,0.1"], "levels"),
        (["--noise", "raw", "--levels", "0.1"], "levels"),
        (["--noise", "raw", "--sigma", "25"], "--sigma"),
        (["--noise", "bayer", "--colour"], "--colour"),
        (["--noise", "raw", "--weights", single], "for one σ"),
    ):
        assert run(folder, "--methods", "noisy", *arguments) == 2
        err = capsys.readouterr().err
        assert word in err and err.count("\n") == 1


def test_bm3d_is_used_where_it_is_installed(folder, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bm3d" else found(name)
    )
    assert run(folder, "--methods", "bm3d") == 2
    assert "pip install bm3d" in capsys.readouterr().err
    assert run(folder) == 0
    assert "bm3d" not in capsys.readouterr().out

    told = []

    def stand_in(image, sigma):
        told.append((image.shape, sigma))
        return image + 0.25

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace(bm3d=stand_in))
    assert run(folder, "--sigma", 51, "--methods", "bm3d") == 0
    assert "| bm3d" in capsys.readouterr().out
    assert told == [((45, 36), 0.2), ((30, 40), 0.2)]
    colour = CLASSICAL["bm3d"](np.zeros((9, 8, 3), np.float32), 25)
    assert colour.shape == (9, 8, 3) and (colour == 0.25).all()
