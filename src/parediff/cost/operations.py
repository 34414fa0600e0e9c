"""Multiply-accumulates and bit operations of what really ran: of layers by hooks, of all else by operator.

BOPs = MACs · b_w · b_a for a layer with weights and MACs · b_a1 · b_a2 for a product of two activations. Norms,
activation functions, additions and the sampler's arithmetic are not counted. Everything follows from the shapes, so a
model on the meta device counts like a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from parediff.cost.layers import (
    CONVOLUTIONS,
    TRANSPOSED,
    declared_bits,
    is_matmul,
    weight_layers,
)
from parediff.cost.operators import Products, lies_in, storages

Kind = Literal["conv", "linear", "matmul"]


@dataclass
class LayerCost:
    """One layer's share; the bits are those of its latest call, the sums run over all of them."""

    kind: Kind
    weight_bits: float = 0.0
    activation_bits: float = 0.0
    calls: int = 0
    macs: int = 0
    bops: float = 0.0

    def add(self, macs: int, weight_bits: float, activation_bits: float) -> None:
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.calls += 1
        self.macs += macs
        self.bops += macs * weight_bits * activation_bits


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates and bit operations of one image."""

    macs: float
    bops: float


@dataclass
class Counter:
    """Sums over every call and every batch entry since `counting` began; a layer that never ran is not listed."""

    layers: dict[str, LayerCost] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())

    @property
    def bops(self) -> float:
        return sum(layer.bops for layer in self.layers.values())

    def per_image(self, images: int) -> Operations:
        return Operations(self.macs / images, self.bops / images)

    def unquantised(self) -> list[str]:
        """Names of the layers with an operand at full width (16 bits or more), in the order of their first call."""
        return [name for name, cost in self.layers.items() if max(cost.weight_bits, cost.activation_bits) >= 16]

    def add(self, name: str, kind: Kind, macs: int, weight_bits: float, activation_bits: float) -> None:
        self.layers.setdefault(name, LayerCost(kind)).add(macs, weight_bits, activation_bits)


@contextmanager
def counting(denoiser: nn.Module) -> Iterator[Counter]:
    """Counts every call of the modules below `denoiser` while the block runs; leaves no hook behind.

    Layers count themselves, at the bits they declare. What is multiplied outside of them, as attention does, is seen as
    it is executed, and stands under the innermost module that did it.
    """
    counter, place = Counter(), _Place()
    weights = storages([*denoiser.parameters(), *denoiser.buffers()])
    with ExitStack() as stack:
        for name, module, layer in weight_layers(denoiser):
            stack.callback(_count_layer(counter, name, module, layer).remove)
            place.hook(stack, name, module, counted=True)
        for name, module in denoiser.named_modules():
            if is_matmul(module):
                stack.callback(_count_matmul(counter, name, module).remove)
            place.hook(stack, name, module, counted=is_matmul(module))
        stack.enter_context(Products(place.is_open, partial(_count_product, counter, place, weights)))
        yield counter


@dataclass
class _Place:
    """Where in the network an operator runs: the modules under way, and whether one of them counts itself."""

    path: list[tuple[str, bool]] = field(default_factory=list)
    hooked: set[int] = field(default_factory=set)

    def is_open(self) -> bool:
        return bool(self.path) and not self.path[-1][1]

    def hook(self, stack: ExitStack, name: str, module: nn.Module, *, counted: bool) -> None:
        if id(module) in self.hooked:
            return
        self.hooked.add(id(module))

        def enter(*_: Any) -> None:
            self.path.append((name, counted or (bool(self.path) and self.path[-1][1])))

        def leave(*_: Any) -> None:
            self.path.pop()

        stack.callback(module.register_forward_pre_hook(enter).remove)
        stack.callback(module.register_forward_hook(leave, always_call=True).remove)


def _count_product(counter: Counter, place: _Place, weights: set[int], macs: int, a: Tensor, b: Tensor) -> None:
    name = place.path[-1][0]
    weighted = lies_in(a, weights) or lies_in(b, weights)
    kind: Kind = "matmul" if not weighted else "linear" if a.ndim == 2 else "conv"
    what = "matmul" if kind == "matmul" else f"F.{kind}"
    bits = float(8 * a.element_size()), float(8 * b.element_size())
    counter.add(f"{name}.{what}".lstrip("."), kind, macs, *bits)


def _count_layer(counter: Counter, name: str, module: nn.Module, layer: Any) -> Any:
    kind: Kind = "linear" if isinstance(layer, nn.Linear) else "conv"

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        x = _operands(args, kwargs)[0]
        bits = declared_bits(module, "weight_bits", layer.weight), declared_bits(module, "activation_bits", x)
        counter.add(name, kind, layer_macs(layer, x, output), *bits)

    return module.register_forward_hook(hook, with_kwargs=True)


def _count_matmul(counter: Counter, name: str, module: nn.Module) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        a, b = _operands(args, kwargs)[:2]
        bits = declared_bits(module, "a_bits", a), declared_bits(module, "b_bits", b)
        counter.add(name, "matmul", output.numel() * a.shape[-1], *bits)

    return module.register_forward_hook(hook, with_kwargs=True)


def layer_macs(layer: Any, x: Tensor, output: Tensor) -> int:
    """Each output value sums a filter's worth of products; transposed, each input value feeds a filter's worth."""
    if isinstance(layer, TRANSPOSED):
        return x.numel() * layer.weight[0].numel()
    return output.numel() * (layer.weight[0].numel() if isinstance(layer, CONVOLUTIONS) else layer.in_features)


def _operands(args: tuple, kwargs: dict) -> list[Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


@dataclass
class CallCounter:
    """Network evaluations, for `observing`: every batch entry that reaches the network is one, so guidance doubles."""

    entries: int = 0

    def __call__(self, call: Any, output: Tensor) -> None:
        self.entries += call.x.shape[0]

    def per_image(self, images: int) -> float:
        return self.entries / images
