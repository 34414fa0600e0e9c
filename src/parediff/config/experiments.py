"""The experiments that ship as a config group: experiments/a/b.yaml is experiment=a/b, experiments/a/a.yaml is a."""

from __future__ import annotations

import functools
from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig

from parediff.config.catalogue import shipped_experiments
from parediff.config.files import parsed

GROUP = "experiment"
HEADER = {"package": "_global_"}


class ShippedExperiments(ConfigSource):
    """Hydra reads them where they lie, under the names that people give them."""

    @staticmethod
    def scheme() -> str:
        return "experiments"

    def load_config(self, config_path: str) -> ConfigResult:
        path = _paths().get(_name(config_path))
        if path is None:
            raise ConfigLoadError(f"no experiment {config_path}")
        node = parsed(path)[1]
        if not isinstance(node, DictConfig):
            raise ConfigLoadError(f"{path} holds no keys")
        return ConfigResult(config=node, path=f"{self.scheme()}://", provider=self.provider, header=dict(HEADER))

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", GROUP) or any(name.startswith(f"{config_path}/") for name in _paths())

    def is_config(self, config_path: str) -> bool:
        return _name(config_path) in _paths()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        start = f"{config_path}/" if config_path else ""
        below = [name.removeprefix(start) for name in _paths() if name.startswith(start)]
        found = {name for name in below if "/" not in name} if results_filter != ObjectType.GROUP else set()
        if results_filter != ObjectType.CONFIG:
            found |= {name.partition("/")[0] for name in below if "/" in name}
        return sorted(found)


def _name(config_path: str) -> str:
    return config_path.removesuffix(".yaml")


@functools.lru_cache(maxsize=1)
def _paths() -> dict[str, Path]:
    return {f"{GROUP}/{name}": path for name, path in shipped_experiments().items()}
