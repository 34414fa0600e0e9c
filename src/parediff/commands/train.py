"""`parediff train`: an uncompressed model is trained and saved in diffusers' folder format."""

from __future__ import annotations

import argparse
from typing import Any

from parediff.commands.run import OVERRIDES


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("train", help="train an uncompressed model; saves diffusers' folder format")
    parser.add_argument("overrides", nargs="*", help=OVERRIDES)
    return parser


def act(arguments: argparse.Namespace) -> int:
    """Train an uncompressed model; the last line is its folder."""
    from rich.console import Console

    from parediff.config.compose import Composer
    from parediff.config.schema import checked_training

    config = Composer("train").compose(list(arguments.overrides))
    checked_training(config)
    from parediff.pipeline.train import train

    folder = train(config)
    Console().print(str(folder), soft_wrap=True, highlight=False)
    return 0
