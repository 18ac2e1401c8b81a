"""`n3match demo`, from the checkout and from an installed wheel."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_photos import FOLDER, one_thread, run_command

from n3match.pipelines.two_view.demo_pair import load_demo_pair
from n3match.pipelines.two_view.match_images import match_images

ROOT = Path(__file__).resolve().parents[3]


def check_demo(done: subprocess.CompletedProcess, picture: Path) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    for wanted in (
        "Andrew Zaborowski", "CC BY 3.0", "status     ok", "\nR  ", "\nt  ", "sift ", "filter ",
        "\nN³ filter", "\nratio test 0.8", f"picture    {picture.name}",
    ):
        assert wanted in done.stdout
    assert re.search(r"matches    \d+ found, \d+ kept, \d+ inliers", done.stdout)
    assert float(re.search(r"error +(\d+\.\d+)°", done.stdout)[1]) < 5
    height, width = cv2.imread(str(picture)).shape[:2]
    assert width == 1200 and height > 800


def test_demo_prints_a_good_pose_and_saves_its_picture(tmp_path):
    done = run_command("demo", cwd=tmp_path)
    check_demo(done, tmp_path / "n3match-demo.png")
    assert os.listdir(tmp_path) == ["n3match-demo.png"]


def test_known_pose_fits_the_photographs():
    pair = load_demo_pair()
    np.testing.assert_allclose(pair.R @ pair.R.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(pair.R) == pytest.approx(1)
    assert np.linalg.norm(pair.t) == pytest.approx(1)
    for photo in pair.photographs:
        assert photo.size == (768, 1024)
        assert photo.intrinsics == "given"
    view = match_images(*pair.photographs, filter=None)
    right, sure = pair.right(view), view.putative.ratio < 0.7
    # Most putative matches are wrong, and nearly all of the most distinctive ones right.
    assert right.mean() < 0.15
    assert right[sure].mean() > 0.8


def test_photographs_are_small_and_their_licence_is_told():
    for name in ("img_4885.jpg", "img_4929.jpg"):
        assert (FOLDER / name).stat().st_size < 300_000
    attribution = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for wanted in ("Andrew Zaborowski", "OpenStreetMap-PL", "creativecommons.org/licenses/by/3.0",
                   "img_4885.jpg", "img_4929.jpg"):
        assert wanted in attribution


def test_demo_runs_from_an_installed_wheel(tmp_path):
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    # A copy, so that no build folder of the checkout slips in, nor is left behind.
    for name in ("n3match", "datasets", "pipelines"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    quiet = {"check": True, "capture_output": True, "text": True}
    subprocess.run(  # as where there is no compiler: it takes no time, and works all the same
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        env={**os.environ, "CC": "false"}, **quiet,
    )
    (wheel,) = tmp_path.glob("n3match-*.whl")
    assert "-cp310-abi3-" in wheel.name  # one for every Python
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], **quiet)
    shutil.rmtree(source)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # The dependencies from here; .pth files are not read on this path, so that an editable
    # install of the checkout stays out.
    installed = [folder for folder in sys.path if folder.endswith("site-packages")]
    environment = {**one_thread(), "PYTHONPATH": os.pathsep.join(installed)}
    run = {"capture_output": True, "text": True, "cwd": elsewhere, "env": environment}
    where = subprocess.run(
        [python, "-c", "import n3match.pipelines as p, n3match.datasets as d; "
         "print(*p.__path__, *d.__path__)"], check=True, **run
    )
    for path in where.stdout.split():
        assert Path(path).is_relative_to(tmp_path / "venv")
    # The folders of the checkout must not become top-level packages of the user's.
    site = Path(where.stdout.split()[0]).parents[1]
    assert not (site / "pipelines").exists() and not (site / "datasets").exists()
    done = subprocess.run([python.with_name("n3match"), "demo", "--out", "demo.png"], **run)
    check_demo(done, elsewhere / "demo.png")
