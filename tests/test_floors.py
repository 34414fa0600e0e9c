"""Imports point downwards, and each heavy library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "parediff"

FLOORS = [
    {"errors", "validation", "atomic", "resources", "provenance", "pareto", "placing"},
    {
        "model",
        "data",
        "workload",
        "record",
        "axes",
        "points",
        "front",
        "front_figure",
        "front_table",
        "front_page",
        "front_report",
        "page",
        "pictures",
        "progress",
        "listing",
    },
    {"quantization", "sampling", "cost", "reuse", "correction", "training"},
    {"methods", "metrics", "calibration", "evaluation"},
    {"compress", "tracking", "baseline"},
    {"configuration", "request", "train", "dashboard", "bench", "run", "study", "classify"},
    {"cli", "__main__"},
]
DOORS = {
    "hydra": {"cli", "configuration", "request", "run", "study", "train"},
    "pytorch_lightning": {"training", "data"},
    "lightning": set(),
    "wandb": {"tracking"},
    "diffusers": {"model"},
}
EXEMPT = {"__init__"}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The module or package right below parediff that a file belongs to."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports when it runs; those only for type checkers do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(part: str) -> int:
    return next(level for level, parts in enumerate(FLOORS) if part in parts)


def parts() -> set[str]:
    return {part_of(path) for path in files()} - EXEMPT - {"assets"}


def test_every_part_has_a_floor() -> None:
    assert parts() <= set().union(*FLOORS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    if own in EXEMPT:
        return
    for name in imports(path):
        if not name.startswith("parediff.") or name == "parediff.__version__":
            continue
        other = name.split(".")[1]
        if other != own and other in parts():
            assert floor_of(other) <= floor_of(own), f"{own} reaches up to {name}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_libraries_come_in_by_their_own_door(path: Path) -> None:
    for name in imports(path):
        library = name.split(".")[0]
        if library in DOORS:
            assert part_of(path) in DOORS[library], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted((SOURCE / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_a_method_never_imports_another(path: Path) -> None:
    others = {f"parediff.methods.{file.stem}" for file in (SOURCE / "methods").glob("*.py")} - {"parediff.methods.base"}
    assert not [name for name in imports(path) if any(name.startswith(other) for other in others)]
