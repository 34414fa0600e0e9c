"""Layers whose operands meet NIPQ's noise while they train, and the ordinary quantised layers they become."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from parediff.quantization.grid import IDENTITY_BITS, Grid
from parediff.quantization.layers import FoldableLayer, QuantizedLayer, QuantizedMatmul
from parediff.quantization.noise import NoiseQuantizer
from parediff.quantization.quantizer import Quantizer


class NoisyLayer(FoldableLayer):
    """layer(Q_A(x)) with the weight Q_W(w), both pseudo-quantised; `macs` is of one example, 0 until calibrated."""

    macs: Tensor

    def __init__(self, layer: nn.Module, weight_quantizer: NoiseQuantizer, input_quantizer: NoiseQuantizer) -> None:
        super().__init__(layer)
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer
        self.register_buffer("macs", torch.zeros((), dtype=torch.int64))

    @property
    def weight_bits(self) -> int:
        return self.weight_quantizer.bits

    @property
    def activation_bits(self) -> int:
        return self.input_quantizer.bits

    @property
    def operands(self) -> tuple[NoiseQuantizer, NoiseQuantizer]:
        return self.weight_quantizer, self.input_quantizer

    def quantized_weight(self) -> Tensor:
        return self.weight_quantizer(self.layer.weight)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.arithmetic(self.input_quantizer(x))

    def rounded(self) -> QuantizedLayer:
        """The same arithmetic with fixed integer grids, its weight rounded once."""
        layer = QuantizedLayer(self.layer, ordinary(self.weight_quantizer), ordinary(self.input_quantizer))
        layer.fold()
        return layer


class NoisyMatmul(nn.Module):
    """Q(a) @ Q(b), both pseudo-quantised with widths of their own."""

    is_matmul = True
    macs: Tensor

    def __init__(self, a_quantizer: NoiseQuantizer, b_quantizer: NoiseQuantizer) -> None:
        super().__init__()
        self.a_quantizer, self.b_quantizer = a_quantizer, b_quantizer
        self.register_buffer("macs", torch.zeros((), dtype=torch.int64))

    @property
    def a_bits(self) -> int:
        return self.a_quantizer.bits

    @property
    def b_bits(self) -> int:
        return self.b_quantizer.bits

    @property
    def operands(self) -> tuple[NoiseQuantizer, NoiseQuantizer]:
        return self.a_quantizer, self.b_quantizer

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(self.a_quantizer(a), self.b_quantizer(b))

    def rounded(self) -> QuantizedMatmul:
        """The same product with fixed integer grids."""
        product = QuantizedMatmul(ordinary(self.a_quantizer), ordinary(self.b_quantizer))
        for quantizer in (product.a_quantizer, product.b_quantizer):
            quantizer.freeze()
        return product


NoisyProduct = NoisyLayer | NoisyMatmul


def products(network: nn.Module) -> dict[str, NoisyProduct]:
    """Every pseudo-quantised product by its path."""
    return {path: child for path, child in network.named_modules() if isinstance(child, NoisyLayer | NoisyMatmul)}


def quantizers(network: nn.Module) -> Iterator[NoiseQuantizer]:
    for module in network.modules():
        if isinstance(module, NoiseQuantizer):
            yield module


@torch.no_grad()
def ordinary(quantizer: NoiseQuantizer) -> Quantizer:
    """A plain quantiser that gives what this one gives when it rounds, bit by bit."""
    if not quantizer.on:
        return Quantizer(Grid(IDENTITY_BITS))
    plain = Quantizer(quantizer.grid).to(quantizer.theta_clip.device)
    plain.fill(quantizer.step(quantizer.integer_bits()))
    return plain
