"""What one word may become: groups, options and keys by Hydra's completion plugins, values by the schema."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from typing import Any, get_type_hints

from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.completion_plugin import CompletionPlugin
from omegaconf import OmegaConf

from parediff.config.compose import Composer
from parediff.config.declared import arguments_of, exists
from parediff.config.schema import CHOSEN
from parediff.config.settings import Settings, TrainSettings
from parediff.config.show import searchpath_in
from parediff.config.sources import searching
from parediff.errors import RequestError
from parediff.validation import values_of

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
            composer = Composer(primary)
            found = sorted({*_query(composer, own, asked), *_values(composer, own, asked)})
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
    return [entry for entry in text.getvalue().split("\n") if entry and "._target_" not in entry]


def _values(composer: Composer, overrides: Sequence[str], word: str) -> list[str]:
    """`key=value` for every value that the key's declaration names."""
    key, equals, typed = word.partition("=")
    place, _, name = key.rpartition(".")
    if not equals:
        return []
    try:
        config = composer.compose(overrides)
    except RequestError:  # groups and options are offered all the same
        return []
    if OmegaConf.select(config, place or name) is None:
        return []
    if place:
        named = _of_class(OmegaConf.to_container(OmegaConf.select(config, place), resolve=False), name)
    else:
        kind = Settings if composer.primary == "config" else TrainSettings
        named = values_of(get_type_hints(kind, include_extras=True).get(name))
    return [f"{key}={value}" for value in named if value.startswith(typed)]


def _of_class(node: Any, name: str) -> list[str]:
    """Values of one argument of the class that a node describes; of a name that chooses among entries, the entries."""
    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str) or not exists(target) or name not in (declared := arguments_of(target)):
        return []
    choices = (CHOSEN.search(str(value)) for value in node.values())
    entries = {choice[2] for choice in choices if choice and choice[4] == name}
    return values_of(declared[name].hint) + [entry for among in entries for entry in node.get(among, {})]
