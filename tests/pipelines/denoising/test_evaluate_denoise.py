"""Evaluation of denoising: the exact noise, figures with known values, tables."""

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from tiny_denoisers import random_weights

from n3match.denoising import denoise
from n3match.nn import PRESETS, N3Net
from n3match.pipelines.cli import main
from n3match.pipelines.denoising import denoise_evaluation
from n3match.pipelines.denoising.denoise_evaluation import psnr, ssim
from n3match.pipelines.denoising.evaluation_noise import GaussianNoise, noisy_image
from n3match.pipelines.denoising.methods import MethodSource
from n3match.weights import save_weights


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clean"
    path.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (30, 40)), ("a.png", (33, 24))):
        smooth = cv2.GaussianBlur(rng.random(size), (0, 0), 3)
        cv2.imwrite(str(path / name), np.rint(255 * smooth).astype(np.uint8))
    return path


def test_noise_is_that_of_the_figures():
    clean = np.zeros((5, 7), np.float32)
    wanted = np.random.default_rng([1234, 25, 3]).standard_normal((5, 7)).astype(np.float32)
    assert np.array_equal(noisy_image(clean, 25.0, 3), wanted * np.float32(25 / 255))
    assert not np.array_equal(noisy_image(clean, 12.5, 3), noisy_image(clean, 12.0, 3))


def test_psnr_of_a_known_error():
    clean = np.zeros((20, 20))
    assert psnr(clean + 0.1, clean) == pytest.approx(20.0)
    assert psnr(clean, clean) == float("inf")


def test_ssim_is_the_formula_window_by_window():
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 15, 17))
    axis = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    w = np.outer(axis, axis) / axis.sum() ** 2
    found = []
    for i in range(5):
        for j in range(7):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
            cov = (w * (a - ma) * (b - mb)).sum()
            found.append(
                (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
            )
    assert ssim(x, y) == pytest.approx(np.mean(found), rel=1e-9)
    assert ssim(x, x) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11×11"):
        ssim(x[:9], y[:9])


def test_command_compares_on_the_same_noise(folder, tmp_path, capsys):
    torch.manual_seed(0)
    config = replace(PRESETS["dncnn-17"], features=4, depth=3, sigma=(50, 50))
    net = N3Net(config)
    torch.nn.init.zeros_(net.local_networks[0].layers[-1].weight)  # leaves images as they are
    save_weights(tmp_path / "still.safetensors", net)
    out = tmp_path / "out"
    status = main([
        "evaluate-denoise", str(folder), "--sigma", "50",
        "--weights", f"ours={tmp_path / 'still.safetensors'}", "--out", str(out),
    ])
    assert status == 0
    assert capsys.readouterr().out == (out / "report.md").read_text()
    with (out / "results.csv").open(newline="") as file:
        rows = {(row["image"], row["method"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 3
    for name, index in (("a.png", 0), ("b.png", 1)):
        clean = cv2.imread(str(folder / name), 0).astype(np.float32) / 255
        wanted = psnr(noisy_image(clean, 50, index), clean)
        for method in ("noisy", "ours"):
            assert float(rows[name, method]["psnr"]) == pytest.approx(wanted, abs=1e-4)
        assert float(rows[name, "cv2-nlm"]["psnr"]) > wanted + 3
    mean = np.mean([float(rows[name, "noisy"]["psnr"]) for name in ("a.png", "b.png")])
    assert f"{mean:.3f}" in (out / "report.md").read_text()


def test_colour_is_one_image_for_a_network_for_colours(tmp_path):
    """And three grey ones for another; figures are over all channels."""
    (tmp_path / "clean").mkdir()
    rng = np.random.default_rng(0)
    image = np.rint(255 * cv2.GaussianBlur(rng.random((30, 34, 3)), (0, 0), 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "clean" / "a.png"), image)
    paths = {
        name: random_weights(tmp_path / f"{name}.safetensors", sigma=(25, 25), channels=channels)
        for name, channels in (("grey", 1), ("colours", 3))
    }
    arguments = ["--colour", "--weights", *paths.values(), "--out", tmp_path / "out"]
    assert main(["evaluate-denoise", *map(str, (tmp_path / "clean", *arguments))]) == 0
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        found = {row["method"]: float(row["psnr"]) for row in csv.DictReader(file)}
    clean = image[..., ::-1].astype(np.float32) / np.float32(255)
    noisy = noisy_image(clean, 25, 0)
    assert found["noisy"] == pytest.approx(psnr(noisy, clean), abs=1e-4)
    planes = [denoise(noisy[..., c], weights=paths["grey"]) for c in range(3)]
    assert found["grey"] == pytest.approx(psnr(np.stack(planes, 2), clean), abs=1e-3)
    together = denoise(noisy, weights=paths["colours"])
    assert found["colours"] == pytest.approx(psnr(together, clean), abs=1e-3)


def test_another_device_is_timed_by_the_clock_after_a_run_that_is_not(folder, monkeypatch):
    calls = []
    times = iter(range(1000))
    monkeypatch.setattr(denoise_evaluation.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(
        MethodSource, "load", lambda self, limit: lambda noisy, sigma: calls.append(1) or noisy
    )
    noises, methods = [GaussianNoise(25.0)], [MethodSource("noisy", "noisy")]
    results = denoise_evaluation.evaluate([folder], noises, methods, on_cpu=False)
    assert len(calls) == 2 * len(results)  # two sizes
    assert {result.seconds for result in results} == {1}


def test_a_device_that_is_not_there_is_one_line(folder, capsys):
    for name in ("nowhere", *(() if torch.cuda.is_available() else ("cuda",))):
        assert main(["evaluate-denoise", str(folder), "--device", name]) == 2
        assert f"device: '{name}' can't be used" in capsys.readouterr().err


def test_errors_are_one_line(folder, tmp_path, capsys):
    for arguments, word in (
        ([tmp_path], "no images"),
        ([folder, "--sigma", "0"], "sigma"),
        ([folder, "--weights", "absent"], "absent"),
        ([folder, "--methods"], "methods"),
        ([tmp_path / "nowhere"], "nowhere"),
    ):
        assert main(["evaluate-denoise", *map(str, arguments)]) == 2
        err = capsys.readouterr().err
        assert word in err and err.count("\n") == 1
