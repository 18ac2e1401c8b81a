"""Writes docs/api/*.md, the reference of the public names, from their docstrings.

    python docs/build_api.py

Deterministic: types and defaults are those of the source text, and no version, date or path of a
machine comes in.
"""

from __future__ import annotations

import inspect
import os
import re
import textwrap

import griffe
from api_names import GROUPS, ROOT, Name, load, methods

OUT = ROOT / "docs" / "api"
COMMAND = "python docs/build_api.py"
_NOTE = f"<!-- Written from the docstrings by `{COMMAND}`: change those, then run it. -->\n"
_WIDTH = 92
_SECTION = re.compile(
    r"^(Args|Attributes|Convention|Raises|Returns|Yields):\n((?:[ ]+.*(?:\n|$)|\n)+)", re.MULTILINE
)
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): ", re.MULTILINE)
# `name`, and not what stands in a link or among more backticks.
_CODE = re.compile(r"(?<![`\[])`([\w.]+)(?:\(\))?`(?!`)")
_ANOTHER_ERROR = re.compile(r"(?<=\.)\s+(?=(?:[A-Z]\w*Error(?:, )?)+: )")


class Links:
    """Where the names in backticks are described."""

    def __init__(self, loaded: dict):
        self._modules = set(loaded)
        self._places: dict[str, list[tuple[str, str]]] = {}
        for module, (_, names) in loaded.items():
            for entry in names:
                if not entry.is_at_home or entry.object.is_module:
                    continue
                titles = [entry.name]
                if entry.object.is_class:
                    titles += [f"{entry.name}.{m.name}" for m in methods(entry.object)]
                short = module.rpartition(".")[2]
                for title in titles:
                    for key in {title} | {f"{m}.{title}" for m in (module, short, "n3match")}:
                        self._places.setdefault(key, []).append((module, title))

    def find(self, name: str, page: str) -> str | None:
        """The address seen from a page; None where there is none, or more than one."""
        if name in self._modules:
            return f"{name}.md"
        places = self._places.get(name, [])
        here = [place for place in places if place[0] == page]
        for module, title in here or (places if len(set(places)) == 1 else []):
            anchor = f"#{title.lower().replace('.', '')}"
            return anchor if module == page else f"{module}.md{anchor}"
        return None

    def set(self, text: str, page: str, without: str = "") -> str:
        """The text with links, but for names that lead to the section `without` itself."""

        def link(match: re.Match) -> str:
            address = self.find(match[1], page)
            own = f"#{without.lower().replace('.', '')}"
            return match[0] if address in (None, own) else f"[{match[0]}]({address})"

        return _CODE.sub(link, text)


def prose(text: str) -> str:
    """A docstring's text as Markdown: indented lines become blocks, `::` a colon."""
    parts = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        lines = part.splitlines()
        if lines and all(line.startswith(" ") for line in lines):
            block = textwrap.dedent(part)
            if parts and parts[-1].endswith("\n```"):  # blank lines inside a block
                parts[-1] = f"{parts[-1][:-4]}\n\n{block}\n```"
            else:
                parts.append(f"```text\n{block}\n```")
            continue
        part = re.sub(r"::$", ":", part)
        pieces = re.split(r"(`+[^`]+`+)", part)  # outside of backticks nothing is meant as HTML
        pieces[::2] = [piece.replace("<", "\\<") for piece in pieces[::2]]
        parts.append("".join(pieces))
    return "\n\n".join(parts)


def summary(found: griffe.Object, text: str | None = None) -> str:
    """The first paragraph of its docstring, on one line."""
    text = text if text is not None else docstring(found)
    return " ".join(prose(text.strip().split("\n\n")[0]).split())


def docstring(found: griffe.Object) -> str:
    """Its docstring; for a constant the comment above it."""
    if found.docstring:
        return found.docstring.value
    if not found.is_attribute:
        return ""
    lines = found.module.source.splitlines()[: found.lineno - 1]
    comment: list[str] = []
    while lines and lines[-1].startswith("# "):
        comment.insert(0, lines.pop()[2:])
    return " ".join(comment)


def sections(text: str) -> list[tuple[str, str]]:
    """Title and text of a docstring's parts, "" for what stands under none.

    Griffe's own parser would lose lines, e.g. those of an error that aren't indented further.
    """
    pieces = _SECTION.split(text)
    parts = [("", pieces[0])]
    for title, below, after in zip(pieces[1::3], pieces[2::3], pieces[3::3]):
        parts += [(title, textwrap.dedent(below)), ("", after)]
    return [part for part in parts if part[1].strip()]


def entries(text: str) -> list[tuple[str, str]]:
    """Names and text of the entries of a section."""
    before, *pieces = _ENTRY.split(text)
    if before.strip():
        raise ValueError(f"no name before {before!r}")
    return [*zip(pieces[::2], (inspect.cleandoc(text) for text in pieces[1::2]))]


def listed(title: str, text: str) -> str:
    items = []
    for names, about in entries(text):
        first, *more = _ANOTHER_ERROR.split(about) if title == "Raises" else (about,)
        for shown, said in [(names, first), *(error.split(": ", 1) for error in more)]:
            code = ", ".join(f"`{name}`" for name in shown.split(", "))
            items.append(f"- {code}: " + prose(said).replace("\n", "\n  "))
    return "\n".join([f"**{title}**", "", *items])


def described(found: griffe.Object) -> str:
    """The docstring with its sections as lists."""
    parts = []
    for title, text in sections(docstring(found)):
        if title in ("Args", "Attributes", "Raises"):
            parts.append(listed(title, text))
        else:
            parts.append(f"**{title}**: {prose(text)}" if title else prose(text))
    return "\n\n".join(parts)


def written(expression: griffe.Expr | str) -> str:
    """A type or a value, with the quotes that the source has."""
    return re.sub(r"'([^'\"]*)'", r'"\1"', str(expression))


def signature(title: str, function: griffe.Function) -> str:
    shown, kind = [], griffe.ParameterKind
    keyword_only = False
    for number, p in enumerate(function.parameters):
        if number == 0 and p.name in ("self", "cls"):
            continue
        if p.kind is kind.keyword_only and not keyword_only:
            shown.append("*")
        keyword_only |= p.kind in (kind.keyword_only, kind.var_positional)
        stars = {kind.var_positional: "*", kind.var_keyword: "**"}.get(p.kind, "")
        text = stars + p.name + (f": {written(p.annotation)}" if p.annotation else "")
        if p.default is not None and not stars:
            text += f" = {written(p.default)}" if p.annotation else f"={written(p.default)}"
        shown.append(text)
    returns = f" -> {written(function.returns)}" if function.returns else ""
    line = f"{title}({', '.join(shown)}){returns}"
    if len(line) <= _WIDTH or not shown:
        return line
    return f"{title}(\n" + "".join(f"    {text},\n" for text in shown) + f"){returns}"


def class_head(name: str, found: griffe.Class) -> str:
    """The constructor; of a dataclass or an enumeration the fields with their comments."""
    bases = ", ".join(str(base) for base in found.bases)
    head = f"class {name}({bases})" if bases else f"class {name}"
    if "dataclass" not in found.labels and "Enum" not in bases:
        init = found.members.get("__init__")
        return f"{head}\n\n{signature(name, init)}" if init else head
    lines = found.module.source.splitlines()
    behind = [m.lineno for m in found.members.values() if m.is_function or "property" in m.labels]
    end = min([n - 1 for n in behind if n] + [found.endlineno])
    fields = [x for x in lines[found.docstring.endlineno : end] if not x.strip().startswith("@")]
    marks = [f"@{decorator.value}\n" for decorator in found.decorators]
    return "".join(marks) + f"{head}:\n" + "\n".join(fields).strip("\n").rstrip()


def section(entry: Name, links: Links) -> str:
    found, name, page = entry.object, entry.name, entry.module
    if found.is_class:
        code = class_head(name, found)
    elif found.is_function:
        code = signature(name, found)
    else:
        code = found.source
    parts = [f"## {name}", f"```python\n{code}\n```", links.set(described(found), page, name)]
    if found.is_class:
        known = [f"`{base}`" for base in found.bases if links.find(str(base), page)]
        parts += [links.set(f"Everything of {base} is there too.", page) for base in known]
    members = methods(found) if found.is_class else []
    init = found.members.get("__init__") if found.is_class else None
    if init is not None and init.docstring:
        parts.append(links.set(described(init), page, name))
    for member in members:
        title = f"{name}.{member.name}"
        returns = member.annotation if member.is_attribute else None
        code = signature(title, member) if member.is_function else f"{title}: {returns}"
        text = links.set(described(member), page, title)
        heading = title.replace("__", r"\_\_")  # which would be bold
        parts += [f"### {heading}", f"```python\n{code}\n```", text]
    source = os.path.relpath(found.filepath, OUT).replace(os.sep, "/")
    parts.append(f"<sub>[{os.path.relpath(found.filepath, ROOT)}]({source})</sub>")
    return "\n\n".join(part for part in parts if part)


def page(module: griffe.Module, path: str, names: list[Name], links: Links) -> str:
    parts = [f"{_NOTE}\n# {path}", links.set(prose(docstring(module)), path)]
    contents = []
    for entry in names:
        address = f"{entry.object.path}.md" if entry.object.is_module else None
        address = address or links.find(entry.name, path) or ""
        contents.append(f"- [`{entry.name}`]({address}): {summary(entry.object)}")
    parts.append("\n".join(contents))
    described_here = [e for e in names if e.is_at_home and not e.object.is_module]
    parts += [section(entry, links) for entry in described_here]
    return "\n\n".join([*parts, "[All modules](README.md)"]) + "\n"


def contents(loaded: dict, links: Links) -> str:
    parts = [
        f"{_NOTE}\n# API reference",
        "Every public name, from the docstrings. The pages of [docs](..) show them at work.",
    ]
    for heading, modules in GROUPS.items():
        parts.append(f"## {heading}")
        for path in modules:
            module, names = loaded[path]
            there = [n.name for n in names if n.is_at_home and not n.object.is_module]
            listed = ", ".join(f"[`{n}`]({path}.md#{n.lower()})" for n in there)
            text = links.set(summary(module), "README")
            parts.append(f"**[{path}]({path}.md)**: {text}\n\n{listed}")
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """Text of every page by its file's name."""
    loaded = load()
    links = Links(loaded)
    made = {f"{p}.md": page(module, p, names, links) for p, (module, names) in loaded.items()}
    return {"README.md": contents(loaded, links), **made}


def main() -> None:
    made = pages()
    OUT.mkdir(exist_ok=True)
    for stale in {path.name for path in OUT.glob("*.md")} - set(made):
        (OUT / stale).unlink()
    for name, text in made.items():
        temporary = OUT / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, OUT / name)


if __name__ == "__main__":
    main()
