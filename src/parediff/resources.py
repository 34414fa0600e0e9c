"""Where the package's own files lie: beside the code in a wheel, at the repository's root in a checkout."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The folder `name` ('conf', 'experiments') of the installed package, or of the checkout it runs from."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent.parent / name
