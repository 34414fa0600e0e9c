"""How diffusers' networks want to be called."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from parediff.errors import RequestError


@dataclass(frozen=True)
class Convention:
    """How a network wants to be called: the names of x and t, and whether x is a list of one tensor per image."""

    names: tuple[str, ...]
    x: str
    t: str
    listed: bool
    required: tuple[str, ...]
    signature: inspect.Signature


TIMES = ("timestep", "timestep_ratio", "t")
"""What diffusers' networks call the time step."""


@functools.cache
def _class_convention(kind: Any) -> Convention:
    signature = inspect.Signature(list(inspect.signature(kind.forward).parameters.values())[1:])
    names = tuple(signature.parameters)
    times = [name for name in TIMES if name in names]
    if not times:
        raise RequestError("model", kind.__name__, f"a network that takes its time step as {' or '.join(TIMES)}")
    listed = str(signature.parameters[names[0]].annotation).startswith("list")
    required = tuple(
        p.name for p in signature.parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    )
    return Convention(names, names[0], times[0], listed, required, signature)


def convention_of(denoiser: nn.Module) -> Convention:
    """That of the network's class, also while its door is open."""
    kind: Any = type(denoiser)
    return _class_convention(kind)
