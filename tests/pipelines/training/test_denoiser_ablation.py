"""The rows of the published ablation: each is trained by its name, all are evaluated together."""

import cv2
import numpy as np
import pytest

from n3match.nn import PRESETS
from n3match.pipelines.cli import main


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clean"
    path.mkdir()
    smooth = cv2.GaussianBlur(np.random.default_rng(0).random((40, 44)), (0, 0), 2)
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    cv2.imwrite(str(path / "a.png"), smooth.astype(np.uint8))
    return path


def test_all_rows_in_one_table_and_nothing_is_trained_twice(folder, tmp_path, capsys):
    budget = ["--images", folder, "--features", 4, "--crops", "20x1", "--steps", 1]
    weights = {name: tmp_path / name / "denoiser.safetensors" for name in PRESETS}
    assert len(weights) == 8
    stamps = []
    for _ in range(2):
        for name, path in weights.items():
            guide = ["--guide", weights["dncnn-17"]] if name == "knn-denoised" else []
            arguments = ["train-denoiser", path.parent, "--network", name, *guide, *budget]
            assert main([str(word) for word in arguments]) == 0
        stamps.append([path.stat().st_mtime_ns for path in weights.values()])
    assert stamps[0] == stamps[1]
    capsys.readouterr()
    labelled = [f"{name}={path}" for name, path in weights.items()]
    arguments = ["evaluate-denoise", str(folder), "--methods", "noisy", "--weights", *labelled]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in PRESETS)
