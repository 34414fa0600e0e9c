"""Runs tried on models without weights: what a model or a method refuses is refused before anything starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from parediff.config.request import Request
from parediff.errors import RequestError
from parediff.pipeline.several import drawing


def rehearse(requests: Iterable[Request]) -> None:
    """Raise RequestError for the first run that its model or its methods refuse; no weight is read, nothing is drawn.

    Each model is outlined once. Whatever else goes wrong without weights is not wrong with them, and is the run's to
    tell.
    """
    outlines: dict[str, Any] = {}
    tried: set[str] = set()
    for request in requests:
        model = repr(request.model)
        asked = repr((model, dict(request.methods), request.sampler, request.workload))
        if asked in tried:
            continue
        tried.add(asked)
        try:
            if model not in outlines:
                outlines[model] = request.model.outline()
            _try(request, outlines[model])
        except RequestError:
            raise
        except Exception:  # noqa: BLE001 - see above
            continue


def _try(request: Request, outline: Any) -> None:
    request.task.check_asked(outline)
    if drawing(request) > 1 and not hasattr(outline, "generate"):
        raise RequestError("devices", drawing(request), "1 is accepted for a model that draws no images")
    if not request.methods:
        return
    request.task.check(outline)
    model = outline.copy()
    for method in request.methods.values():
        method.prepare(model)
    for factory in getattr(model, "wrapper_factories", ()):
        if hasattr(factory, "check"):
            factory.check(model, request.sampler)
