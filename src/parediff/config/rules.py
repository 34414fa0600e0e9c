"""What goes together: methods with one another, and methods, metrics and calibrations with the kind of model.

The rules are over what classes declare of themselves, so that they hold for classes that no rule has ever named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import OmegaConf

from parediff.config.catalogue import files
from parediff.config.construct import class_of
from parediff.config.declared import descends, exists, fact
from parediff.errors import RequestError, nearest

Named = str | type
"""A class by its import path, which nothing imports where it ships, or the class itself."""


def declared_fact(target: Named, name: str) -> Any:
    """What a class says of itself; one that does not ship is asked, which imports it."""
    if isinstance(target, type):
        return getattr(target, name)
    return fact(target, name) if exists(target) else getattr(class_of(target), name)


def check_together(methods: Mapping[str, Named]) -> None:
    """Raise RequestError for classes of methods, by name, that cannot be applied one after another."""
    asked = f"[{','.join(methods)}]"
    families = {name: declared_fact(target, "family") for name, target in methods.items()}
    for family in sorted({*families.values()} - {""}):
        same = [name for name in methods if families[name] == family]
        if len(same) > 1:
            raise RequestError("method", asked, f"one method of {family} is accepted, {' or '.join(same)}")
    name, target = next(iter(methods.items()), ("", ""))
    if target and declared_fact(target, "corrects") and not declared_fact(target, "comes_first"):
        raise RequestError("method", asked, f"{name} behind what it repairs, as [ptq,{name}], is accepted")


def check_kind(task: Named, methods: Mapping[str, Named], metrics: Mapping[str, Named], calibration: Named) -> None:
    """Raise RequestError for what is of the other kind of model: it gives images, or it names classes."""
    judged, source = declared_fact(task, "judges"), declared_fact(task, "accepts")
    if not _comes_from(calibration, source):
        named = [name for name, target in calibrations().items() if _comes_from(target, source)]
        kind = "images from a sampler" if judged == "images" else "classes"
        asked = (calibration if isinstance(calibration, str) else f"{calibration.__module__}.").split(".")[-2]
        raise RequestError("calibration", asked, f"for a model that gives {kind}, {', '.join(named)} are accepted")
    for name, target in methods.items():
        serves = declared_fact(target, "serves")
        if judged not in serves:
            served = "denoisers" if "images" in serves else "classifiers"
            raise RequestError("method", name, f"a method for this kind of model is accepted, this one is for {served}")
    for name, target in metrics.items():
        judges = declared_fact(target, "judges")
        if judges != judged:
            raise RequestError("metric", name, f"a metric of {judged} is accepted, this one judges {judges}")


def check_axes(front: Mapping[str, Any], measured: Collection[str]) -> None:
    """Raise RequestError for an axis by its short name that no run will have; full keys, as seconds.load, pass."""
    for axis, key in front.items():
        if key is not None and "." not in key and key not in measured:
            told = f"{', '.join(measured)}, or the full key of a record's number is accepted"
            raise RequestError(f"front.{axis}", key, f"{told}.{nearest(key, measured)}")


def _comes_from(target: Named, source: Any) -> bool:
    """Whether a class is of a family, which is a class or, read from a source, its name."""
    if isinstance(target, type):
        return (source if isinstance(source, str) else source.__name__) in {kind.__name__ for kind in target.__mro__}
    if exists(target):
        return descends(target, source if isinstance(source, str) else source.__name__)
    name = source if isinstance(source, str) else source.__name__
    return name in {kind.__name__ for kind in class_of(target).__mro__}


def calibrations() -> dict[str, str]:
    """The class of every option of the group by name."""
    nodes = {name: OmegaConf.load(path) for name, path in files("calibration").items()}
    return {name: str(OmegaConf.select(node, "_target_")) for name, node in nodes.items()}
