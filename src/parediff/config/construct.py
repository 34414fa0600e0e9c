"""From a config node to the object it describes; a complaint names its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.config.catalogue import options
from parediff.errors import RequestError

LONGEST = 300  # characters of a library's complaint that are passed on


def class_of(target: str) -> Any:
    """The class that a `_target_` names."""
    return get_class(target)


def construct(node: Any, key: str, without: tuple[str, ...] = (), **further: Any) -> Any:
    """The object a config node (and `further` arguments) describes; lists become tuples."""
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        known = ", ".join(options(key)) or "an entry with a _target_"
        raise RequestError(key, "null" if node is None else node, f"{known} is accepted")
    try:
        plain: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise RequestError(key, "", _line(error)) from error
    wanted = {name: value for name, value in plain.items() if name not in without}

    def make() -> Any:
        factory = instantiate(wanted, _partial_=True, _convert_="all")
        keywords = {name: _frozen(value) for name, value in factory.keywords.items()}
        return factory.func(*factory.args, **keywords, **further)

    return within(key, make)


def within(key: str, act: Callable[..., Any], *arguments: Any) -> Any:
    """What `act` gives; a wrong value inside is told as a value of `key`."""
    try:
        return act(*arguments)
    except RequestError as error:
        raise error.within(key) from error
    except (TypeError, ValueError, ImportError) as error:
        raise RequestError(key, type(error).__name__, _line(error)) from error
    except Exception as error:
        if isinstance(error.__cause__, RequestError):
            raise error.__cause__.within(key) from error
        if type(error).__module__.startswith("hydra"):
            raise RequestError(key, "", _with_cause(error)) from error
        raise


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _with_cause(error: BaseException) -> str:
    """Hydra's complaint and what it began with, such as an import that failed in a file of the user's own."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    told = _line(error).replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", "")
    return told if first is error else f"{told} ({type(first).__name__}: {_line(first)})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:LONGEST]
