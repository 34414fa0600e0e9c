"""Hydra's composition with what its choices alone give kept for the process: the runs of a sweep differ in settings."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.config.catalogue import shipped_experiments
from parediff.config.files import state
from parediff.config.template import Template


def composed(
    loader: ConfigLoader,
    config_name: str | None,
    overrides: Sequence[str],
    run_mode: RunMode,
    *args: Any,
    **kwargs: Any,
) -> DictConfig:
    """What `loader.load_configuration` gives, to the last key; files that were changed are read anew."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    one = run_mode is RunMode.RUN
    for_hydra = any(_is_for_hydra(item) or (one and item.is_sweep_override()) for item in parsed)
    if not (args or kwargs or for_hydra):
        folders = Folders.of(loader)
        settings = [item for item in parsed if folders.is_setting(item)]
        choices = tuple(str(item.input_line) for item in parsed if item not in settings)
        config = _of_choices(folders, config_name, choices).copy()
        left_open = "???" in config.hydra.runtime.choices.values()
        with contextlib.suppress(OmegaConfBaseException):  # Hydra, below, says what is wrong
            if not (one and left_open):
                return _with(config, settings, parsed)
    return loader.load_configuration(config_name, list(overrides), run_mode, *args, **kwargs)


def _is_for_hydra(item: Override) -> bool:
    """Whether an override is of Hydra's own node, or adds or removes a key, which Hydra has rules for."""
    return bool(item.is_hydra_override() or item.is_add() or item.is_delete())


def _with(config: DictConfig, settings: Sequence[Override], every: Sequence[Override]) -> DictConfig:
    """The config with the settings, and with what Hydra notes of a request in its own node."""
    for item in settings:
        OmegaConf.update(config, str(item.key_or_group), item.value(), merge=True, force_add=item.is_force_add())
    lines = [str(item.input_line) for item in every]
    config.hydra.overrides.task = lines
    config.hydra.runtime.cwd = os.getcwd()
    names = config.hydra.job.config.override_dirname
    kept = [line for item, line in zip(every, lines, strict=True) if item.key_or_group not in names.exclude_keys]
    config.hydra.job.override_dirname = names.item_sep.join(sorted(kept)).replace("=", names.kv_sep)
    return config


@dataclass(frozen=True)
class Folders:
    """Where a loader looks, and the state of the files there; two of one state are equal."""

    state: tuple[Any, ...]
    loader: ConfigLoader = field(compare=False)

    @staticmethod
    def of(loader: ConfigLoader) -> Folders:
        """The folders that `loader` searches, as they are now."""
        found = tuple((source.scheme(), source.provider, source.path) for source in loader.get_sources())
        read = [state(Path(path)) for scheme, _, path in found if scheme in ("file", "kept")]
        return Folders((found, *read, *map(state, shipped_experiments().values())), loader)

    def is_setting(self, item: Override) -> bool:
        """Whether an override sets a value, and neither chooses an option nor names several."""
        if item.is_sweep_override() or item.package is not None:
            return False
        group = any(source.is_group(str(item.key_or_group)) for source in self.loader.get_sources())
        return not group or isinstance(item.value(), dict)


@functools.lru_cache(maxsize=256)
def _of_choices(folders: Folders, config_name: str | None, choices: tuple[str, ...]) -> Template:
    """The config under these choices alone; as for several runs, which may leave a choice open."""
    return Template(folders.loader.load_configuration(config_name, list(choices), RunMode.MULTIRUN))
