"""The API reference is that of the docstrings, and the docstrings say what they should."""

import importlib
import re

import griffe
import pytest
from api_names import GROUPS, MODULES, ROOT, load, methods
from build_api import COMMAND, OUT, docstring, entries, listed, main, pages, sections

LOADED = load()
AT_HOME = [
    entry
    for _, names in LOADED.values()
    for entry in names
    if entry.is_at_home and not entry.object.is_module
]
# Compiled loops behind the operator; nobody calls them from outside.
NOT_SHOWN = {"n3match.native"}
KINDS = griffe.ParameterKind


def functions() -> list[tuple[str, griffe.Function, list[str]]]:
    """Every public function and method: its name, itself, and the texts that may describe its
    arguments (those of `__init__` may stand in the class's)."""
    found = []
    for entry in AT_HOME:
        path, thing = f"{entry.module}.{entry.name}", entry.object
        if thing.is_function:
            found.append((path, thing, [thing]))
        if not thing.is_class:
            continue
        found += [(f"{path}.{m.name}", m, [m]) for m in methods(thing) if m.is_function]
        if "__init__" in thing.members and "dataclass" not in thing.labels:
            init = thing.members["__init__"]
            found.append((path, init, [thing, init]))
    return found


FUNCTIONS = functions()


def described_arguments(texts: list[griffe.Object]) -> list[str]:
    """The arguments that have an entry under Args."""
    return [
        name.lstrip("*")
        for thing in texts
        for title, text in sections(docstring(thing))
        if title == "Args"
        for names, _ in entries(text)
        for name in names.split(", ")
    ]


def test_pages_are_up_to_date():
    there = {path.name: path.read_text(encoding="utf-8") for path in OUT.glob("*.md")}
    wanted = pages()
    stale = sorted(n for n in {*there, *wanted} if there.get(n) != wanted.get(n))
    assert not stale, f"docs/api: {', '.join(stale)} isn't up to date: run `{COMMAND}`"


def test_pages_are_written_anew_and_old_ones_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("build_api.OUT", tmp_path)
    (tmp_path / "n3match.gone.md").write_text("old")
    (tmp_path / "README.md").write_text("old")
    main()
    wanted = {"README.md", *(f"{module}.md" for module in MODULES)}
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert (tmp_path / "README.md").read_text().count("\n## ") == len(GROUPS)


def test_every_public_list_is_shown():
    """A package with an `__all__` of its own has a page, with just these names."""
    lists = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "n3match").rglob("__init__.py")
        if "__all__" in path.read_text(encoding="utf-8")
    }
    assert lists - set(MODULES) == NOT_SHOWN
    for module in lists - NOT_SHOWN - {"n3match.plugins"}:  # which shows its optional ones too
        listed = importlib.import_module(module).__all__
        assert [name.name for name in LOADED[module][1]] == list(listed)


def test_every_public_name_has_a_docstring():
    named = [(f"{e.module}.{e.name}", e.object) for e in AT_HOME]
    for path, thing in list(named):
        if thing.is_class:
            named += [(f"{path}.{member.name}", member) for member in methods(thing)]
    assert len(named) > 150
    assert [path for path, thing in named if not docstring(thing).strip()] == []
    assert [path for path, (module, _) in LOADED.items() if not module.docstring] == []


@pytest.mark.parametrize("path, function, texts", FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_every_argument_has_an_entry(path, function, texts):
    known = described_arguments(texts)
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


def test_nothing_of_a_docstring_is_lost():
    things = [(e.module, e.object) for e in AT_HOME]
    things += [(p, m) for p, c in list(things) if c.is_class for m in methods(c)]
    for page, thing in things:
        shown = set(re.findall(r"\w+", (OUT / f"{page}.md").read_text(encoding="utf-8")))
        assert set(re.findall(r"\w+", docstring(thing))) <= shown, thing.path


def test_sections_and_entries_of_a_docstring():
    text = "It does.\n\nArgs:\n    a, b: (N, 2)\n        pixels.\n    *c: more.\n\nRaises:\n"
    text += "    ValueError: a or\n    b. TypeError: c."
    (_, first), (args, arguments), (raises, errors) = sections(text)
    assert (first.strip(), args, raises) == ("It does.", "Args", "Raises")
    assert entries(arguments) == [("a, b", "(N, 2)\npixels."), ("*c", "more.")]
    shown = "- `ValueError`: a or\n  b.\n- `TypeError`: c."
    assert listed(raises, errors) == f"**Raises**\n\n{shown}"
    with pytest.raises(ValueError, match="no name before"):
        entries("lost\na: kept")


def test_links_lead_somewhere():
    """Of all pages: the files are there, and the headings that are named in them."""
    texts = {path: path.read_text(encoding="utf-8") for path in OUT.glob("*.md")}
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        texts[path] = path.read_text(encoding="utf-8")
    followed = 0
    for page, text in texts.items():
        text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for address in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in address:
                continue
            file, _, anchor = address.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.name}: {address}"
            if anchor:
                assert anchor in anchors(texts[target]), f"{page.name}: {address}"
            followed += 1
    assert followed > 400


def anchors(text: str) -> set[str]:
    """GitHub's names of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_name_no_machine():
    for path in OUT.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text and "site-packages" not in text and " object at 0x" not in text
