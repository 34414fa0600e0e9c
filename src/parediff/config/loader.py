"""Hydra's loader, which composes each request once and lets a saved run's choices follow its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from parediff.config.catalogue import targets, targets_in
from parediff.config.choices import composed
from parediff.config.template import Template
from parediff.errors import RequestError

GROUPS = {"metrics": "metric"}  # where the key of a config is not the name of its group


class Loader(ConfigLoader):
    """A request is checked before it is launched, and launchers ask for its config again: it is kept until then."""

    def __init__(self, hydras: ConfigLoader) -> None:
        self._hydras = hydras
        self._composed: dict[Any, Template] = {}

    def load_configuration(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode, *args: Any, **kwargs: Any
    ) -> Any:
        rest = config_name, tuple(overrides), args, tuple(sorted(kwargs.items()))
        if (rest, run_mode) not in self._composed:
            self._composed[rest, run_mode] = Template(
                inherited(composed(self._hydras, config_name, overrides, run_mode, *args, **kwargs), overrides)
            )
        return self._composed[rest, run_mode].copy()

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A job's config, with the overrides of Hydra's own node that all jobs share."""
        shared = list(master_config.hydra.overrides.hydra)
        name = master_config.hydra.job.config_name
        config = self.load_configuration(name, [*shared, *sweep_overrides], run_mode=RunMode.RUN)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def get_search_path(self) -> ConfigSearchPath:
        return self._hydras.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        return self._hydras.get_sources()

    def list_groups(self, parent_name: str) -> list[str]:
        return self._hydras.list_groups(parent_name)

    def get_group_options(self, *args: Any, **kwargs: Any) -> list[str]:
        return self._hydras.get_group_options(*args, **kwargs)

    def compute_defaults_list(self, *args: Any, **kwargs: Any) -> Any:
        return self._hydras.compute_defaults_list(*args, **kwargs)


def inherited(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with those nodes of a saved run that the overrides do not choose; their single settings stay given."""
    keys = OmegaConf.select(config, "model.inherits", default=None)
    path = OmegaConf.select(config, "model.path", default=None)
    file = Path(str(path)).expanduser() / "config.yaml"
    if keys is None or path is None or not file.is_file():
        return config
    saved, parsed = OmegaConf.load(file), OverridesParser.create().parse_overrides(list(overrides))
    for key in keys:
        chosen = any(item.key_or_group in (key, GROUPS.get(key, key)) for item in parsed)
        if chosen or saved.get(key) is None:
            continue
        for target in targets_in(saved[key]):
            if target not in targets() and target.partition(".")[0] not in (config.get("allow") or ()):
                raise RequestError("model.path", path, f"its {key} names classes that ship; {target} is none")
        with open_dict(config):
            config[key] = saved[key]
        for item in parsed:
            if str(item.key_or_group).startswith(f"{key}.") and not item.is_sweep_override():
                OmegaConf.update(config, str(item.key_or_group), item.value(), force_add=item.is_add())
    return config
