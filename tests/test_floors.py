"""Imports point down the street, nothing goes in a circle, and each heavy library has one door."""

from __future__ import annotations

import ast
import functools
import shutil
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "parediff"
STREET = [
    *("__main__", "cli", "commands", "bench", "testing"),
    "search",
    *("pipeline", "tracking", "report"),
    "config",
    "tasks",
    *("methods", "metrics", "calibration"),
    *("correction", "training"),
    *("quantization", "reuse"),
    *("sampling", "cost", "results"),
    *("models", "data"),
    *("resources", "provenance", "validation", "digest", "atomic", "errors"),
]
"""From the street down to the ground; a part may import only what stands behind it."""
GROUND = {"errors", "atomic", "digest", "validation", "provenance", "resources"}
DOORS = {
    "hydra": {"config"},
    "pytorch_lightning": {"training", "data"},
    "lightning": set(),
    "wandb": {"tracking"},
    "diffusers": {"models"},
    "optuna": {"search"},
}


def imports_of(path: Path) -> list[str]:
    """Dotted names a file imports, wherever in it."""
    return imported(path.read_text(encoding="utf-8"))


@functools.cache
def imported(text: str) -> list[str]:
    """The same of what stands in a file; copies of the package hold what it holds."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def graph_of(source: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports; a package stands for its __init__."""
    named = {
        ".".join(path.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in source.rglob("*.py")
    }

    def module_of(imported: str) -> str:
        return imported if imported in named else imported.rpartition(".")[0]

    return {
        name: {module_of(other) for other in imports_of(path)} & named.keys() - {name} for name, path in named.items()
    }


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def upward(source: Path) -> list[str]:
    """Imports that do not point down."""
    place = {part: index for index, part in enumerate(STREET)}
    return [
        f"{module} imports {other}"
        for module, others in graph_of(source).items()
        for other in others
        if part_of(module) and part_of(other) and place[part_of(other)] < place[part_of(module)]
    ]


def circle(source: Path) -> list[str]:
    """The modules of a circle of imports; none where there is none."""
    try:
        TopologicalSorter({name: others - {"parediff"} for name, others in graph_of(source).items()}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def planted(tmp_path: Path, file: str, line: str) -> Path:
    """A copy of the package with one more import in `file`."""
    copy = tmp_path / "parediff"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    path = copy / file
    path.write_text(path.read_text().replace("from __future__ import annotations\n", f"\n{line}\n", 1))
    return copy


def test_the_street_names_every_part_and_few_modules_lie_loose() -> None:
    loose = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"assets", "__pycache__"}
    assert loose | folders == set(STREET)
    assert loose - {"__main__", "cli"} == GROUND


def test_imports_point_down_and_never_in_a_circle() -> None:
    assert upward(SOURCE) == []
    assert circle(SOURCE) == []


def test_a_planted_import_that_points_up_is_caught(tmp_path: Path) -> None:
    source = planted(tmp_path, "models/tree.py", "from parediff.report import page")
    assert upward(source) == ["parediff.models.tree imports parediff.report.page"]


def test_a_planted_circle_within_a_folder_is_caught(tmp_path: Path) -> None:
    source = planted(tmp_path, "metrics/base.py", "from parediff.metrics.psnr import PeakSignalToNoise")
    assert "parediff.metrics.base" in circle(source)


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_comes_in_by_its_own_door(library: str) -> None:
    strangers = {
        part_of("parediff." + ".".join(path.relative_to(SOURCE).with_suffix("").parts))
        for path in SOURCE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports_of(path))
    }
    assert strangers <= DOORS[library]


def test_a_method_never_imports_another() -> None:
    graph = graph_of(SOURCE)
    shared = {"parediff.methods.base", "parediff.methods.keyframed"}  # abstract: no method of their own
    others = {name for name in graph if name.startswith("parediff.methods.")} - shared
    assert {name: graph[name] & others for name in others if graph[name] & others} == {}
