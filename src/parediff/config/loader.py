"""Hydra's loader, which composes each request once and lets a saved run's choices follow its model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from parediff.config.catalogue import targets, targets_in
from parediff.errors import RequestError

GROUPS = {"metrics": "metric"}  # where the key of a config is not the name of its group


class Loader(ConfigLoaderImpl):
    """A request is checked before it is launched, and launchers ask for its config again: it is kept until then."""

    def __init__(self, search_path: Any) -> None:
        super().__init__(search_path)
        self._composed: dict[Any, DictConfig] = {}

    def load_configuration(self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        asked = config_name, tuple(overrides), args, tuple(sorted(kwargs.items()))
        if asked not in self._composed:
            config = super().load_configuration(config_name, overrides, *args, **kwargs)
            self._composed[asked] = inherited(config, overrides)
        return copy.deepcopy(self._composed[asked])


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
        if chosen or key not in saved or key not in config:
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
