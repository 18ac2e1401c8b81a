"""Imports point one way, wherever they stand: in functions and for type checkers too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Rooms, lowest first. One may import those of the lines before its own, and no other of its line.
LEVELS = (
    {"arguments", "files"},
    {"native", "weights"},
    {"ops", "geometry", "matching"},
    {"nn"},
    {"two_view", "denoising"},
    {"plugins", "export"},
    {"datasets"},
    {"pipelines"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def _modules() -> dict[str, Path]:
    """By the names that they are installed under."""
    found = {}
    for folder in ("n3match", "datasets", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if folder != "n3match":
                parts = ("n3match", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            inside = {f"{node.module}.{name.name}" for name in node.names}
            found |= inside & modules.keys()
            if inside - modules.keys():
                found.add(node.module)
    return found & modules.keys()


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    modules = _modules()
    return {name: _imports(path, modules) for name, path in modules.items()}


def _room(module: str) -> str:
    return module.split(".")[1]


def test_rooms_import_those_below_them_alone(graph):
    # The public face, `n3match` itself, is above all rooms but the commands, which may use it.
    rooms = {name: of for name, of in graph.items() if name != "n3match"}
    assert {_room(name) for name in rooms} == LEVEL.keys()
    wrong = [
        f"{name} imports {other}"
        for name, of in rooms.items()
        for other in of
        if (
            _room(name) != "pipelines"
            if other == "n3match"
            else _room(other) != _room(name) and LEVEL[_room(other)] >= LEVEL[_room(name)]
        )
    ]
    assert not wrong
    assert sum(map(len, rooms.values())) > 300


def test_no_module_is_imported_by_what_it_imports(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
