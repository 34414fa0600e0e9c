"""What there is: every option of every config group, read from the YAML files themselves."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from parediff.config.sources import Source, sources
from parediff.resources import shipped

BESIDE = ("published", "claims")
"""What lies beside the experiments of a study and is none."""


def catalogue() -> dict[str, dict[str, tuple[str, str]]]:
    """Plural kind -> option -> (description, paper)."""
    groups = sorted({group for source in sources() for group in source.groups})
    found = {plural(group): {name: headline(path) for name, path in files(group).items()} for group in groups}
    found["experiments"] = {name: headline(path) for name, path in experiment_files().items()}
    first = ["methods", "models", "metrics", "samplers", "experiments"]
    return {name: found[name] for name in [*first, *(name for name in found if name not in first)]}


def options(group: str) -> list[str]:
    """What can be chosen in a config group."""
    return sorted(files(group))


def files(group: str) -> dict[str, Path]:
    """Every option of a config group by name, whoever provides it."""
    if group == "experiment":
        return experiment_files()
    return {name: path for source in sources() for name, path in source.files(group).items()}


def plural(group: str) -> str:
    return {"search": "searches"}.get(group, group if group in ("data", "calibration", "statistics") else f"{group}s")


def experiment_files() -> dict[str, Path]:
    """Every experiment by name: those that ship, then conf/experiment of others."""
    others = [source.files("experiment") for source in sources()]
    return shipped_experiments() | {name: path for found in others for name, path in found.items()}


def shipped_experiments() -> dict[str, Path]:
    """Of the package itself: experiments/a/b.yaml is a/b, experiments/a/a.yaml is a."""
    return {
        path.parent.name if path.stem == path.parent.name else f"{path.parent.name}/{path.stem}": path
        for path in sorted(shipped("experiments").glob("*/*.yaml"))
        if path.stem not in BESIDE
    }


def targets() -> frozenset[str]:
    """Every class that a config in the search path names: what a config from elsewhere may name too."""
    return _targets(sources())


@functools.lru_cache(maxsize=8)
def _targets(within: tuple[Source, ...]) -> frozenset[str]:
    paths = (path for source in within for path in source.conf.rglob("*.yaml"))
    lines = (line.strip() for path in paths for line in path.read_text("utf-8").splitlines())
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
