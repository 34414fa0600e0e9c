"""What a search is asked for, read from its file and from `search.` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from parediff.config.study import stored
from parediff.errors import RequestError, nearest
from parediff.resources import shipped
from parediff.search.space import Params, Space
from parediff.validation import check_types, require

PREFIX = "search."
LEAST = 2  # objectives: with one there is no front


@dataclass(frozen=True)
class SearchSettings:
    """The `search` part of a search's file.

    `objectives` are costs and metrics of the runs, each in its own direction. `few`: images that a candidate draws
    first; it goes no further where that many already show it beaten by `margin` standard errors. `constraints`: keys of
    the record with the most they may be. `first`: points to begin with. `warm_start`: paths of finished records.
    """

    objectives: tuple[str, ...]
    space: Space
    trials: int
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    seed: int = 0
    few: int | None = None
    margin: float = 2.0
    constraints: Mapping[str, float] = field(default_factory=dict)
    first: tuple[Params, ...] = ()
    warm_start: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_types(self)
        require(len(self.objectives) >= LEAST, "objectives", list(self.objectives), f"{LEAST} keys or more")
        require(self.trials >= 1, "trials", self.trials, "a whole number of at least 1")
        require(self.few is None or self.few >= 2, "few", self.few, "null, or 2 images or more,")
        require(self.margin >= 0, "margin", self.margin, "a number of standard errors")
        for key, most in self.constraints.items():
            numeric = isinstance(most, int | float) and not isinstance(most, bool)
            require(numeric, f"constraints.{key}", most, "the most it may be, a number,")


@dataclass(frozen=True)
class Asked:
    """A search: its settings, and the overrides that all of its runs share."""

    settings: SearchSettings
    overrides: tuple[str, ...]


def asked(name: str, overrides: Sequence[str]) -> Asked:
    """The search in a file, or of that name among those that ship, under overrides; RequestError for what is wrong."""
    path = _path(name)
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError("search", name, f"a readable YAML file ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(node, dict) or not isinstance(node.get("search"), dict):
        raise RequestError("search", name, "a file with a part `search`, as conf/search/digits.yaml has one")
    own = [entry for entry in overrides if entry.startswith(PREFIX)]
    described = node.pop("search") | dict(_pair(entry) for entry in own)
    experiment = stored(path.stem, node)
    return Asked(_settings(described), (experiment, *(entry for entry in overrides if entry not in own)))


def _path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name).expanduser()
    known = {path.stem: path for path in sorted((shipped("conf") / "search").glob("*.yaml"))}
    if name not in known:
        raise RequestError("search", name, f"a YAML file, or one of {', '.join(known)}.{nearest(name, known)}")
    return known[name]


def _pair(override: str) -> tuple[str, Any]:
    key, equals, text = override.removeprefix(PREFIX).partition("=")
    if not equals:
        raise RequestError(f"{PREFIX}{key}", text, "a value is accepted: search.trials=40")
    return key, yaml.safe_load(text)


def _settings(described: dict[str, Any]) -> SearchSettings:
    known = [one.name for one in fields(SearchSettings)]
    for key in described:
        if key not in known:
            raise RequestError(f"{PREFIX}{key}", described[key], f"no such key.{nearest(key, known)}")
    for key in ("objectives", "space", "trials"):
        if key not in described:
            raise RequestError(f"{PREFIX}{key}", "", "a value has to be given")
    space = Space.of(described["space"])
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in described.items()
    }
    first = tuple(space.checked(point) for point in values.get("first") or ())
    try:
        return SearchSettings(**values | {"space": space, "first": first})
    except RequestError as error:
        raise error.within("search") from error
