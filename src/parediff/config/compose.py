"""From overrides to composed configs: experiments, sweeps and points, with every mistake told in one line."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.callbacks import Callbacks  # launchers ask for them; Hydra has no public door to the class
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import parediff.config.resolvers  # noqa: F401 - for what is composed
from parediff.config.catalogue import files, options
from parediff.config.door import opened_hydra
from parediff.config.loader import Loader
from parediff.config.sources import named, searching
from parediff.config.study import Overrides, Study, key_of, of_all_runs
from parediff.config.submission import cluster_of, submit
from parediff.errors import RequestError, nearest


class Composer:
    """Composes one primary config ('config' or 'train') under command-line overrides."""

    def __init__(self, primary: str) -> None:
        self.primary = primary
        self.notes: list[str] = []
        self.hydra = opened_hydra()
        self.hydra.config_loader = self.loader = Loader(self.hydra.config_loader)

    def compose(self, overrides: Sequence[str], *, multirun: bool = False) -> DictConfig:
        """The composed config, with hydra's own node; RequestError names what is wrong with the overrides."""
        mode = RunMode.MULTIRUN if multirun else RunMode.RUN
        try:
            return self.loader.load_configuration(self.primary, opened(overrides), run_mode=mode)
        except (HydraException, OmegaConfBaseException) as error:
            raise self._explain(error, overrides) from error
        except yaml.YAMLError as error:
            raise RequestError("config", "", f"readable YAML ({' '.join(str(error).split())[:300]})") from error
        except ValueError as error:  # how Hydra says that a group was set to nothing
            raise _explain_nothing(error, overrides) from error

    def jobs(self, overrides: Sequence[str]) -> list[Overrides]:
        """The overrides of every run: the product of all sweeps (`key=a,b`), times the study's points and seeds."""
        parser = OverridesParser.create(config_loader=self.loader)
        try:
            parsed = parser.parse_overrides(list(map(quoted, overrides)))
        except HydraException as error:
            raise self._explain(error, overrides) from error
        self._check_sweeper(overrides)
        own = [item for item in parsed if not (item.key_or_group or "").startswith("hydra")]
        for item in own:
            if item.is_sweep_override() and item.is_delete():
                raise RequestError(item.input_line or "", "", "a deletion cannot be swept")
        study = Study(self.compose, self.notes)
        return [job for rest in combinations(own) for job in study.runs(rest)]

    def is_sweep(self, override: str) -> bool:
        """Whether an override names several values."""
        return any(item.is_sweep_override() for item in OverridesParser.create().parse_overrides([quoted(override)]))

    def launch(self, jobs: Sequence[Overrides], task: Any, overrides: Sequence[str]) -> list[Any]:
        """Run `task(config)` for every job with the chosen Hydra launcher; what each returned or raised."""
        config = self._launching(overrides)
        context = HydraContext(config_loader=self.loader, callbacks=Callbacks(config))
        there = functools.partial(_there, task, named())
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=there, config=config)
        return list(launcher.launch([opened(job) for job in jobs], initial_job_idx=0))

    def check_local(self, overrides: Sequence[str]) -> None:
        """Raise RequestError for a launcher that takes runs out of this process."""
        chosen = self._launching(overrides).hydra.runtime.choices.get("hydra/launcher")
        if chosen != "basic":
            told = "local is accepted where the command itself was begun in several processes: they draw for its runs"
            raise RequestError("launcher", chosen, told)

    def hands_over(self, overrides: Sequence[str]) -> bool:
        """Whether the chosen launcher gives runs to a cluster and does not wait for them."""
        return cluster_of(self._launching(overrides)) is not None

    def submit(
        self, jobs: Mapping[str, Overrides], task: Any, overrides: Sequence[str], folder: Path
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Job ids by run, of a launcher that hands over: new ones, and those in the queue; `folder` is the study's."""
        config = self._launching(overrides)
        composed = {run: self.compose(job) for run, job in jobs.items()}
        return submit(
            config.hydra.launcher, str(cluster_of(config)), folder, composed, functools.partial(_there, task, named())
        )

    def _launching(self, overrides: Sequence[str]) -> DictConfig:
        """The config that says how to launch."""
        return self.compose(of_all_runs(_single(overrides, self.loader)), multirun=True)

    def _check_sweeper(self, overrides: Sequence[str]) -> None:
        """Raise RequestError for what would be left out silently: runs are made of commas, points and seeds."""
        told = "no such setting is accepted; name the values themselves, as sampler.steps=10,20"
        for override in overrides:
            key, _, value = override.partition("=")
            if key_of(override).startswith("hydra.sweeper."):
                raise RequestError(key, value, told)
        config = self._launching(overrides)
        chosen = config.hydra.runtime.choices.get("hydra/sweeper")
        if chosen != "basic":
            raise RequestError("hydra/sweeper", chosen, "basic is accepted; `parediff search` looks for good settings")
        given = [key for key in ("max_batch_size", "params") if config.hydra.sweeper.get(key) is not None]
        if given:
            raise RequestError(f"hydra.sweeper.{given[0]}", config.hydra.sweeper[given[0]], told)

    def _explain(self, error: Exception, overrides: Sequence[str]) -> RequestError:
        """Hydra's complaint as key, value and what is accepted."""
        if isinstance(error, MissingConfigException) and error.missing_cfg_file:
            group, _, name = str(error.missing_cfg_file).rpartition("/")
            first, _, within = group.partition("/")
            if within and any(
                one.startswith(f"{within}/") for one in options(first)
            ):  # a name with a folder of its own
                group, name = first, f"{within}/{name}"
            names = options(group) or self.loader.get_group_options(group)
            return RequestError(group or "config", name, f"{', '.join(names)} are accepted.{nearest(name, names)}")
        text = " ".join(str(error).split())
        merging = re.search(r"Error merging override \+*([^=\s]+)=(.*)", text)
        if merging:
            return RequestError(merging[1], merging[2], "a value of the kind that stands there is accepted")
        unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
        if unknown:
            key = unknown.group(1)
            value = next((o.partition("=")[2] for o in overrides if key_of(o) == key), "")
            known = self.known_keys(key, overrides)
            if key.startswith("methods.") and key in known:
                method = key.split(".")[1]
                return RequestError(key, value, f"it belongs to a run with method=[{method}], and this run has none")
            return RequestError(key, value, f"no such key.{nearest(key, known)}")
        return RequestError("overrides", " ".join(overrides), f"not understood: {text[:300]}")

    def known_keys(self, key: str, overrides: Sequence[str] = ()) -> list[str]:
        """Keys beside which `key` would stand under the options that `overrides` choose, and the top-level ones."""
        chosen = [entry for entry in overrides if options(key_of(entry))]
        known = list(flat_keys(self.loader.load_configuration(self.primary, chosen, run_mode=RunMode.MULTIRUN)))
        if key.startswith("methods.") and key.count(".") >= 2:
            method = key.split(".")[1]
            known += self._method_keys(method)
        return known

    def _method_keys(self, method: str) -> list[str]:
        path = files("method").get(method)
        if path is None:
            return []
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return [f"methods.{method}.{entry}" for entry in entries if entry not in ("_target_", "defaults")]


def _there(task: Callable[[Any], Any], folders: list[str], config: Any) -> Any:
    """The task wherever the launcher runs it, with the folders that the request named."""
    with searching(folders):
        return task(config)


def combinations(overrides: Sequence[Override]) -> list[Overrides]:
    """Every combination of swept values; of two settings of one key the later one stands."""
    values: dict[str, Overrides] = {}
    for item in overrides:
        key = item.get_key_element()
        if not item.is_sweep_override():
            values[key] = [item.input_line or ""]  # as it was typed
        elif item.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in item.sweep_string_iterator()]
        else:
            raise RequestError(key, str(item.input_line).partition("=")[2], "values with commas, range() or choice()")
    return [list(chosen) for chosen in itertools.product(*values.values())]


OPEN = ("model.options", "model.arguments", "model.keys", "sampler.options", "reference.options")
"""Where any key may stand: arguments of somebody else's call, which the object itself checks."""


def opened(overrides: Sequence[str]) -> Overrides:
    """The overrides with `++` before those of an open mapping: set where it is there, added where it is not."""
    starts = tuple(name + mark for name in OPEN for mark in ".=")
    return [f"++{override}" if override.startswith(starts) else override for override in map(quoted, overrides)]


def quoted(override: str) -> str:
    """One value with letters of any language, or with =, in the quotes that Hydra wants around such."""
    key, equals, value = override.partition("=")
    plain = value.isascii() and "=" not in value
    if not equals or plain or value.startswith(("'", '"', "[", "{", "$")) or "," in value:
        return override
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def _explain_nothing(error: ValueError, overrides: Sequence[str]) -> RequestError:
    """A group set to null, and what it can be set to."""
    for override in overrides:
        key, _, value = override.partition("=")
        names = options(key_of(override).partition("@")[0])
        if value.strip().lower() in ("null", "") and names:
            return RequestError(key, value, f"{', '.join(names)} are accepted")
    return RequestError("overrides", " ".join(overrides), f"not understood: {' '.join(str(error).split())[:300]}")


def flat_keys(config: Any, prefix: str = "") -> list[str]:
    """Dotted paths of every key outside hydra's node."""
    keys = []
    for key in config:
        path = f"{prefix}{key}"
        if path == "hydra":
            continue
        keys.append(path)
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        if isinstance(config[key], DictConfig):
            keys += flat_keys(config[key], f"{path}.")
    return keys


def _single(overrides: Sequence[str], loader: Any) -> list[str]:
    """The overrides that say how to launch: hydra's own, and everything that is not swept."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(map(quoted, overrides)))
    return [item.input_line for item in parsed if not item.is_sweep_override()]
