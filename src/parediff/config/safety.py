"""What no request may do: name a class of somebody else's, or put a secret where it would be kept."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from parediff.config.catalogue import targets
from parediff.errors import RequestError
from parediff.resources import PACKAGE

SECRET_NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)", re.IGNORECASE)
SECRET_FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[A-Z0-9]{16}\b|://[^/\s:@]+:[^/\s@]+@"
)
"""Tokens of the hub and of code forges, keys of clouds, and passwords in addresses."""
SHORTEST = 8
"""Shorter values of the environment stand in too many texts."""


def check_target(key: str, target: Any, allow: Collection[str]) -> None:
    """Raise RequestError for a class outside this package, of no config of a plugin, and of no package named."""
    first = str(target).partition(".")[0]
    if not isinstance(target, str) or (first not in {PACKAGE.name, *allow} and target not in targets()):
        accepted = f"a class of {PACKAGE.name} is accepted; for one of your own, name its package: allow=[{first}]"
        raise RequestError(f"{key}._target_", target, accepted)


def check_import(key: str, target: Any, allow: Collection[str]) -> None:
    """Raise RequestError for an import path outside the libraries of networks and the packages that the user names."""
    first = str(target).partition(".")[0]
    if isinstance(target, str) and "/" not in target and first not in {"torchvision", PACKAGE.name, *allow}:
        accepted = f"torchvision.models.NAME, timm/NAME or transformers/TYPE is accepted; else allow=[{first}]"
        raise RequestError(key, target, accepted)


def check_secrets(values: Mapping[str, Any]) -> None:
    """Raise RequestError for a secret, which would stand in records and at the tracker; it is not repeated."""
    held = [value for name, value in os.environ.items() if SECRET_NAMES.search(name) and len(value) >= SHORTEST]
    for key, text in _texts(values, ""):
        if SECRET_FORMS.search(text) or any(value in text for value in held):
            accepted = "nothing secret is accepted: it would stand in the record; tokens belong in the environment"
            raise RequestError(key, "…", accepted)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _texts(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry, key)
    elif isinstance(value, str):
        yield key, value
