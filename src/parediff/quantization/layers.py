"""Layers that compute on quantised operands, simulated in floating point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.quantization.quantizer import Quantizer

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


def _of_layer(name: str) -> Any:
    """What pipelines and networks ask a layer about itself, as SDXL its embedding of sizes."""
    return property(lambda self: getattr(self.layer, name))


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

    in_features, out_features = _of_layer("in_features"), _of_layer("out_features")
    in_channels, out_channels = _of_layer("in_channels"), _of_layer("out_channels")
    kernel_size, stride, padding = _of_layer("kernel_size"), _of_layer("stride"), _of_layer("padding")

    @property
    def weight(self) -> nn.Parameter:
        """The layer's own, full-precision weight."""
        return self.layer.weight

    @property
    def bias(self) -> nn.Parameter | None:
        return self.layer.bias

    def weight_parts(self) -> list[tuple[Any, Tensor]]:
        """(quantiser, the part of the weight it rounds)."""
        raise TypeError(f"{type(self).__name__} does not say how its weight is rounded")

    def quantized_weight(self) -> Tensor:
        """The weight as the arithmetic sees it, in the shape of the layer's own."""
        parts = [quantizer(part) for quantizer, part in self.weight_parts()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @torch.no_grad()
    def fold(self) -> None:
        """Round the weight now; undone by loading a state_dict."""
        self.folded = self.quantized_weight().detach().clone()

    def deployed(self) -> dict[str, tuple[Tensor, float]]:
        """Codes of the weight, or the weight itself where it is not rounded; the bias; and what the quantisers keep."""
        kept: dict[str, tuple[Tensor, float]] = {}
        for place, (quantizer, part) in enumerate(self.weight_parts()):
            full = 8.0 * part.element_size()
            kept[f"codes.{place}"] = (quantizer.codes(part), quantizer.bits) if quantizer.on else (part, full)
        if self.bias is not None:
            kept["bias"] = (self.bias, 8.0 * self.bias.element_size())
        for path, child in self.named_modules():
            if isinstance(child, Quantizer):
                kept |= {f"{path}.{name}": entry for name, entry in child.deployed().items()}
        return kept

    def unfold(self) -> None:
        self.folded = None

    def arithmetic(self, x: Tensor) -> Tensor:
        """The layer's own operation on x and the rounded weight."""
        layer, folded = self.layer, self.folded
        weight = self.quantized_weight() if folded is None else folded
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return layer._conv_forward(x, weight, layer.bias)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.unfold()
        super()._load_from_state_dict(*args, **kwargs)


class QuantizedLayer(FoldableLayer):
    """layer(Q_A(x)) with the weight Q_W(w). `weight_bits` and `activation_bits` are 32 where a quantiser is off."""

    def __init__(self, layer: nn.Module, weight_quantizer: Any, input_quantizer: Any) -> None:
        super().__init__(layer)
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer

    @property
    def weight_bits(self) -> int:
        return self.weight_quantizer.bits

    @property
    def activation_bits(self) -> int:
        return self.input_quantizer.bits

    def operands(self) -> dict[str, Any]:
        """The quantisers of both factors by their names."""
        return {"weight_quantizer": self.weight_quantizer, "input_quantizer": self.input_quantizer}

    def weight_parts(self) -> list[tuple[Any, Tensor]]:
        return [(self.weight_quantizer, self.layer.weight)]

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return self.arithmetic(self.input_quantizer(x))


class SplitQuantizedLayer(FoldableLayer):
    """Q-Diffusion's split: the input is [deep, skip] along the channels and each part has quantisers of its own.

    `border` is the number of channels of the first part.
    """

    def __init__(
        self, layer: nn.Module, border: int, weight_quantizers: tuple[Any, Any], input_quantizers: tuple[Any, Any]
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

    def weight_parts(self) -> list[tuple[Any, Tensor]]:
        weight = self.layer.weight
        halves = (weight[:, : self.border], weight[:, self.border :])
        return list(zip(self.weight_quantizers, halves, strict=True))

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        deep, skip = self.input_quantizers
        return self.arithmetic(torch.cat([deep(x[:, : self.border]), skip(x[:, self.border :])], dim=1))


class QuantizedMatmul(nn.Module):
    """Q(a) @ Q(b) over the last two dimensions: the products of two activations inside attention."""

    is_matmul = True

    def __init__(self, a_quantizer: Any, b_quantizer: Any) -> None:
        super().__init__()
        self.a_quantizer, self.b_quantizer = a_quantizer, b_quantizer

    @property
    def a_bits(self) -> int:
        return self.a_quantizer.bits

    @property
    def b_bits(self) -> int:
        return self.b_quantizer.bits

    def operands(self) -> dict[str, Any]:
        """The quantisers of both factors by their names."""
        return {"a_quantizer": self.a_quantizer, "b_quantizer": self.b_quantizer}

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(self.a_quantizer(a), self.b_quantizer(b))


def layers_of(root: nn.Module) -> dict[str, Any]:
    """Every quantised layer and product by its path."""
    return {path: child for path, child in root.named_modules() if isinstance(child, FoldableLayer | QuantizedMatmul)}


@contextmanager
def folded(root: nn.Module) -> Iterator[None]:
    """Weights are rounded once for all calls of the block."""
    layers = [module for module in root.modules() if isinstance(module, FoldableLayer)]
    for layer in layers:
        layer.fold()
    try:
        yield
    finally:
        for layer in layers:
            layer.unfold()


def fold(root: nn.Module) -> None:
    """Round every weight once and settle which quantisers are on."""
    for module in root.modules():
        if isinstance(module, FoldableLayer):
            module.fold()
        elif isinstance(module, Quantizer):
            module.freeze()


def _bits(quantizers: Any) -> list[int]:
    return [quantizer.bits for quantizer in quantizers]
