"""What the site says of options, commands, names and records, written from the YAMLs and sources themselves.

A hook of mkdocs: pages are made while the site is built and lie in no folder. Nothing heavy is imported.
`settings_of` is the one place that knows where a setting's default, type and comment come from.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mkdocs.structure.files import File, Files

import parediff
from parediff.cli import COMMANDS
from parediff.config.catalogue import catalogue, headline, plural
from parediff.resources import PACKAGE, shipped

ROOT = Path(__file__).parent.parent
LINE = re.compile(
    r"(?P<indent> *)(?P<key>[\w@/.]+):(?P<value>(?:[^#'\"]|'[^']*'|\"[^\"]*\"|(?<!\s)#)*)(?:#(?P<comment>.*))?"
)
SKIPPED = ("defaults", "_target_")


class Setting(NamedTuple):
    """One line of a reference table."""

    key: str
    default: str
    kind: str
    comment: str


class Class(NamedTuple):
    """What a source says of a class."""

    name: str
    docstring: str
    fields: dict[str, str]


def on_config(config: Any) -> Any:
    """Behind the references: every group of the config, and the table that tests/matrix.py writes, where it has."""
    reference = next(entry["Reference"] for entry in config["nav"] if "Reference" in entry)
    pages = ["index", *groups()]
    reference.append({"Config": [f"reference/config/{name}.md" for name in pages]})
    if (ROOT / "docs" / "pipelines.md").is_file():
        reference.append({"Architectures and methods": "pipelines.md"})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages; in navigation they are named like any other."""
    pages = {
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
        "reference/record.md": record_page(),
        "methods/index.md": methods_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        **{f"reference/config/{group}.md": group_page(group) for group in groups()},
        "reference/config/index.md": groups_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page of a method ends with its settings."""
    path = shipped("conf") / "method" / f"{Path(page.file.src_uri).stem}.yaml"
    if not page.file.src_uri.startswith("methods/") or not path.is_file():
        return markdown
    told = f"`method=[{path.stem}]`, then `methods.{path.stem}.<setting>=<value>`."
    return f"{markdown}\n\n## Settings\n\n{told}\n\n{settings_table(path)}\n"


def groups() -> list[str]:
    return sorted(path.name for path in shipped("conf").iterdir() if path.is_dir())


def groups_page() -> str:
    lines = [
        f"| [`{group}`]({group}.md) | {', '.join(f'`{name}`' for name in catalogue()[plural(group)])} |"
        for group in groups()
    ]
    keys = settings_table(shipped("conf") / "config.yaml")
    table = "\n".join(["| group | options |", "|---|---|", *lines])
    return f"# Config\n\nEvery group that a run or a training chooses from.\n\n{table}\n\n## Keys of a run\n\n{keys}\n"


def group_page(group: str) -> str:
    """Every option of a group: what it is, its class, its settings."""
    parts = [f"# {group}\n"]
    for path in sorted((shipped("conf") / group).glob("*.yaml")):
        description, paper = headline(path)
        parts.append(f"## {path.stem}\n\n{escaped(description)}{f' ({escaped(paper)})' if paper else ''}\n")
        target = target_of(path)
        if target is not None:
            parts.append(f"`{target}`: {escaped(' '.join(class_at(target).docstring.split()))}\n")
        parts.append(settings_table(path) + "\n")
    return "\n".join(parts)


def settings_table(path: Path) -> str:
    """Key, default, type and comment of every setting in a YAML."""
    rows = [
        f"| `{one.key}` | {code(one.default)} | {escaped(one.kind)} | {escaped(one.comment)} |"
        for one in settings_of(path)
    ]
    return "\n".join(["| setting | default | type | |", "|---|---|---|---|", *rows]) if rows else "It has no settings."


def settings_of(path: Path) -> Iterator[Setting]:
    """From the YAML's lines, with the types of the class it names."""
    target = target_of(path)
    kinds = class_at(target).fields if target else {}
    place: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = LINE.fullmatch(line.rstrip())
        if found is None:
            continue
        depth = len(found["indent"])
        place = [(indent, key) for indent, key in place if indent < depth]
        place.append((depth, found["key"]))
        keys = [key for _, key in place]
        if keys[0] in SKIPPED or keys[-1] == "_target_":
            continue
        yield Setting(
            ".".join(keys), found["value"].strip(), kinds.get(".".join(keys), ""), (found["comment"] or "").strip()
        )


@functools.cache
def target_of(path: Path) -> str | None:
    """The class that a YAML names, or that the option it starts from names."""
    node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    target = node.get("_target_")
    return str(target) if isinstance(target, str) and target.startswith("parediff.") else None


@functools.cache
def class_at(target: str) -> Class:
    """A class by its dotted name, read and not imported; fields of its bases come first."""
    module, _, name = target.rpartition(".")
    tree = tree_of(module)
    node = next(
        (item for item in tree.body if isinstance(item, ast.ClassDef | ast.FunctionDef) and item.name == name), None
    )
    if node is None:  # a name that the module imports
        return class_at(next(found for found in imported(tree) if found.endswith(f".{name}")))
    if isinstance(node, ast.FunctionDef):
        return Class(name, ast.get_docstring(node) or "", {})
    fields: dict[str, str] = {}
    for base in node.bases:
        text = ast.unparse(base).partition("[")[0]
        own = any(isinstance(item, ast.ClassDef) and item.name == text for item in tree.body)
        homes = [f"{module}.{text}"] if own else [found for found in imported(tree) if found.endswith(f".{text}")]
        fields |= class_at(homes[0]).fields if homes else {}
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        ):
            fields[item.target.id] = ast.unparse(item.annotation)
    return Class(name, ast.get_docstring(node) or "", fields)


@functools.cache
def tree_of(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> list[str]:
    """Dotted names that a module imports from ours."""
    return [
        f"{item.module}.{alias.name}"
        for item in ast.walk(tree)
        if isinstance(item, ast.ImportFrom) and str(item.module).startswith("parediff")
        for alias in item.names
    ]


def methods_page() -> str:
    rows = [
        f"| [`{name}`]({name}.md) | {escaped(description)} | {escaped(paper)} |"
        for name, (description, paper) in catalogue()["methods"].items()
    ]
    head = (
        "# Methods\n\nA page for each: its formula, its source, what was measured here, and where it does not help.\n"
    )
    return "\n".join([head, "| method | | paper |", "|---|---|---|", *rows]) + "\n"


def commands_page() -> str:
    """The help of every command."""
    parts = ["# Commands\n"]
    for name in COMMANDS:
        parser = argparse.ArgumentParser(prog="parediff")
        command = importlib.import_module(f"parediff.commands.{name}").add(parser.add_subparsers())
        parts.append(f"## parediff {name}\n\n```text\n{command.format_help().strip()}\n```\n")
    return "\n".join(parts)


def python_page() -> str:
    """The names of the package, with signatures and docstrings as the sources have them."""
    parts = [
        "# Python\n",
        "`import parediff` shows these names and imports nothing heavy before one of them is used.\n",
    ]
    homes = {
        alias.asname or alias.name: (str(item.module), alias.name)
        for item in ast.walk(tree_of("parediff"))
        if isinstance(item, ast.ImportFrom) and item.module
        for alias in item.names
    }
    for name in parediff.__all__:
        module, inside = homes[name]
        node: Any = next(item for item in tree_of(module).body if getattr(item, "name", None) == inside)
        parts.append(f"## {name}\n\n```python\n{signature(node, name)}\n```\n\n{docstring(node)}\n")
        if isinstance(node, ast.ClassDef):
            parts += [method_entry(item) for item in node.body if isinstance(item, ast.FunctionDef)]
    return "\n".join(parts)


def method_entry(node: ast.FunctionDef) -> str:
    """A method that has something to say of itself."""
    if node.name.startswith("_") or not ast.get_docstring(node):
        return ""
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return f"**`{node.name}`** `({arguments})`\n\n{docstring(node)}\n"


def signature(node: Any, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {name}({', '.join(map(ast.unparse, node.bases))})" if node.bases else f"class {name}"
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {name}({ast.unparse(node.args)}){returned}"


def docstring(node: Any) -> str:
    return escaped(ast.get_docstring(node) or "").replace("\\|", "|")


def record_page() -> str:
    """The fields of record.json, with the comments beside them."""
    source = (PACKAGE / "results" / "record.py").read_text(encoding="utf-8").splitlines()
    node = next(item for item in ast.parse("\n".join(source)).body if getattr(item, "name", "") == "Record")
    rows = []
    for item in node.body:  # type: ignore[attr-defined]
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id != "folder":
            comment = source[item.end_lineno - 1].partition("#")[2].strip()  # type: ignore[operator]
            rows.append(f"| `{item.target.id}` | {escaped(ast.unparse(item.annotation))} | {escaped(comment)} |")
    text = (
        "# The record\n\n`runs/<study>/<id>/record.json`: one file a run, written last, beside `config.yaml` and "
        "`samples.png`.\nNumbers are plain; a number that is not defined is null. `schema` is 1.\n"
    )
    return "\n".join([text, "| key | type | |", "|---|---|---|", *rows]) + "\n"


def code(text: str) -> str:
    return f"`{escaped(text)}`" if text else ""


def escaped(text: str) -> str:
    """Safe inside a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")
