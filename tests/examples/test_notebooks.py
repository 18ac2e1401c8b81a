"""The notebooks of examples/ run from top to bottom in an empty folder, and draw their pictures."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Of each: what it prints, how many pictures it shows, what it writes.
NOTEBOOKS = {
    "two_photographs": (["putative matches", "ok ", "R ="], 4, ["matches.png", "pose.png"]),
    "your_own_reconstruction": (
        ["2 images with poses", "| sift ", "matches kept"], 2,
        ["scene/sparse/0/points3D.txt", "run/pairs/scene-2000.h5", "run/filter.safetensors"],
    ),
}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, tmp_path):
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    words, pictures, files = NOTEBOOKS[name]
    assert all(word in said for word in words), said
    assert sum("image/png" in o.get("data", {}) for o in outputs) == pictures
    assert all((tmp_path / file).stat().st_size > 0 for file in files)


def test_notebooks_are_kept_without_what_they_print():
    found = {path.stem: path for path in EXAMPLES.glob("*.ipynb")}
    assert set(found) == set(NOTEBOOKS)
    for path in found.values():
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
