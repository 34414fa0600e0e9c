"""What is logged of a record and of a front, as plain values."""

from __future__ import annotations

import hashlib
import json
import re
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


def proofs(record: Mapping[str, Any]) -> dict[str, Any]:
    """`fired/method/key` and `baseline/section/key`: what methods say they did, and the uncompressed model's row."""
    found = {
        f"fired/{method}/{key}": value
        for method, proof in record.get("fired", {}).items()
        for key, value in proof.items()
    }
    for section in ("quality", "stderr", "cost"):
        values = record.get("baseline", {}).get(section, {})
        found |= {f"baseline/{section}/{key}": value for key, value in values.items() if value is not None}
    return {key: _cell(value) for key, value in found.items()}


def fronts_of(front: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """`front` for the first protocol, `front_<protocol>` for each further one."""
    further = list(front.get("fronts", [])[1:])
    return {"front": front} | {f"front_{one['protocol'][:8]}": one for one in further}


def wandb_id(name: str) -> str:
    """The name as W&B's ids may be: no more than 64 of few characters; longer or stranger ones end in a digest."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    if plain == name and len(name) <= 64:
        return name
    return f"{plain[:50]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


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
