"""YAML files as Hydra reads them, each parsed once a process: a composition reads thirty, and most do not change."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf

from parediff.config.template import Template


class KeptFiles(ConfigSource):
    """A folder of config groups; a file that was changed is read anew."""

    @staticmethod
    def scheme() -> str:
        return "kept"

    def load_config(self, config_path: str) -> ConfigResult:
        path = self._file(config_path)
        if not path.is_file():
            raise ConfigLoadError(f"Config not found : {path}")
        text, node = parsed(path)
        header = self._get_header_dict(text[:512])
        return ConfigResult(config=node, path=f"file://{self.path}", provider=self.provider, header=header)

    def available(self) -> bool:
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        return (Path(self.path) / config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return self._file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = []
        for path in (Path(self.path) / config_path).iterdir():
            self._list_add_result(found, str(Path(config_path) / path.name), path.name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> Path:
        return Path(self.path) / self._normalize_file_name(config_path)


def parsed(path: Path) -> tuple[str, DictConfig | ListConfig]:
    """A file's text and its content, which is the caller's own."""
    text, node = _parsed(*_state(str(path)))
    return text, node.copy()


@functools.lru_cache(maxsize=512)
def _parsed(path: str, _: int, __: int) -> tuple[str, Template]:
    text = Path(path).read_text(encoding="utf-8")
    return text, Template(OmegaConf.load(io.StringIO(text)))


def state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """A file's, or those of a folder's YAML files: name, time of change in ns and bytes."""
    return tuple(sorted(_states(str(path)))) if path.is_dir() else (_state(str(path)),)


def _states(folder: str) -> Iterator[tuple[str, int, int]]:
    """Links are followed, each folder once."""
    seen: set[str] = set()
    for place, below, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (_state(os.path.join(place, name)) for name in names if name.endswith((".yaml", ".yml")))


def _state(path: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except FileNotFoundError:  # a link that leads nowhere is no config, until it leads somewhere
        return path, 0, 0
    return path, stat.st_mtime_ns, stat.st_size
