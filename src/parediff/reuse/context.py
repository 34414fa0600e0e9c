"""What one sampling run remembers, apart for every input that the network meets within a step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

ADDED = re.compile(r".*(additional_residual|controlnet|intrablock).*")
"""What a ControlNet or an adapter makes anew at every step: of it only the shape counts, of all else the value."""


@dataclass
class Context:
    """Features and held noise for inputs of one shape, dtype, device and condition, such as one half of a guidance.

    `features` are those of the keyframe at `step`, `earlier` of the one `gap` steps before, where they are carried on.
    """

    x: Tensor
    cond: Mapping[str, Any]
    noise: Tensor | None = None
    features: list[Any] = field(default_factory=list)
    step: int = 0
    earlier: list[Any] = field(default_factory=list)
    gap: int = 0

    def follow(self, former: Context, *, carries: bool) -> None:
        """Come after another keyframe's: what nobody reads any more stands in `features` until they are computed."""
        if carries:
            self.earlier, self.gap, self.features = former.features, self.step - former.step, former.earlier
        else:
            self.features = former.features

    def at(self, step: int, extrapolation: float) -> list[Any]:
        """The features, with so large a share of their last change, from keyframe to keyframe, carried on to a step."""
        if not self.earlier:
            return self.features
        reach = 1 + extrapolation * (step - self.step) / self.gap
        pairs = zip(self.earlier, self.features, strict=True)
        return [
            tree_map(lambda a, b: b if a is None or b is None else torch.lerp(a, b, reach), *pair) for pair in pairs
        ]

    def fits(self, x: Tensor, cond: Mapping[str, Any]) -> bool:
        return _alike(self.x, x) and self.cond.keys() == cond.keys() and all(_fits(self.cond, cond, k) for k in cond)


def blank(x: Tensor) -> Tensor:
    """The shape, dtype and device of x without its memory."""
    return x.new_empty(()).expand(x.shape)


def _fits(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    return _same(before[name], now[name], by_value=ADDED.fullmatch(name) is None)


def _same(a: Any, b: Any, *, by_value: bool) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _alike(a, b) and (not by_value or _unchanged(a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key], by_value=by_value) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(*pair, by_value=by_value) for pair in zip(a, b, strict=True))
    return type(a) is type(b) and (not by_value or bool(a == b))


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def _unchanged(a: Tensor, b: Tensor) -> bool:
    return a.device.type == "meta" or torch.equal(a, b)
