"""Hydra through its public doors: a loader of configs that also searches the folders of others."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from parediff.config.experiments import ShippedExperiments
from parediff.config.files import KeptFiles
from parediff.config.sources import OWN, Source, sources
from parediff.resources import shipped

_SEARCHED: ContextVar[tuple[Source, ...]] = ContextVar("searched", default=())


class ConfigsOfOthers(SearchPathPlugin):
    """Puts the configs of installed packages and named folders behind those that ship, for parediff's configs only."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if not _SEARCHED.get():
            return
        for element in search_path.get_path():
            if element.provider == "main":
                element.path = f"{KeptFiles.scheme()}://{element.path}"
        search_path.append(OWN, f"{ShippedExperiments.scheme()}://")
        for source in _SEARCHED.get()[1:]:
            search_path.append(source.provider, f"{KeptFiles.scheme()}://{source.conf}")


def opened_hydra() -> Any:
    """Hydra over everything that `sources()` names; whatever Hydra the process uses besides stays as it is."""
    Plugins.instance().register(KeptFiles)
    Plugins.instance().register(ShippedExperiments)
    Plugins.instance().register(ConfigsOfOthers)
    token = _SEARCHED.set(sources())
    try:
        with initialize_config_dir(str(shipped("conf")), job_name="parediff", version_base="1.3"):
            return GlobalHydra.instance().hydra
    finally:
        _SEARCHED.reset(token)
