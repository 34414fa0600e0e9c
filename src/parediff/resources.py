"""Where the package's own files lie: beside the code in a wheel, at the repository's root in a checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ASSETS = "assets://"


def shipped(name: str) -> Path:
    """The folder `name` ('conf', 'experiments') of the installed package, or of the checkout it runs from."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent.parent / name


def folder_of(path: str | Path) -> Path:
    """The folder a model's path means; `assets://name` is one that ships."""
    text = str(path)
    return PACKAGE / "assets" / text.removeprefix(ASSETS) if text.startswith(ASSETS) else Path(path).expanduser()
