"""What there is: every option of every config group, read from the YAML files themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from parediff.resources import shipped


def catalogue() -> dict[str, dict[str, tuple[str, str]]]:
    """Plural kind -> option -> (description, paper)."""
    groups = sorted(path for path in shipped("conf").iterdir() if path.is_dir())
    found = {
        plural(group.name): {path.stem: headline(path) for path in sorted(group.glob("*.yaml"))} for group in groups
    }
    found["experiments"] = {name: headline(path) for name, path in experiment_files().items()}
    first = ["methods", "models", "metrics", "samplers", "experiments"]
    return {name: found[name] for name in [*first, *(name for name in found if name not in first)]}


def options(group: str) -> list[str]:
    """What can be chosen in a config group."""
    if group == "experiment":
        return list(experiment_files())
    return sorted(path.stem for path in (shipped("conf") / group).glob("*.yaml"))


def plural(group: str) -> str:
    return {"search": "searches"}.get(group, group if group in ("data", "calibration", "statistics") else f"{group}s")


def experiment_files() -> dict[str, Path]:
    """Every experiment by name: experiments/a/b.yaml is a/b, experiments/a/a.yaml is a."""
    return {
        path.parent.name if path.stem == path.parent.name else f"{path.parent.name}/{path.stem}": path
        for path in sorted(shipped("experiments").glob("*/*.yaml"))
        if path.stem != "published"
    }


@functools.cache
def targets() -> frozenset[str]:
    """Every class that a config of the package names: what a config from elsewhere may name too."""
    lines = (line.strip() for path in shipped("conf").rglob("*.yaml") for line in path.read_text("utf-8").splitlines())
    return frozenset(line.removeprefix("_target_:").strip() for line in lines if line.startswith("_target_:"))


def targets_in(value: Any) -> set[str]:
    """Every class that a config names, however deep."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if isinstance(plain, Mapping):
        own = {str(plain["_target_"])} if "_target_" in plain else set()
        return own.union(*(targets_in(entry) for entry in plain.values()))
    return set().union(*map(targets_in, plain)) if isinstance(plain, list) else set()


def headline(path: Path) -> tuple[str, str]:
    """The first comment that is not a package header: '# description | paper'."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith(("# @package", "# smoke:")):
            description, _, paper = line.lstrip("# ").partition("|")
            return description.strip(), paper.strip()
    return "", ""
