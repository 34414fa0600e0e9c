"""What a user did wrong, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class RequestError(ValueError):
    """The request was wrong: which key, its value, and what would be accepted. The command line exits with 2."""

    def __init__(self, key: str, value: Any, accepted: str) -> None:
        self.key, self.value, self.accepted = key, value, accepted
        super().__init__(f"{key}={shown(value)}: {accepted}")

    def within(self, prefix: str) -> RequestError:
        """The same complaint about `prefix.key`."""
        return RequestError(f"{prefix}.{self.key}", self.value, self.accepted)

    def __reduce__(self) -> tuple[Any, ...]:
        return RequestError, (self.key, self.value, self.accepted)


LONGEST = 300  # characters of a value that are repeated


def shown(value: Any) -> str:
    """A value as it would be typed, on one line."""
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, list | tuple):
        text = f"[{','.join(map(shown, value))}]"
    elif isinstance(value, Mapping):
        text = f"{{{','.join(f'{key}:{shown(entry)}' for key, entry in value.items())}}}"
    else:
        text = words[value] if value is None or isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean x?' where a known name is close to the word, else the empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]}?" if matches else ""
