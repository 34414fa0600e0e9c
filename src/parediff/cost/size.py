"""Bytes of a denoiser as it would be deployed: codes at their widths, steps and tables, the rest at its dtype."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from parediff.cost.layers import declared_bits, weight_layers


@dataclass(frozen=True)
class Stored:
    """One tensor and how many bits each of its values takes. `weight`: of a convolution or linear."""

    tensor: Tensor
    bits: float
    weight: bool = False

    @property
    def bytes(self) -> int:
        """Packed, and rounded up to a whole byte."""
        return math.ceil(self.tensor.numel() * self.bits / 8)


@dataclass(frozen=True)
class Size:
    """Bytes: weights of convolutions and linears bit-packed at their declared bits, and all else.

    All else is biases, norms, embeddings, and the steps, zero points and tables of quantisers.
    """

    weights: int
    other: int

    @property
    def total(self) -> int:
        return self.weights + self.other


def exported(denoiser: nn.Module) -> dict[str, Stored]:
    """What a deployed network stores, by name. A tensor that is shared is there once.

    A module that has `deployed()` says itself what that is, as (tensor, bits) by name, its `codes` being the weight; of
    every other it is its parameters and buffers. So what is needed for training or calibration alone stays out.
    """
    layers: list[tuple[str, nn.Module, Any]] = list(weight_layers(denoiser))
    widths = {id(layer.weight): declared_bits(module, "weight_bits", layer.weight) for _, module, layer in layers}
    found: dict[str, Stored] = {}
    seen: set[int] = set()
    for name, stored in _walk(denoiser, "", widths, seen):
        if id(stored.tensor) not in seen:
            seen.add(id(stored.tensor))
            found[name] = stored
    return found


def _walk(module: Any, prefix: str, widths: dict[int, float], seen: set[int]) -> Iterator[tuple[str, Stored]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    if hasattr(module, "deployed"):
        for name, (tensor, bits) in module.deployed().items():
            yield prefix + name, Stored(tensor, bits, name.startswith("codes"))
        return
    for name, tensor in module.state_dict(keep_vars=True).items():
        if "." not in name and isinstance(tensor, Tensor):
            bits = widths.get(id(tensor))
            yield prefix + name, Stored(tensor, bits or 8.0 * tensor.element_size(), bits is not None)
    for name, child in module.named_children():
        yield from _walk(child, f"{prefix}{name}.", widths, seen)


def size(denoiser: nn.Module) -> Size:
    """Of what is exported."""
    found = exported(denoiser).values()
    sides = {weight: sum(stored.bytes for stored in found if stored.weight == weight) for weight in (True, False)}
    return Size(sides[True], sides[False])


def size_bytes(denoiser: nn.Module) -> int:
    return size(denoiser).total
