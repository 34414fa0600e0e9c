"""What Hydra's own options show of a request instead of running it, and the folders that a request names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from parediff.config.compose import Composer, flat_keys, opened
from parediff.config.study import Overrides, key_of
from parediff.errors import RequestError, nearest

SEARCHPATH = "hydra.searchpath"
ALL = "_global_"


def searchpath_in(overrides: Sequence[str]) -> tuple[list[str], Overrides]:
    """(the folders of `hydra.searchpath=[…]`, the other overrides)."""
    folders: list[str] = []
    for override in overrides:
        if key_of(override) != SEARCHPATH:
            continue
        try:
            value = OverridesParser.create().parse_overrides([override])[0].value()
        except HydraException as error:
            raise RequestError(SEARCHPATH, override.partition("=")[2], "a list of folders is accepted") from error
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise RequestError(SEARCHPATH, value, "a list of folders, as [file:///my/conf,pkg://my_methods/conf]")
        folders += value
    return folders, [override for override in overrides if key_of(override) != SEARCHPATH]


def shown_config(composer: Composer, overrides: Sequence[str], kind: str, package: str | None, resolve: bool) -> str:
    """The composed config as YAML: of the `job`, of `hydra`, or `all` of it; below `package` where one is given."""
    config = composer.compose(overrides)
    HydraConfig.instance().set_config(config)  # what `${hydra:…}` refers to
    with open_dict(config), open_dict(config.hydra):
        OmegaConf.set_readonly(config.hydra, None)
        _keep(config, kind)
    try:
        node = config if package in (None, ALL) else OmegaConf.select(config, str(package))
        if node is None:
            known = flat_keys(config)
            raise RequestError("--package", package, f"a key of the config is accepted.{nearest(str(package), known)}")
        if not OmegaConf.is_config(node):
            return f"{node}\n"
        if resolve:
            OmegaConf.resolve(node)
    except OmegaConfBaseException as error:
        raise RequestError("--resolve", "", " ".join(str(error).split())[:300]) from error
    header = "" if package in (None, ALL) else f"# @package {package}\n"
    return header + OmegaConf.to_yaml(node)


def _keep(config: DictConfig, kind: str) -> None:
    """One part of the config, or all of it."""
    if kind == "job":
        del config["hydra"]
    elif kind == "hydra":
        for key in [key for key in config if key != "hydra"]:
            del config[key]
        del config.hydra["hydra_help"], config.hydra["help"]


def print_info(composer: Composer, overrides: Sequence[str], kind: str) -> None:
    """Hydra's own account of defaults, plugins, search path and config."""
    composer.compose(overrides)  # a wrong request is told in our words, before Hydra prints anything
    with _own_logging():
        composer.hydra.show_info(kind, config_name=composer.primary, overrides=opened(overrides))


@contextmanager
def _own_logging() -> Iterator[None]:
    """Hydra prints through the root logger; what it sets there ends with the block."""
    root: Any = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
