"""Settings of a benchmark: a dataclass, filled from key=value; and the threads that it is measured with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import torch
import yaml

from parediff.errors import RequestError, nearest

Settings = TypeVar("Settings")


def settings_from(kind: type[Settings], overrides: Sequence[str]) -> Settings:
    """`kind(**values)`; an unknown key or a value that is no YAML is named."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in known:
            raise RequestError(key, text, f"{', '.join(known)} are accepted.{nearest(key, known)}")
        value = yaml.safe_load(text)
        values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of the processor inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
