"""Multiply-accumulates and bit operations of what really ran, counted by hooks.

BOPs = MACs · b_w · b_a for a layer with weights and MACs · b_a1 · b_a2 for a product of two activations. Norms,
activation functions, additions and the sampler's arithmetic are not counted. Everything follows from the shapes, so a
model on the meta device counts like a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from parediff.cost.layers import (
    CONVOLUTIONS,
    TRANSPOSED,
    declared_bits,
    is_matmul,
    is_plain_attention,
    weight_layers,
)

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

    def macs_of(self, kind: Kind) -> int:
        return sum(layer.macs for layer in self.layers.values() if layer.kind == kind)

    def per_image(self, images: int) -> Operations:
        return Operations(self.macs / images, self.bops / images)

    def unquantised(self) -> list[str]:
        """Names of the layers with an operand at full width (16 bits or more), in the order of their first call."""
        return [name for name, cost in self.layers.items() if max(cost.weight_bits, cost.activation_bits) >= 16]

    def add(self, name: str, kind: Kind, macs: int, weight_bits: float, activation_bits: float) -> None:
        self.layers.setdefault(name, LayerCost(kind)).add(macs, weight_bits, activation_bits)


@contextmanager
def counting(denoiser: nn.Module) -> Iterator[Counter]:
    """Counts every call of the modules below `denoiser` while the block runs; leaves no hook behind."""
    counter = Counter()
    with ExitStack() as stack:
        for name, module, layer in weight_layers(denoiser):
            stack.callback(_count_layer(counter, name, module, layer).remove)
        for name, module in denoiser.named_modules():
            if is_matmul(module):
                stack.callback(_count_matmul(counter, name, module).remove)
            elif is_plain_attention(module):
                stack.callback(_count_attention(counter, f"{name}.matmul", module).remove)
        yield counter


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


def _count_attention(counter: Counter, name: str, module: nn.Module) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        given = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | kwargs
        x, context = given["hidden_states"], given.get("encoder_hidden_states")
        bits = float(8 * x.element_size())
        counter.add(name, "matmul", attention_macs(module, x, context), bits, bits)

    return module.register_forward_hook(hook, with_kwargs=True)


def layer_macs(layer: Any, x: Tensor, output: Tensor) -> int:
    """Each output value sums a filter's worth of products; transposed, each input value feeds a filter's worth."""
    if isinstance(layer, TRANSPOSED):
        return x.numel() * layer.weight[0].numel()
    return output.numel() * (layer.weight[0].numel() if isinstance(layer, CONVOLUTIONS) else layer.in_features)


def attention_macs(attention: Any, x: Tensor, context: Tensor | None) -> int:
    """2·n_q·n_k·inner_dim per batch entry, for Q·Kᵀ and P·V with the plain kernel.

    Keys are the context's, or x's own without one. Where the block projects the context separately (`add_k_proj`), the
    two sequences are concatenated; where it projects queries too (`add_q_proj`), both attend.
    """
    queries, keys = _tokens(x), _tokens(x if context is None else context)
    if context is not None and getattr(attention, "add_k_proj", None) is not None:
        keys += 0 if getattr(attention, "only_cross_attention", False) else queries
        queries = keys if getattr(attention, "add_q_proj", None) is not None else queries
    return 2 * x.shape[0] * queries * keys * attention.inner_dim


def _tokens(x: Tensor) -> int:
    """Sequence length of [B, n, C], or of a map [B, C, H, W] that will be flattened."""
    return x.shape[-2] * (x.shape[-1] if x.ndim == 4 else 1)


def _operands(args: tuple, kwargs: dict) -> list[Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


@dataclass
class CallCounter:
    """Network evaluations, for `observing`: every batch entry that reaches the network is one, so guidance doubles."""

    calls: int = 0
    entries: int = 0

    def __call__(self, call: Any, output: Tensor) -> None:
        self.calls += 1
        self.entries += call.x.shape[0]

    def per_image(self, images: int) -> float:
        return self.entries / images
