"""Hydra's completion plugins, asked about one word."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import CompletionPlugin

from parediff.config.compose import Composer
from parediff.config.show import searchpath_in
from parediff.config.sources import searching
from parediff.errors import RequestError

IN_LIST = re.compile(r"(?P<group>[^=]+=)(?P<done>\[(?:[^,\]]*,)*)(?P<word>[^,\]]*)")
LINE = "COMP_LINE"  # where Hydra's plugins read what is typed


def plugin_for(shell: str, composer: Composer) -> Any:
    """Hydra's plugin for a shell."""
    return next(kind for kind in Plugins.instance().discover(CompletionPlugin) if _provides(kind) == shell)(
        composer.loader
    )


def _provides(kind: Any) -> str:
    try:
        return kind.provides()
    except NotImplementedError:  # Hydra's base for tests
        return ""


def completed(primary: str, folders: Sequence[str], overrides: Sequence[str], word: str) -> list[str]:
    """What a word may become behind some overrides: groups, options, keys and values; of lists the last item."""
    in_list = IN_LIST.fullmatch(word)
    asked = in_list["group"] + in_list["word"] if in_list else word
    try:
        named, own = searchpath_in(overrides)
        with searching([*folders, *named]):
            found = _query(Composer(primary), own, asked)
    except (RequestError, HydraException):  # whoever runs the command is told; whoever still types is left alone
        return []
    if in_list is None:
        return found
    return [entry.replace(in_list["group"], in_list["group"] + in_list["done"], 1) for entry in found]


def _query(composer: Composer, overrides: Sequence[str], word: str) -> list[str]:
    """Through the plugin for fish, which prints a candidate a line."""
    text, before = io.StringIO(), os.environ.get(LINE)
    os.environ[LINE] = " ".join(["parediff", *overrides, word])
    try:
        with contextlib.redirect_stdout(text):
            plugin_for("fish", composer).query(config_name=composer.primary)
    finally:
        os.environ.pop(LINE)
        if before is not None:
            os.environ[LINE] = before
    return [entry for entry in text.getvalue().split("\n") if entry]
