"""Wrong requests, generated: every key of every option with every value that its declaration does not accept.

`python tests/wrong_requests.py` asks them all as a user would and says how many were answered as promised;
`python tests/wrong_requests.py 2/8` asks the second eighth of them.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from parediff.cli import main
from parediff.config.catalogue import options
from parediff.config.reference import Key, keys_of
from parediff.config.schema import frozen
from parediff.errors import shown
from parediff.validation import fits

VALUES = {
    "nonsense": "nonsense",
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "-0.5": -0.5,
    "1000000000000000000000": 10**21,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "null": None,
    "": "",
    "true": True,
    "[]": [],
    "[nonsense]": ["nonsense"],
}
"""As typed, and as read."""
RUN = ("method", "sampler", "workload", "calibration", "metric", "cost", "data", "model", "tracker", "task")
SEVERAL = ("method", "metric", "cost")


class Wrong(NamedTuple):
    """One request, and what its answer has to begin with."""

    command: str
    overrides: tuple[str, ...]
    told: str


class Answer(NamedTuple):
    """What a user saw of it."""

    code: int
    lines: list[str]
    seconds: float
    left: list[str]

    def keeps(self, wrong: Wrong) -> bool:
        """Exit code 2, one line with key, value and more, at once, and nothing on disk."""
        line = self.lines[0] if len(self.lines) == 1 else ""
        promised = line.startswith(f"parediff: {wrong.told}") and len(line) > len(wrong.told) + len("parediff: x")
        return self.code == 2 and promised and not self.left


def wrong_requests(groups: Sequence[str] = RUN) -> Iterator[Wrong]:
    """Of keys of no group, of those groups, and of trainings; once for each key that several options declare alike."""
    yield from _of("run", keys_of("settings")[:17], ())
    for group in groups:
        seen: set[tuple[str, str]] = set()
        for option in options(group):
            keys = [key for key in keys_of(group, option) if (_alike(group, option, key), key.accepted) not in seen]
            seen |= {(_alike(group, option, key), key.accepted) for key in keys}
            chosen = f"{group}=[{option}]" if group in SEVERAL else f"{group}={option}"
            yield from _of("run", keys, (chosen, *_missing(group, option)))
    for option in ("denoising", "classification"):
        yield from _of("train", keys_of("trainer", option), (f"trainer={option}",))


def _alike(group: str, option: str, key: Key) -> str:
    return key.path.replace(f".{option}.", ".", 1) if group in SEVERAL else key.path


def _missing(group: str, option: str) -> list[str]:
    """What has to be given before anything else is looked at."""
    needed = [f"{key.path}=somewhere" for key in keys_of(group, option) if key.default == "???"]
    return [*needed, "metric=[]"] if group == "model" else needed


def _of(command: str, keys: list[Key], chosen: tuple[str, ...]) -> Iterator[Wrong]:
    for key in keys:
        others = [entry for entry in chosen if not entry.startswith(f"{key.path}=")]
        for typed, value in VALUES.items():
            if not fits(frozen(value), key.hint) and not _repeats(key):
                yield Wrong(command, (*others, f"{key.path}={typed}"), f"{key.path}={shown(value)}: ")
        yield Wrong(command, (*others, f"{key.path}x=1"), f"{key.path}x=1: no such key")


def _repeats(key: Key) -> bool:
    """Whether it is a key of the study, which is read before the runs are known."""
    return key.path in ("points", "fewer_steps", "seeds", "allow")


def answered(wrong: Wrong) -> Answer:
    """Asked in this process, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        told, start = io.StringIO(), time.perf_counter()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            code = main([wrong.command, *wrong.overrides])
        return Answer(code, told.getvalue().strip().splitlines(), time.perf_counter() - start, os.listdir(folder))


def kept(wrong: Wrong) -> Answer | None:
    """None where a request is answered as promised, else its answer; a traceback is one too."""
    try:
        answer = answered(wrong)
    except Exception as error:  # noqa: BLE001 - a traceback is what is looked for
        answer = Answer(1, [f"{type(error).__name__}: {error}"], 0.0, [])
    return None if answer.keeps(wrong) else answer


if __name__ == "__main__":
    import sys

    part, parts = (int(word) for word in sys.argv[1].split("/")) if len(sys.argv) > 1 else (1, 1)
    asked = list(wrong_requests())
    chosen = asked[part - 1 :: parts]
    start, broken = time.perf_counter(), 0
    for number, wrong in enumerate(chosen, 1):
        if (answer := kept(wrong)) is not None:
            broken += 1
            print(wrong, answer, flush=True)  # noqa: T201 - a report
        if number % 50 == 0:
            print(f"{number} asked, {broken} broken", flush=True)  # noqa: T201
    print(f"{len(chosen) - broken} of {len(chosen)} as promised, of {len(asked)} in all")  # noqa: T201
    print(f"{(time.perf_counter() - start) / len(chosen):.2f} s each")  # noqa: T201
