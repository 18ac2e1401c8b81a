"""Every ```python block of docs/ runs as printed, page by page."""

import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PHOTOGRAPHS = Path(str(resources.files("n3match.pipelines"))) / "demo_data"
# What an example may need that "pip install n3match" doesn't bring.
OPTIONAL = {"gluefactory", "hloc", "onnxruntime", "poselib", "pycolmap", "vismatch"}
SLOW = {"deployment"}  # writing an ONNX file of the shipped weights takes a minute or two
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: Path) -> list[tuple[int, str]]:
    """Line number and text of each block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in _BLOCK.finditer(text)]


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if examples(page)]
PARAMETERS = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in SLOW))
    for page in PAGES
]


@pytest.mark.parametrize("page", PARAMETERS)
def test_examples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    """In a folder with the bundled photographs, all blocks of the page in one namespace."""
    for photograph in PHOTOGRAPHS.glob("*.jpg"):
        shutil.copy(photograph, tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, text in examples(page):
        # Blank lines in front make a traceback point into the page.
        code = compile("\n" * line + text, str(page), "exec")
        try:
            exec(code, namespace)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in OPTIONAL:
                raise
            pytest.skip(f"docs/{page.name} needs the optional package {package}")


def test_blocks_are_found_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\na = 1\n```\n\n```\nno code\n```\n```python\nb = a\n```\n")
    assert examples(page) == [(3, "a = 1\n"), (10, "b = a\n")]
    assert {"kornia", "opencv"} <= {page.stem for page in PAGES}
