"""Layers that compute on quantised operands, simulated in floating point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.quantizer import Quantizer

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class FoldableLayer(nn.Module):
    """A convolution or linear whose weight is rounded; `fold` rounds it once instead of at every call.

    The folded weight stays out of the state_dict, which holds the original one before and after `finalize`.
    """

    folded: Tensor | None

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, LAYERS):
            raise TypeError(f"{type(layer).__name__} cannot be quantised; a Conv1d, Conv2d or Linear can")
        self.layer: Any = layer
        self.register_buffer("folded", None, persistent=False)

    @property
    def weight(self) -> nn.Parameter:
        """The layer's own, full-precision weight."""
        return self.layer.weight

    @property
    def bias(self) -> nn.Parameter | None:
        return self.layer.bias

    def quantized_weight(self) -> Tensor:
        """The weight as the arithmetic sees it, in the shape of the layer's own."""
        raise TypeError(f"{type(self).__name__} does not say how its weight is rounded")

    @torch.no_grad()
    def fold(self) -> None:
        """Round the weight now; undone by loading a state_dict."""
        self.folded = self.quantized_weight().detach().clone()
        for module in self.modules():
            if isinstance(module, Quantizer):
                module.freeze()

    def unfold(self) -> None:
        self.folded = None

    def arithmetic(self, x: Tensor) -> Tensor:
        """The layer's own operation on x and the rounded weight."""
        weight = self.quantized_weight() if self.folded is None else self.folded
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unfold()
        super()._load_from_state_dict(*args, **kwargs)


class QuantizedLayer(FoldableLayer):
    """layer(Q_A(x)) with the weight Q_W(w). `weight_bits` and `activation_bits` are 32 where a quantiser is off."""

    def __init__(self, layer: nn.Module, weight_quantizer: Quantizer, input_quantizer: Quantizer) -> None:
        super().__init__(layer)
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer

    @property
    def weight_bits(self) -> int:
        return self.weight_quantizer.bits

    @property
    def activation_bits(self) -> int:
        return self.input_quantizer.bits

    def weight_parts(self) -> list[tuple[Quantizer, Tensor]]:
        """(quantiser, the part of the weight it rounds)."""
        return [(self.weight_quantizer, self.layer.weight)]

    def quantized_weight(self) -> Tensor:
        return self.weight_quantizer(self.layer.weight)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return self.arithmetic(self.input_quantizer(x))


class SplitQuantizedLayer(FoldableLayer):
    """Q-Diffusion's split: the input is [deep, skip] along the channels and each part has quantisers of its own.

    `border` is the number of channels of the first part.
    """

    def __init__(
        self,
        layer: nn.Module,
        border: int,
        weight_quantizers: tuple[Quantizer, Quantizer],
        input_quantizers: tuple[Quantizer, Quantizer],
    ) -> None:
        super().__init__(layer)
        if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.groups != 1 or not 0 < border < layer.in_channels:
            raise ValueError(f"{layer} cannot be split at channel {border}")
        self.border = border
        self.weight_quantizers = nn.ModuleList(weight_quantizers)
        self.input_quantizers = nn.ModuleList(input_quantizers)

    @property
    def weight_bits(self) -> int:
        return max(_bits(self.weight_quantizers))

    @property
    def activation_bits(self) -> int:
        return max(_bits(self.input_quantizers))

    def weight_parts(self) -> list[tuple[Quantizer, Tensor]]:
        """(quantiser, the part of the weight it rounds)."""
        weight = self.layer.weight
        halves = (weight[:, : self.border], weight[:, self.border :])
        return [(_quantizer(module), half) for module, half in zip(self.weight_quantizers, halves, strict=True)]

    def quantized_weight(self) -> Tensor:
        return torch.cat([quantizer(half) for quantizer, half in self.weight_parts()], dim=1)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        deep, skip = self.input_quantizers
        return self.arithmetic(torch.cat([deep(x[:, : self.border]), skip(x[:, self.border :])], dim=1))


class QuantizedMatmul(nn.Module):
    """Q(a) @ Q(b) over the last two dimensions: the products of two activations inside attention."""

    is_matmul = True

    def __init__(self, a_quantizer: Quantizer, b_quantizer: Quantizer) -> None:
        super().__init__()
        self.a_quantizer, self.b_quantizer = a_quantizer, b_quantizer

    @property
    def a_bits(self) -> int:
        return self.a_quantizer.bits

    @property
    def b_bits(self) -> int:
        return self.b_quantizer.bits

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(self.a_quantizer(a), self.b_quantizer(b))


def _quantizer(module: nn.Module) -> Quantizer:
    assert isinstance(module, Quantizer)
    return module


def _bits(quantizers: nn.ModuleList) -> list[int]:
    return [_quantizer(module).bits for module in quantizers]
