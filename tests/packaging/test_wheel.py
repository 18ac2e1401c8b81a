"""What `.ci/wheel.py` builds: an sdist and a wheel with the compiled loops for every Python 3."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from demo_photos import one_thread

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_wheel_is_built_from_the_sdist_and_runs_without_a_compiler(tmp_path):
    pytest.importorskip("build")
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "wheel.py", tmp_path, "--borrow"],
        capture_output=True, text=True, env=one_thread(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "status     ok" in done.stdout  # of the demo
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        kernels = [name for name in archive.namelist() if "/_kernels" in name]
    assert len(kernels) == 1 and "cpython" not in kernels[0]
    with tarfile.open(sdist) as archive:
        assert not any("/tests/" in name and name.endswith(".png") for name in archive.getnames())

