"""Every key there is: what it accepts, what it is without being set, what it means; for help and for the manual."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml
from omegaconf import OmegaConf

from parediff.config.catalogue import headline, options
from parediff.config.compose import Composer
from parediff.config.declared import arguments_of, exists
from parediff.config.schema import GROUPS, LATENCY
from parediff.config.settings import Settings, TrainSettings
from parediff.resources import shipped
from parediff.validation import describe, help_of

PARTS = ("extractor", "statistics")
"""Groups whose options stand inside metrics."""
KEYS = {group.folder: key for key, group in GROUPS.items() if key not in ("reference", "learner")}
"""Config group -> the key under which its option stands."""


SEVERAL = ("method", "metric", "cost")
"""Groups of which several options can be chosen."""


class Key(NamedTuple):
    """One key of a config. `hint` is the annotation of the argument that takes it."""

    path: str
    hint: Any
    default: Any
    meaning: str

    @property
    def accepted(self) -> str:
        return describe(self.hint)


def groups() -> list[str]:
    """The config groups that have keys, `settings` being those of no group."""
    return ["settings", *KEYS, *PARTS]


def places() -> dict[str, str]:
    """Key of a config -> the config group that is chosen for it."""
    return {**{key: group for group, key in KEYS.items()}, "learner": "trainer"}


def keys_of(group: str, option: str | None = None) -> list[Key]:
    """The keys of an option, in the order of its YAML; of `settings`, those of runs and of trainings."""
    if group == "settings":
        return _settings()
    node, place = _composed(group, str(option))
    told = comments(group, str(option))
    return list(_keys(node, place, place, told))


def _settings() -> list[Key]:
    """Of both primary configs."""
    found: dict[str, Key] = {}
    for primary, kind in (("config", Settings), ("train", TrainSettings)):
        file = shipped("conf") / f"{primary}.yaml"
        told, values = _comments(file), yaml.safe_load(file.read_text(encoding="utf-8"))
        hints = get_type_hints(kind, include_extras=True)
        for name, hint in hints.items():
            if name == "latency":
                found |= {key.path: key for key in _keys({"_target_": LATENCY, **values[name]}, name, name, told)}
            elif name == "front":
                found |= {f"front.{axis}": _axis(axis, values[name][axis]) for axis in "xy"}
            else:
                found.setdefault(name, Key(name, hint, values.get(name), told.get(name) or help_of(hint)))
    return list(found.values())


def _axis(axis: str, default: Any) -> Key:
    cost, quality = "the cost; null: bops, or the first one that is measured", "the quality; null: the first metric"
    meaning = cost if axis == "x" else quality
    return Key(f"front.{axis}", str | None, default, f"{meaning}, on the study's front")


def _composed(group: str, option: str) -> tuple[Any, str]:
    """The node of one option as it stands in a config, interpolations as they are, and its key.

    One composition shows all options of a group; those of trainers have two nodes and are composed one by one.
    """
    if group in SEVERAL:
        every = _plain("config", f"{group}=[{','.join(options(group))}]")
        return every[KEYS[group]][option], f"{KEYS[group]}.{option}"
    if group == "trainer":
        plain = _plain("train", f"{group}={option}")
        return {name: plain[name] for name in ("trainer", "learner") if name in plain}, ""
    every = _plain("config", *(f"+{group}@parts.{name}={name}" for name in options(group)))
    return every["parts"][option], group if group in PARTS else KEYS[group]


@functools.lru_cache(maxsize=64)
def _plain(primary: str, *chosen: str) -> Any:
    return OmegaConf.to_container(_composer(primary).compose(chosen), resolve=False)


@functools.cache
def _composer(primary: str) -> Composer:
    return Composer(primary)


def _keys(node: Mapping[str, Any], path: str, root: str, told: Mapping[str, str]) -> Iterator[Key]:
    """Of a node, those of the classes inside it after it."""
    target = node.get("_target_")
    declared = arguments_of(target) if isinstance(target, str) and exists(target) else {}
    for name, value in node.items():
        if name in ("_target_", "inherits"):
            continue
        place = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _keys(value, place, root, told)
        elif name in declared:
            inner = place.removeprefix(f"{root}.")
            yield Key(place, declared[name].hint, value, told.get(inner) or help_of(declared[name].hint))


def comments(group: str, option: str) -> dict[str, str]:
    """What an option's YAML, or those that it builds on, say beside each key."""
    path = shipped("conf") / group / f"{option}.yaml"
    found: dict[str, str] = {}
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for entry in content.get("defaults", []):
        for choice, name in entry.items() if isinstance(entry, dict) else [(None, entry)]:
            if choice is None and name != "_self_":
                found |= comments(group, str(name).partition("@")[0])
            elif choice and choice.startswith("/"):
                other, _, place = choice.lstrip("/").partition("@")
                found |= {f"{place}.{key}": text for key, text in comments(other, str(name)).items()}
    return found | _comments(path)


def _comments(path: Path) -> dict[str, str]:
    """Dotted key -> the comment on its line."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            place = f"{prefix}{key.value}"
            inside = isinstance(value, yaml.CollectionNode) and not value.flow_style
            mark = key.end_mark if inside else value.end_mark
            _, hash_sign, comment = lines[min(mark.line, len(lines) - 1)][mark.column :].partition("# ")
            if hash_sign:
                yield place, comment.strip()
            yield from walk(value, f"{place}.")

    return dict(walk(yaml.compose(text, Loader=yaml.SafeLoader), ""))


def reference() -> dict[str, str]:
    """Markdown of the manual's reference: name of a page -> its text, one page a config group."""
    return {group: page(group) for group in groups()}


def page(group: str) -> str:
    """Every option of a group, and every key of each."""
    title = f"# {group if group == 'settings' else KEYS.get(group, group)}\n"
    if group == "settings":
        return "\n".join([title, "Keys of no group.\n", *_table(keys_of(group))]) + "\n"
    parts = [title]
    for option in options(group):
        description, paper = headline(shipped("conf") / group / f"{option}.yaml")
        parts += [f"## {option}\n", f"{description}{f' ({paper})' if paper else ''}\n"]
        keys = keys_of(group, option)
        parts += [*_table(keys), ""] if keys else ["No keys.\n"]
    return "\n".join(parts).rstrip() + "\n"


def _table(keys: list[Key]) -> list[str]:
    rows = [f"| `{key.path}` | {_cell(key.accepted)} | `{told(key.default)}` | {_cell(key.meaning)} |" for key in keys]
    return ["| key | accepted | default | meaning |", "|---|---|---|---|", *rows]


def told(value: Any) -> str:
    """A default as it would be typed."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, Mapping | list):
        return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
