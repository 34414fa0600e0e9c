"""Published numbers of the studies that ship, each with its status of evidence, to be laid over a chart."""

from __future__ import annotations

from typing import Any

import yaml

from parediff.resources import shipped
from parediff.results.number import number

KEYS = ("method", "model", "dataset", "bits", "metric", "source", "status")
NAME = "published.yaml"


def published_points() -> list[dict[str, Any]]:
    """One entry for each value of every experiment's published.yaml; without a status it is unverified."""
    found = []
    for path in sorted(shipped("experiments").glob(f"*/{NAME}")):
        entries = yaml.safe_load(path.read_text(encoding="utf-8")).get("records", [])
        found += [_point(path.parent.name, entry) for entry in entries if number(entry.get("value")) is not None]
    return found


def _point(study: str, entry: dict[str, Any]) -> dict[str, Any]:
    told = {key: str(entry[key]) for key in KEYS if entry.get(key) is not None}
    cost = {key: value for key, value in (entry.get("cost") or {}).items() if number(value) is not None}
    return {"status": "unverified"} | told | {"value": float(entry["value"]), "study": study, "cost": cost}
