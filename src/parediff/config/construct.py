"""From a config node to the object it describes; a complaint names its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.config.catalogue import options
from parediff.errors import RequestError

LONGEST = 300  # characters of a library's complaint that are passed on


def class_of(target: str) -> Any:
    """The class that a `_target_` names; RequestError says why it cannot be imported."""
    return within("_target_", get_class, target)


def construct(node: Any, key: str, without: tuple[str, ...] = (), **further: Any) -> Any:
    """The object a config node (and `further` arguments) describes; lists become tuples.

    Which classes a request may name is checked before, by `schema.checked`.
    """
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        known = ", ".join(options(key)) or "an entry with a _target_"
        raise RequestError(key, node, f"{known} is accepted")
    try:
        plain: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise RequestError(key, "", _line(error)) from error
    return _made({name: value for name, value in plain.items() if name not in without}, key, further)


def _made(node: Mapping[str, Any], key: str, further: Mapping[str, Any]) -> Any:
    arguments = {name: _argument(value, f"{key}.{name}") for name, value in node.items() if name != "_target_"}
    return within(key, lambda: get_class(node["_target_"])(**arguments, **further))


def _argument(value: Any, key: str) -> Any:
    """A node inside a node becomes its object, a list a tuple."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _made(value, key, {})
        nested = {name: _argument(item, f"{key}.{name}") for name, item in value.items() if isinstance(item, Mapping)}
        return {**value, **nested}
    return tuple(_argument(entry, key) for entry in value) if isinstance(value, list) else value


def within(key: str, act: Callable[..., Any], *arguments: Any) -> Any:
    """What `act` gives; a wrong value inside is told as a value of `key`."""
    try:
        return act(*arguments)
    except RequestError as error:
        raise error.within(key) from error
    except (TypeError, ValueError, ImportError) as error:
        raise RequestError(key, type(error).__name__, _with_cause(error)) from error


def _with_cause(error: BaseException) -> str:
    """Hydra's complaint and what it began with, such as an import that failed in a file of the user's own."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    told = _line(error).replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", "")
    return told if first is error else f"{told} ({type(first).__name__}: {_line(first)})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:LONGEST]
