"""`parediff -sc install=SHELL`: completion of commands, groups, options, keys and values, by Hydra's own plugins."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

WITH_CONFIG = {"run": "config", "train": "train", "evaluate": "config", "search": "config"}
"""Commands that take overrides, and what they compose."""
OPTIONS = ("--cfg", "--config-dir", "--info", "--multirun", "--package", "--resolve")
SHELLS = {"bash": "bash", "zsh": "bash", "fish": "fish"}
"""Shells and whose completion they use: Hydra's for bash serves zsh too."""
PREPARED = {"zsh": "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit"}


@dataclass(frozen=True)
class Line:
    """A command line as far as it is typed: the words before the last one, and the last one, which may be empty."""

    words: tuple[str, ...]
    last: str

    @classmethod
    def of(cls, text: str) -> Line:
        words = text.split()[1:]  # the first is the program
        return cls(tuple(words), "") if text.endswith(" ") or not words else cls(tuple(words[:-1]), words[-1])


def act(words: Sequence[str], commands: Sequence[str]) -> int:
    """One of install, uninstall and query, for one shell."""
    verb, _, shell = (words[0] if words else "").partition("=")
    if verb not in ("install", "uninstall", "query") or shell not in SHELLS or len(words) > 1:
        told = "install=SHELL or uninstall=SHELL is accepted, SHELL being bash, zsh or fish"
        print(f"parediff: --shell-completion={' '.join(words)}: {told}", file=sys.stderr)  # noqa: T201
        return 2
    if verb == "query":
        found = candidates(Line.of(os.environ.get("COMP_LINE", "")), commands)
        print((" " if SHELLS[shell] == "bash" else "\n").join(found))  # noqa: T201
        return 0
    from parediff.config.completion import plugin_for
    from parediff.config.compose import Composer

    if verb == "install" and shell in PREPARED:
        print(PREPARED[shell])  # noqa: T201
    getattr(plugin_for(SHELLS[shell], Composer("config")), verb)()
    return 0


def candidates(line: Line, commands: Sequence[str]) -> list[str]:
    """What the last word may become; nothing where files are wanted, or where the rest is not understood."""
    if not line.words:
        return [name for name in commands if name.startswith(line.last)]
    if line.words[0] == "list":
        from parediff.config.catalogue import catalogue

        return [kind for kind in catalogue() if kind.startswith(line.last)]
    primary = WITH_CONFIG.get(line.words[0])
    if primary is None:
        return []
    if line.last.startswith("-"):
        return [option for option in OPTIONS if option.startswith(line.last)]
    from parediff.config.completion import completed

    return completed(primary, *_split(line.words[1:]), line.last)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(folders after --config-dir, overrides) of what is typed before the last word."""
    folders: list[str] = []
    overrides: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word in ("-cd", "--config-dir"):
            folders.append(next(waiting, ""))
        elif "=" in word and not word.startswith("-"):
            overrides.append(word)
    return folders, overrides
