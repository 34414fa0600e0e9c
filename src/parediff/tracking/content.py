"""What is logged of a record and of a front, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

SECTIONS = ("quality", "fidelity", "cost", "stderr")
FACTS = ("id", "status", "error", "model", "protocol")


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """`section/key: number` for every number of the record; what is null has no point on a curve."""
    return {
        f"{section}/{key}": value
        for section in SECTIONS
        for key, value in record.get(section, {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What tells one run from another in a list of runs."""
    told = {key: str(record[key]) for key in FACTS if record.get(key) is not None}
    return told | {"methods": " + ".join(record.get("methods", [])) or "none"}


def table(points: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns (every key that occurs, in order of appearance) and one row per point; lists and objects as text."""
    columns = list(dict.fromkeys(key for point in points for key in point))
    return columns, [[_cell(point.get(key)) for key in columns] for point in points]


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return " + ".join(value)
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
