"""`parediff train`: an uncompressed model is trained and saved in diffusers' folder format."""

from __future__ import annotations

import argparse
from typing import Any

from parediff.commands.overrides import add_overrides, asked


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("train", help="train an uncompressed model; saves diffusers' folder format")
    return add_overrides(parser)


def act(arguments: argparse.Namespace) -> int:
    return asked(arguments, "train", train_command)


def train_command(overrides: list[str]) -> int:
    """Train an uncompressed model; the last line is its folder."""
    from rich.console import Console

    from parediff.config.compose import Composer
    from parediff.config.schema import checked_training

    config = Composer("train").compose(overrides)
    checked_training(config)
    from parediff.pipeline.train import train

    folder = train(config)
    Console().print(str(folder), soft_wrap=True, highlight=False)
    return 0
