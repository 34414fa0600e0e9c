"""Methods as command lines ask for them, for tests that ask for many: what these share is composed once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from parediff.config.compose import Composer
from parediff.config.construct import construct

UNSEARCHED = {"weight_search": "minmax", "activation_search": "minmax"}
"""For tests in which a method has to round, and not to find the best intervals: they span what was seen."""
QUICK = {"values": 2048, **UNSEARCHED}
"""The same with few values kept."""


def quick(method: str) -> tuple[str, ...]:
    """The same on a command line."""
    return tuple(f"methods.{method}.{key}={value}" for key, value in QUICK.items())


QUICK_PTQ = quick("ptq")


def method_of(name: str, changes: Mapping[str, object], *overrides: str) -> Any:
    """The shipped method `name` with these of its keys changed, in a request with these overrides."""
    config = copy.deepcopy(_composed(f"method=[{name}]", *overrides))
    for key, value in changes.items():
        OmegaConf.update(config, f"methods.{name}.{key}", value)
    return construct(config.methods[name], f"methods.{name}")


@cache
def _composed(*overrides: str) -> DictConfig:
    return Composer("config").compose(overrides)
