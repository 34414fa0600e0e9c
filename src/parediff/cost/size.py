"""Bytes of a denoiser on disk at the bits its layers declare."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from parediff.cost.layers import declared_bits, weight_layers


@dataclass(frozen=True)
class Size:
    """Bytes: weights of convolutions and linears bit-packed at their declared bits, all else at its dtype's width.

    All else is what a `state_dict` holds besides: biases, norms, embeddings, steps and zero-points of quantisers.
    """

    weights: int
    other: int

    @property
    def total(self) -> int:
        return self.weights + self.other


def size(denoiser: nn.Module) -> Size:
    """A tensor that is shared counts once; each weight is packed by itself and rounded up to a whole byte."""
    bits: dict[int, float] = {}
    for _, module, layer in weight_layers(denoiser):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        bits[id(weight)] = declared_bits(module, "weight_bits", weight)
    stored = {id(value): value for value in denoiser.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    weights = sum(math.ceil(value.numel() * bits[key] / 8) for key, value in stored.items() if key in bits)
    other = sum(value.numel() * value.element_size() for key, value in stored.items() if key not in bits)
    return Size(weights, other)


def size_bytes(denoiser: nn.Module) -> int:
    return size(denoiser).total
