"""What every command that takes a config takes: overrides and Hydra's own options, anywhere among one another."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

Act = Callable[[list[str]], int]
TOLD = "Hydra overrides, such as method=[ptq] methods.ptq.weight_bits=4; see `parediff list`"
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def add_overrides(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments; `-m` belongs to the commands that take many runs."""
    add_config_dir(parser)
    parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="show the composed config; run nothing")
    parser.add_argument("-p", "--package", metavar="KEY", help="with --cfg: only what is below a key")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: interpolations as values")
    told = "Hydra's account of defaults, plugins and search path; run nothing"
    parser.add_argument("-i", "--info", nargs="?", const="all", choices=INFO, help=told)
    parser.add_argument("overrides", nargs="*", help=TOLD)
    return parser


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    told = "a folder of configs of your own, whose classes lie beside it or are installed; several are accepted"
    parser.add_argument("-cd", "--config-dir", action="append", default=[], metavar="FOLDER", help=told)


def together(act: Act) -> Act:
    """The command, where a launcher began it in several processes: the first acts, the others draw images for it."""

    def acted(overrides: list[str]) -> int:
        if not begun_by_launcher():
            return act(overrides)
        from parediff.pipeline.together import gathered

        with gathered() as is_first:
            return act(overrides) if is_first else 0

    return acted


def begun_by_launcher() -> bool:
    """Whether this may be one of several processes of torchrun or srun."""
    return any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"))


def take_rest(arguments: argparse.Namespace, rest: list[str]) -> list[str]:
    """Overrides that stand behind an option join the others; what is left of the rest is nobody's."""
    if not hasattr(arguments, "overrides"):
        return rest
    arguments.overrides += [entry for entry in rest if not entry.startswith("-")]
    return [entry for entry in rest if entry.startswith("-")]


def asked(arguments: argparse.Namespace, primary: str, act: Act) -> int:
    """Show what Hydra's options ask for, else act; within, the named folders are searched for configs and classes."""
    from parediff.config.compose import Composer
    from parediff.config.show import print_info, searchpath_in, shown_config
    from parediff.config.sources import searching
    from parediff.errors import RequestError

    for option in ("package", "resolve"):
        if getattr(arguments, option) and not arguments.cfg:
            raise RequestError(f"--{option}", "", "it belongs to --cfg job, hydra or all")
    folders, overrides = searchpath_in(arguments.overrides)
    with searching([*arguments.config_dir, *folders]):
        if not arguments.cfg and not arguments.info:
            return act(overrides)
        composer, overrides = Composer(primary), with_files(overrides)
        if arguments.cfg:
            sys.stdout.write(shown_config(composer, overrides, arguments.cfg, arguments.package, arguments.resolve))
        else:
            print_info(composer, overrides, arguments.info)
    return 0


def with_files(overrides: list[str]) -> list[str]:
    """Studies in files of the user's own become the overrides that choose them."""
    from pathlib import Path

    from parediff.config.study import from_file

    return [from_file(Path(entry)) if is_file(entry) else entry for entry in overrides]


def is_file(entry: str) -> bool:
    """Whether an argument is a study in a file rather than an override."""
    from pathlib import Path

    return entry.endswith((".yaml", ".yml")) and ("=" not in entry or Path(entry).is_file())
