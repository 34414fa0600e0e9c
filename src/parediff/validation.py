"""What a field's annotation says of its values: types, ranges, forms and help, declared once and checked everywhere."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from parediff.errors import RequestError, shown

LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """Which numbers are accepted: from `least` to `most`, `above` and `below` excluded."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.above is not None and self.below is not None:
            return f"between {_number(self.above)} and {_number(self.below)}"
        start = f"from {_number(self.least)}" if self.least is not None else f"above {_number(self.above)}"
        if self.least is None and self.above is None:
            return f"below {_number(self.below)}" if self.most is None else f"of at most {_number(self.most)}"
        if self.most is not None:
            return f"{start} to {_number(self.most)}"
        if self.below is not None:
            return f"{start} to below {_number(self.below)}"
        return f"of at least {_number(self.least)}" if self.least is not None else start


@dataclass(frozen=True)
class Form:
    """Which texts are accepted: those that `pattern` matches as a whole; `told` says it in words."""

    pattern: str
    told: str

    def holds(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None


WIDTHS = Form(r"W([2-9]|[12]\d|3[0-2])A([2-9]|[12]\d|3[0-2])", "widths such as W4A8, of 2 to 32 bits,")
"""Bits of weights, and of activations."""

Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]
Whole = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, LARGEST_SEED)]
FirstSeed = Annotated[int, Range(0, 2**62), "the first seed; each image has one of its own, counted from here"]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Dtype = Literal["float32", "float16", "bfloat16"]
Below1 = Annotated[float, Range(0, below=1)]

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def widths_of(text: str) -> tuple[int, int] | None:
    """(bits of weights, of activations) of W4A8; None of what is no such text."""
    match = re.fullmatch(WIDTHS.pattern, text)
    return (int(match[1]), int(match[2])) if match else None


def check_types(instance: Any) -> None:
    """Raise RequestError for the first dataclass field whose value does not fit its annotation."""
    hints = get_type_hints(type(instance), include_extras=True)
    for field in fields(instance):
        value, hint = getattr(instance, field.name), hints[field.name]
        if field.init and not fits(value, hint):
            raise RequestError(field.name, value, f"{describe(hint)} is accepted")


def check_arguments(function: Any, arguments: Mapping[str, Any]) -> None:
    """Raise RequestError for the first argument that does not fit the annotation of a function's parameter."""
    hints = get_type_hints(function, include_extras=True)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            raise RequestError(name, value, f"{describe(hints[name])} is accepted")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value may stand under an annotation; numbers are finite, texts are not empty."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *rules = get_args(hint)
        return fits(value, inner) and all(rule.holds(value) for rule in rules if isinstance(rule, Range | Form))
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if origin is tuple:
        item = get_args(hint)[0] if get_args(hint) else Any
        return isinstance(value, tuple) and all(fits(entry, item) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str) and bool(value.strip())
    if isinstance(origin, type):
        return isinstance(value, origin)
    if isinstance(hint, type) and hint is not Any and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """The annotation in a user's words."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *rules = get_args(hint)
        told = [rule.told for rule in rules if isinstance(rule, Form)]
        return " ".join(told or [describe(inner), *(str(rule) for rule in rules if isinstance(rule, Range))])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint))
    if origin is Literal:
        options = [str(option) for option in get_args(hint)]
        return options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    if origin is tuple:
        return "a list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "keys and values"
    return WORDS.get(hint) or getattr(hint, "__name__", None) or str(hint)


def values_of(hint: Any) -> list[str]:
    """The values that an annotation names one by one, as they are typed; of one that names none, none."""
    origin = get_origin(hint)
    if origin is Annotated:
        return values_of(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [value for option in get_args(hint) for value in values_of(option)]
    if origin is Literal:
        return [shown(option) for option in get_args(hint)]
    return {bool: ["false", "true"], type(None): ["null"]}.get(hint, [])


def help_of(hint: Any) -> str:
    """What an annotation says of a field's meaning; '' where it says nothing."""
    if get_origin(hint) is Annotated:
        said = [extra for extra in get_args(hint)[1:] if isinstance(extra, str)]
        return said[-1] if said else ""
    if get_origin(hint) in (Union, types.UnionType):
        return next((told for option in get_args(hint) if (told := help_of(option))), "")
    return ""


def require(condition: bool, key: str, value: Any, accepted: str) -> None:
    """Raise RequestError unless the condition holds."""
    if not condition:
        raise RequestError(key, value, f"{accepted} is accepted")


def existing_folder(path: str | Path) -> Path:
    """The folder that `path` names; one that is not there is told."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise RequestError("path", path, "no such folder")
    return folder


def _number(value: float | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
