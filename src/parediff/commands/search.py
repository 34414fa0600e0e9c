"""`parediff search`: which runs to do is left to a multi-objective search; every one is a run like any other."""

from __future__ import annotations

import argparse
from typing import Any

from parediff.commands.overrides import TOLD, add_config_dir, together


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("search", help="multi-objective search over methods and their settings (Optuna)")
    parser.add_argument("space", metavar="SPACE", help="a YAML file with a part `search`, or one that ships: digits")
    parser.add_argument("overrides", nargs="*", help=f"search.trials=40 and the like, and {TOLD}")
    add_config_dir(parser)
    return parser


def act(arguments: argparse.Namespace) -> int:
    from parediff.config.show import searchpath_in
    from parediff.config.sources import searching

    folders, overrides = searchpath_in(arguments.overrides)
    with searching([*arguments.config_dir, *folders]):
        return together(lambda own: search_command(arguments.space, own))(overrides)


def search_command(space: str, overrides: list[str]) -> int:
    """Search until as many points are known as were asked for; the last line is the page of the front."""
    from rich.console import Console

    from parediff.config.compose import Composer
    from parediff.errors import RequestError
    from parediff.report.study import study_front
    from parediff.search.optimise import Search
    from parediff.search.settings import asked

    messages, results = Console(stderr=True), Console()
    composer = Composer("config")

    def say(line: str) -> None:
        messages.print(line, soft_wrap=True, highlight=False, markup=False)

    search = Search(asked(space, overrides), composer, say)
    search.run()
    try:
        _, _, page = study_front(search.folder, *search.front_axes, results, search.settings.warm_start)
    except RequestError as error:  # not one point could be measured
        say(f"no front: {error}")
        return 1
    results.print(str(page), soft_wrap=True, highlight=False)
    return 0
