"""The pages of the API show every public name, and the docstrings say what they should."""

import re
import subprocess
import sys
from pathlib import Path

import griffe
import pytest

import n3match

ROOT = Path(__file__).resolve().parents[2]
KINDS = griffe.ParameterKind
_SHOWN = re.compile(r"^::: (\S+)\n(?:    options:\n(?:      .*\n)*?      members: \[(.*)\])?", re.M)


def shown() -> list[tuple[str, griffe.Object]]:
    """(path, object) of every public name that a page of docs/api shows."""
    loader = griffe.GriffeLoader(search_paths=[ROOT], allow_inspection=False)
    for package in ("n3match", "datasets", "pipelines"):  # both are installed in n3match
        loader.load(package, try_relative_path=False)
    loader.resolve_aliases(external=False)
    found = []
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for path, members in _SHOWN.findall(page.read_text(encoding="utf-8")):
            module = loader.modules_collection[path]
            names = members.split(", ") if members else module.exports
            names = names or [
                name for name, member in module.members.items()
                if not name.startswith("_") and not member.is_alias
            ]
            for name in map(str, names):
                member = module.members[name]
                found.append((f"{path}.{name}", member.final_target if member.is_alias else member))
    return found


SHOWN = shown()


def functions() -> list[tuple[str, griffe.Function, list[griffe.Object]]]:
    """Public functions and methods: name, itself, and whose docstrings may describe arguments."""
    found = {}
    for path, thing in SHOWN:
        if thing.is_function:
            found[thing.path] = path, thing, [thing]
        if not thing.is_class:
            continue
        for name, member in thing.members.items():
            if member.is_function and (not name.startswith("_") or name == "__call__"):
                found[member.path] = f"{path}.{name}", member, [member]
        init = thing.members.get("__init__")
        if init is not None and init.is_function and "dataclass" not in thing.labels:
            found[init.path] = path, init, [thing, init]
    return list(found.values())


FUNCTIONS = functions()


def described(things: list[griffe.Object]) -> list[str]:
    """The arguments that have an entry under Args; one entry may be of several."""
    return [
        name.lstrip("*")
        for thing in things
        if thing.docstring
        for section in thing.docstring.parse("google", warnings=False)
        if section.kind is griffe.DocstringSectionKind.parameters
        for parameter in section.value
        for name in parameter.name.split(", ")
    ]


def test_every_public_name_is_shown():
    names = {path.rpartition(".")[2] for path, _ in SHOWN}
    modules = {name for name in n3match.__all__ if type(getattr(n3match, name)) is type(sys)}
    assert set(n3match.__all__) - modules <= names
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    assert all(f"::: n3match.{module}" in pages for module in modules)


def test_every_public_name_has_a_docstring():
    assert len(SHOWN) > 100
    missing = [path for path, thing in SHOWN if not thing.is_attribute and not thing.docstring]
    assert missing == []


@pytest.mark.parametrize("path, function, things", FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_every_argument_has_an_entry(path, function, things):
    known = described(things)
    variadic = {KINDS.var_positional, KINDS.var_keyword}
    wanted = [
        p.name
        for p in function.parameters
        if p.name not in ("self", "cls")
        # `*args` and `**kwargs` stand for arguments that have entries of their own.
        and (p.kind not in variadic or not known)
    ]
    missing = [name for name in wanted if name not in known]
    assert not missing, f"{path}: Args lacks {missing}"
    if not any(p.kind in variadic for p in function.parameters):
        strangers = [name for name in known if name not in wanted]
        assert not strangers, f"{path}: Args has {strangers}, which it doesn't take"


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "api" / "ops" / "index.html").read_text(encoding="utf-8")
    assert "n3_aggregate" in text and "log_temperature" in text
