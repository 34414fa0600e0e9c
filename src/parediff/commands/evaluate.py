"""`parediff evaluate`: finished images, a pipeline or a kept compressed model, judged on its own."""

from __future__ import annotations

import argparse
from typing import Any

from parediff.commands.overrides import add_overrides, asked, together


def add(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("evaluate", help="score a folder of images, a pipeline or a saved compressed model")
    parser.add_argument("path", metavar="PATH", help="images, a diffusers folder, or runs/<study>/<id> with save=true")
    return add_overrides(parser)


def act(arguments: argparse.Namespace) -> int:
    arguments.overrides = ["study=evaluate", *model_of(arguments.path), *arguments.overrides]
    return asked(arguments, "config", together(evaluate_command))


def model_of(path: str) -> list[str]:
    """The overrides that make a model of what lies at a path."""
    from parediff.data.files import image_files
    from parediff.results.record import STATE
    from parediff.validation import existing_folder

    folder = existing_folder(path)
    kinds = {"model_index.json": "pipeline", str(STATE): "compressed", "model.safetensors": "classifier"}
    kind = next((kind for file, kind in kinds.items() if (folder / file).is_file()), "images")
    images = [f"workload.count={len(image_files(folder))}"] if kind == "images" else []
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [f"model={kind}", f"model.path='{quoted}'", *images]


def evaluate_command(overrides: list[str]) -> int:
    """A table of the numbers; the last line is the record's path."""
    from rich.console import Console

    from parediff.config.compose import Composer
    from parediff.config.schema import checked
    from parediff.errors import RequestError

    config = Composer("config").compose(overrides)
    checked(config)  # before what is heavy
    from parediff.pipeline.score import score

    try:
        record, path = score(config)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001 - it is on record with its traceback; here it is one line
        text = " ".join(str(error).split())
        Console(stderr=True).print(f"failed: {type(error).__name__}: {text}", soft_wrap=True, markup=False)
        return 1
    console = Console()
    console.print(_table(record))
    for name, told in record.remarks.items():
        console.print(f"{name}: {'; '.join(told)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(str(path), soft_wrap=True, highlight=False, markup=False)
    return 0


def _table(record: Any) -> Any:
    """Numbers with their standard errors."""
    from rich.table import Table

    table = Table("", "value", "standard error", box=None, padding=(0, 2))
    for name, value in {**record.quality, **record.cost}.items():
        shown = "none" if value is None else f"{value:.6g}" if isinstance(value, int | float) else str(value)
        error = record.stderr.get(name)
        table.add_row(name, shown, "" if error is None else f"{error:.2g}")
    return table
