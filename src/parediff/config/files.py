"""YAML files as Hydra reads them, each parsed once a process: a composition reads thirty, and most do not change."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, ListConfig, OmegaConf


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
        return ConfigResult(config=node.copy(), path=f"file://{self.path}", provider=self.provider, header=header)

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
    """A file's text and content, which the caller copies before changing it."""
    stat = path.stat()
    return _parsed(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=512)
def _parsed(path: Path, _: int, __: int) -> tuple[str, DictConfig | ListConfig]:
    text = path.read_text(encoding="utf-8")
    return text, OmegaConf.load(io.StringIO(text))
