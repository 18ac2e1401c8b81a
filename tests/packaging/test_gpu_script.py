"""The script for a lent GPU goes through its steps on any machine: no minute of one is lost."""

import importlib.util
import re
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
from demo_photos import one_thread, write_image
from safetensors.numpy import load_file
from toy_pairs import make_record, write_store

from n3match.weights.store import find

SCRIPT = Path(__file__).parents[2] / ".ci" / "gpu.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_are_kept_as_they_grow(tmp_path, script):
    session = types.SimpleNamespace(out=tmp_path, runs=tmp_path / "runs")
    for text in ("step\n", "step\n1\n"):
        log = session.runs / "a" / "log.csv"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text)
        script.Session.keep_results(session)
        with tarfile.open(tmp_path / "results.tgz") as archive:
            assert archive.getnames() == ["a/log.csv"]
            assert archive.extractfile("a/log.csv").read().decode() == text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["results.tgz"]


@pytest.mark.slow
def test_benchmarks_end_and_trainings_go_on_from_the_shipped_weights(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        write_image(images / f"{i}.png", rng.integers(0, 256, (48, 48), np.uint8))
    pairs, others = tmp_path / "pairs.h5", tmp_path / "others.h5"
    for path, first in ((pairs, 0), (others, 3)):
        seeds = range(first, first + 3)
        write_store(path, [make_record(150, 100, seed=s, name=str(s)) for s in seeds])
    out = tmp_path / "out"
    done = subprocess.run(
        [
            sys.executable, SCRIPT, out, "--device", "cpu", "--tiny", "--seconds", "420",
            "--images", images, "--sets", images, "--pairs", pairs, "--validation", others,
        ],
        capture_output=True, text=True, timeout=1200, env=one_thread(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Whatever wants a GPU ends at once, with a status of its own: no argument is refused (1).
    for part in ("smoke", "checks-warm", "checks-11", "times", "compiled"):
        assert re.search(rf"\] {part} 2 ", done.stdout), done.stdout
    assert "The GPU benchmark did not run" in (out / "report.txt").read_text()
    for name in ("sift", "sift-cnnet", "n3net-25", "n3net"):
        # The time limit ends a run, not its number of steps.
        assert re.search(rf"\] train-{name} out of time", done.stdout), done.stdout
        new, shipped = load_file(out / f"{name}.safetensors"), load_file(find(name))
        assert new.keys() == shipped.keys()
        assert any((new[key] != shipped[key]).any() for key in new)
        assert all(np.isfinite(new[key]).all() for key in new)
        assert re.search(rf"\] evaluate-{name} 0 ", done.stdout), done.stdout
    with tarfile.open(out / "results.tgz") as archive:
        for name in ("sift", "sift-cnnet"):
            assert f"evaluate-{name}/table.md" in archive.getnames()
