"""The table of commands. Nothing else reads argv; what is heavy is imported when a command acts."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from parediff import __version__
from parediff.commands import completion
from parediff.commands.overrides import take_rest

COMMANDS = (
    "run",
    "search",
    "train",
    "evaluate",
    "export",
    "front",
    "compare",
    "claims",
    "status",
    "dashboard",
    "list",
    "bench",
    "sync",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 fine, 1 a run failed, 2 the request was wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-sc"], ["--shell-completion"]):
        return completion.act(words[1:], COMMANDS)
    arguments = _arguments(words)
    from parediff.atomic import WriteError
    from parediff.errors import RequestError
    from parediff.results.interruption import Terminated, ended_in_order

    _quiet()
    try:
        with ended_in_order():
            return arguments.act(arguments)
    except (RequestError, WriteError) as error:
        print(f"parediff: {error}", file=sys.stderr)  # noqa: T201 - this is the command line
        return 2
    except Terminated:
        print("parediff: terminated; finished runs are kept, the same command resumes", file=sys.stderr)  # noqa: T201
        return 143
    except KeyboardInterrupt:
        print("parediff: interrupted; finished runs are kept, the same command resumes", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _arguments(words: list[str]) -> argparse.Namespace:
    """What was asked for; overrides and options may stand in any order."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    unknown = take_rest(arguments, rest)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parediff",
        description="Compress and accelerate diffusion models; every run is one honest point of quality against cost.",
    )
    told = 'install=bash|zsh|fish prints what a shell evaluates, as eval "$(parediff -sc install=bash)"'
    parser.add_argument("-sc", "--shell-completion", metavar="WHAT", help=told)
    parser.add_argument("--version", action="version", version=f"parediff {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        command = importlib.import_module(f"parediff.commands.{name}")
        command.add(commands).set_defaults(act=command.act)
    return parser


def _quiet() -> None:
    """Silence libraries' notices, before they are imported and for worker processes too."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


if __name__ == "__main__":
    entry()
