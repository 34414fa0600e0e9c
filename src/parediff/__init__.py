"""parediff: compress and accelerate diffusion models, one honest point on a Pareto curve per run.

`load_model`, `compress`, `sample`, `evaluate`, `make_record`, `draw_front`: the line, step by step. `Method`, `Metric`
and `Cost` are what one's own are made of. Nothing heavy is imported before a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parediff.cost.base import Cost
    from parediff.errors import RequestError
    from parediff.methods.base import Method
    from parediff.metrics.base import Metric
    from parediff.models.diffusion.pipeline import DiffusionModel
    from parediff.pipeline.steps import (
        compress,
        draw_front,
        evaluate,
        load_model,
        make_front,
        make_record,
        sample,
    )
    from parediff.results.record import Record
    from parediff.results.record import find as find_records

__version__ = "0.1.0"

__all__ = [
    "Cost",
    "DiffusionModel",
    "Method",
    "Metric",
    "Record",
    "RequestError",
    "compress",
    "draw_front",
    "evaluate",
    "find_records",
    "load_model",
    "make_front",
    "make_record",
    "sample",
]
_HOMES = {
    "Cost": "parediff.cost.base",
    "DiffusionModel": "parediff.models.diffusion.pipeline",
    "Method": "parediff.methods.base",
    "Metric": "parediff.metrics.base",
    "Record": "parediff.results.record",
    "RequestError": "parediff.errors",
    "find_records": "parediff.results.record:find",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'parediff' has no attribute {name!r}")
    module, _, inside = _HOMES.get(name, "parediff.pipeline.steps").partition(":")
    return getattr(importlib.import_module(module), inside or name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
