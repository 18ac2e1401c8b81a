"""What README, CONTRIBUTING, the pages and the model cards say of files and commands is so."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from n3match.pipelines.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "n3match/weights/*.md")
    for path in ROOT.glob(pattern)
)
# Names of 0.1 stand in the list of changes.
OF_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]
# Of torchrun, mkdocs, argcomplete.
FOREIGN_OPTIONS = {"--nproc-per-node", "--strict", "--shell"}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*(?![\w-])")
_ADDRESS = re.compile(r"\]\(([^)\s]+)\)")
# A file or folder of the project, as named in running text.
_PATH = re.compile(r"`((?:n3match|datasets|pipelines|tests|docs|examples)/[\w./-]*)`")


def named(pages: list[Path]) -> list:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def command_lines(page: Path) -> list[list[str]]:
    """The words of every `n3match …` in blocks without a language and in running text."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for language, body in _FENCE.findall(text) if not language]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]
    found = []
    for line in lines:
        line = re.sub(r"\s#.*", "", line).replace("n3match.pipelines.cli", "n3match")
        found += [part.split() for part in re.findall(r"(?:^|\s)n3match ([^;&|]+)", line)]
    return [words for words in found if re.fullmatch(r"[a-z][a-z0-9-]*", words[0])]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """{command: its options}, of what --help prints."""
    known = {}
    for command in COMMANDS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            assert main([command, "--help"]) == 0
        known[command] = set(_OPTION.findall(text.getvalue()))
    return known


@pytest.mark.parametrize("page", named(OF_TODAY))
def test_commands_and_their_options_are_there(page, options):
    for command, *words in command_lines(page):
        assert command in COMMANDS, f"n3match {command}"
        asked = {option for word in words for option in _OPTION.findall(word)}
        assert asked <= options[command], f"n3match {command}"
    everything = set().union(*options.values(), FOREIGN_OPTIONS, {"--version", "--traceback"})
    assert set(_OPTION.findall(prose(page))) <= everything


def test_every_command_is_on_the_page_of_the_command_line():
    shown = {words[0] for words in command_lines(ROOT / "docs" / "command-line.md")}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("page", named(OF_TODAY))
def test_files_named_are_there(page):
    for path in _PATH.findall(prose(page)):
        assert any(ROOT.glob(path.rstrip("/"))) or "…" in path, path


def test_places_to_change_hold_what_they_are_said_to():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| `(\w+)`[^|,]*, `([\w./]+\.py)`", text, re.MULTILINE)
    assert len(rows) >= 6
    for name, path in rows:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (name, path)


@pytest.mark.parametrize("page", named(PAGES))
def test_links_lead_somewhere(page):
    for address in _ADDRESS.findall(prose(page)):
        if "://" in address:
            continue
        file, _, anchor = address.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), address
        if anchor:
            assert anchor in anchors(target), address


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_one_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert len(text.encode()) <= 8192


def test_what_counts_as_a_command(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Run `n3match pose\nA.jpg --json`, or `n3match`.\n\n"
        "```\npip install -e . && n3match demo  # x\nn3match match a b \\\n    -o c\n```\n"
        "```python\n# n3match none\n```\n"
    )
    assert command_lines(page) == [
        ["demo"], ["match", "a", "b", "-o", "c"], ["pose", "A.jpg", "--json"]
    ]
