"""A composed config against what its classes declare: every key, type and range, before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from parediff.config.catalogue import options, targets_in
from parediff.config.declared import arguments_of, descends, exists
from parediff.config.rules import check_axes, check_kind, check_together
from parediff.config.safety import check_import, check_secrets, check_target
from parediff.config.settings import Kept, Settings, TrainSettings, check_seed
from parediff.config.template import Template
from parediff.errors import RequestError, nearest
from parediff.resources import PACKAGE
from parediff.validation import describe, fits


class Group(NamedTuple):
    """A key of the config that classes are chosen for: of which config group, and what they come from.

    `given`: arguments that the line adds. `aside`: keys of the node that are read apart.
    """

    folder: str
    base: str = ""
    many: bool = False
    optional: bool = False
    given: Collection[str] = ()
    aside: Collection[str] = ()


PARTS = ("workload", "sampler", "reference", "calibration", "data")
"""What a task is given."""
SAMPLER = "parediff.models.diffusion.sampler.Sampler"
GROUPS = {
    "model": Group("model", aside=("architecture", "inherits")),
    "methods": Group("method", "parediff.methods.base.Method", many=True),
    "sampler": Group("sampler", SAMPLER),
    "reference": Group("sampler", SAMPLER),
    "workload": Group("workload", "parediff.sampling.workload.Workload"),
    "task": Group("task", "parediff.tasks.base.Task", given=PARTS),
    "calibration": Group("calibration", "parediff.calibration.base.CalibrationSource", given=("data", "fit", "tell")),
    "metrics": Group("metric", "parediff.metrics.base.Metric", many=True),
    "costs": Group("cost", "parediff.cost.base.Cost", many=True),
    "data": Group("data", "parediff.data.base.Images", optional=True),
    "trainer": Group("trainer", "parediff.training.fit.Trainer"),
    "tracker": Group("tracker", "parediff.tracking.base.Tracker"),
    "learner": Group("trainer", "parediff.training.base.Learner", optional=True, given=("network", "scheduler")),
}
TRAINED = GROUPS | {"model": GROUPS["model"]._replace(aside=("architecture", "inherits", "path"))}
"""As a training has it, which writes what a model's path will be."""
LATENCY = "parediff.cost.latency.PairedSeconds"
"""What the settings under `latency` are of."""
CHOICES = ("method", "hydra")
"""Keys that choose and are nothing in themselves."""
LAUNCHERS = ("hydra", "hydra_plugins")
"""Packages whose classes launch runs."""
REPEATED = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
CHOSEN = re.compile(r"\$\{(\.+)([\w.]+)\.\$\{(\.+)(\w+)\}")
"""An entry of a mapping, by the name that another key gives: ${.recipes.${.recipe}.grid}."""


def checked(config: DictConfig, kind: type[Kept] = Settings) -> tuple[dict[str, Any], Any]:
    """The config as plain values, and its settings; RequestError names the first key that is wrong, as it was typed."""
    own = list(kind.__dataclass_fields__)
    for key in config:
        if key not in (*own, *GROUPS, *CHOICES):
            raise RequestError(str(key), _raw(config, str(key)), _unknown(str(key), [*own, *GROUPS]))
    seed = config.get("seed")
    check_seed(OmegaConf.to_object(seed) if OmegaConf.is_config(seed) else seed)
    values = resolved(config)
    try:
        settings = kind.of(values)
        check_secrets(values)
        _check_hydra(config, settings.allow)
        _check_groups(values, settings.allow, TRAINED if kind is TrainSettings else GROUPS)
    except RequestError as error:
        raise RequestError(as_typed(config, error.key), error.value, error.accepted) from error
    return values, settings


def checked_training(config: DictConfig) -> dict[str, Any]:
    """The config of a training as plain values; what cannot be trained is said too."""
    if OmegaConf.select(config, "model.architecture") is None:
        raise RequestError("model", config.model.name, "a model with an architecture to train, such as ddpm_digits")
    if OmegaConf.select(config, "learner") is None:
        raise RequestError("trainer", "", "one that says how to learn, such as denoising or classification")
    values, settings = checked(config, TrainSettings)
    _check_node(values["model"]["architecture"], "model.architecture", Group(""), settings.allow)
    return values


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, without hydra's own; a value that must be given and is not is named."""
    plain = Template(config).copy()
    with open_dict(plain):
        plain.pop("hydra", None)
    try:
        missing = sorted(OmegaConf.missing_keys(plain))
        if missing:
            raise RequestError(missing[0], "???", "a value has to be given")
        return OmegaConf.to_container(plain, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise _unresolved(config, error) from error


def _unresolved(config: DictConfig, error: OmegaConfBaseException) -> RequestError:
    """An interpolation that leads nowhere; where a name chose among entries, the key of that name is told."""
    key = str(error.full_key or "config")
    raw = _raw(config, key)
    repeated, chosen = REPEATED.fullmatch(str(raw)), CHOSEN.search(str(raw))
    if repeated and repeated[1] in GROUPS:
        folder = GROUPS[repeated[1]].folder
        return RequestError(repeated[1], None, f"{', '.join(options(folder))} is accepted, which {key} needs")
    if chosen is None:
        line = " ".join(str(error).split("full_key")[0].split())
        return RequestError(key, raw, f"a value, or ${{key}} of another key, is accepted ({line[:160]})")
    entries, name = (_relative(key, *parts) for parts in (chosen.groups()[:2], chosen.groups()[2:]))
    known = _raw(config, entries)
    if not isinstance(known, Mapping):
        return RequestError(entries, known, "keys and values is accepted")
    return RequestError(name, _raw(config, name), f"one of {', '.join(map(str, known))} is accepted")


def _relative(key: str, dots: str, name: str) -> str:
    return ".".join([*key.split(".")[: -len(dots)], name])


def _raw(config: DictConfig, key: str) -> Any:
    """A value as it stands in the config, interpolations as they are."""
    node: Any = OmegaConf.to_container(config, resolve=False)
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def as_typed(config: DictConfig, key: str) -> str:
    """The key whose value this is: one that only repeats another is told by the other's name."""
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        match = REPEATED.fullmatch(str(_raw(config, ".".join(parts[:end]))))
        if match:
            return as_typed(config, ".".join([match[1], *parts[end:]]))
    return key


def _check_hydra(config: DictConfig, allow: Collection[str]) -> None:
    """Launchers and callbacks are classes too."""
    for target in targets_in(config.get("hydra")):
        check_target("hydra", target, (*LAUNCHERS, *allow))


def _check_groups(values: Mapping[str, Any], allow: Collection[str], groups: Mapping[str, Group]) -> None:
    """Every class of every group, and then what goes together."""
    for key, group in groups.items():
        if key not in values:
            continue
        node = values[key]
        if node is None and (group.optional or group.many):
            continue
        entries = {f"{key}.{name}": entry for name, entry in node.items()} if group.many else {key: node}
        for place, entry in entries.items():
            _check_node(entry, place, group, allow)
    check_import("model.target", values["model"].get("target"), allow)
    if "latency" in values:
        _check_node({"_target_": LATENCY, **values["latency"]}, "latency", Group(""), allow)
    if "costs" in values:
        _check_together(values)


SAMPLED = ("steps", "eta")
"""What records say of samplers, which can be an axis of a front too."""


def _check_together(values: Mapping[str, Any]) -> None:
    methods, metrics = (
        {name: node["_target_"] for name, node in (values.get(key) or {}).items()} for key in ("methods", "metrics")
    )
    check_together(methods)
    check_kind(values["task"]["_target_"], methods, metrics, values["calibration"]["_target_"])
    check_axes(values["front"], [*metrics, *(values["costs"] or {}), *SAMPLED])


def _check_node(node: Any, key: str, group: Group, allow: Collection[str]) -> None:
    """A class, its arguments, and the classes among these."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        known = ", ".join(options(group.folder)) if group.folder and not group.many else ""
        raise RequestError(key, node, f"{known or 'an entry with a _target_'} is accepted")
    target = node["_target_"]
    check_target(key, target, allow)
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            _check_node(value, f"{key}.{name}", Group(""), allow)
    if target.partition(".")[0] != PACKAGE.name:
        return  # of a package that the user named: its own constructor checks
    if not exists(target) or (group.base and not descends(target, group.base)):
        what = group.base.rpartition(".")[2] or "class"
        raise RequestError(f"{key}._target_", target, f"a {what} of {PACKAGE.name} is accepted")
    _check_arguments(node, key, group)


def _check_arguments(node: Mapping[str, Any], key: str, group: Group) -> None:
    declared = arguments_of(node["_target_"])
    for name, value in node.items():
        if name == "_target_" or name in group.aside:
            continue
        if name not in declared or name in group.given:
            raise RequestError(f"{key}.{name}", value, _unknown(str(name), declared))
        if not fits(frozen(value), declared[name].hint):
            raise RequestError(f"{key}.{name}", value, f"{describe(declared[name].hint)} is accepted")
    for name, argument in declared.items():
        if argument.needed and name not in node and name not in group.given:
            raise RequestError(f"{key}.{name}", "", f"{describe(argument.hint)} has to be given")


def _unknown(name: str, known: Collection[str]) -> str:
    return f"no such key.{nearest(name, known)}"


def frozen(value: Any) -> Any:
    """Lists as tuples, however deep."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
