"""Every script of examples/ runs, in an empty folder, and says what it should."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# What each prints and writes.
SAYS = {
    "two_images": (["putative matches", "ok: "], ["matches.png"]),
    "in_opencv_code": (["matches kept", "inliers\n"], ["good.png"]),
    "in_kornia_code": (["matches kept", "gradient"], []),
    "operator_alone": (["true k-th neighbour: [1. 1. 1.]", "gradients: key"], []),
    "train_on_your_scene": (["| sift "], ["pairs.h5", "run/filter.safetensors"]),
}


@pytest.mark.parametrize("name", SAYS)
def test_script_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    words, files = SAYS[name]
    said = capsys.readouterr().out
    assert all(word in said for word in words), said
    assert all((tmp_path / file).stat().st_size > 0 for file in files)


def test_every_script_is_short_and_run():
    scripts = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == set(SAYS)
    assert all(len(p.read_text(encoding="utf-8").splitlines()) <= 40 for p in scripts.values())
