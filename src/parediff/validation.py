"""Checking a dataclass's fields against their annotations, so that a wrong type is named before anything starts."""

from __future__ import annotations

import types
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from parediff.errors import RequestError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def check_types(instance: Any) -> None:
    """Raise RequestError for the first dataclass field whose value does not fit its annotation."""
    hints = get_type_hints(type(instance))
    for field in fields(instance):
        value, hint = getattr(instance, field.name), hints[field.name]
        if not fits(value, hint):
            raise RequestError(field.name, value, f"{describe(hint)} is accepted")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value may stand under an annotation; annotations outside the plain ones are not judged."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        item = get_args(hint)[0] if get_args(hint) else Any
        return isinstance(value, tuple) and all(fits(entry, item) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """The annotation in a user's words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if origin is tuple:
        return "a list"
    return WORDS.get(hint, str(hint))


def require(condition: bool, key: str, value: Any, accepted: str) -> None:
    """Raise RequestError unless the condition holds."""
    if not condition:
        raise RequestError(key, value, f"{accepted} is accepted")
