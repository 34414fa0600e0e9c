"""What a quantised network really is: shares, bits, grids and intervals of each layer, and what stays as it was."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn

from parediff.models.diffusion.attention import attentions
from parediff.models.tree import named
from parediff.quantization.grid import IDENTITY_BITS, SMALLEST_STEP
from parediff.quantization.layers import LAYERS, FoldableLayer, QuantizedMatmul, SplitQuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.rounding import RoundedQuantizer


def proof(root: nn.Module) -> dict[str, Any]:
    """Plain numbers and words. `share_of_weights` counts scalars, `share_of_layers` layers with either side rounded."""
    weighted = list(named(root, (*LAYERS, FoldableLayer)))
    rounded = {path: module for path, module in weighted if isinstance(module, FoldableLayer) and _fires(module)}
    products = {path: module for path, module in named(root, QuantizedMatmul) if _fires(module)}
    total = sum(_scalars(module) for _, module in weighted)
    below_full = sum(_scalars(module) for module in rounded.values() if _weight_bits(module) < IDENTITY_BITS)
    rounders = [one for _, one in _quantizers(root) if isinstance(one, RoundedQuantizer)]
    return {
        "share_of_layers": len(rounded) / len(weighted),
        "share_of_weights": below_full / total,
        "quantised_layers": len(rounded),
        "quantised_products": len(products),
        "split_layers": sum(isinstance(module, SplitQuantizedLayer) for module in rounded.values()),
        "rounding_learned": sum(bool(one.learned) for one in rounders),
        "rounding_rolled_back": sum(not bool(one.learned) for one in rounders),
        "layers": {path: _described(module) for path, module in {**rounded, **products}.items()},
        "degenerate": [path for path, quantizer in _quantizers(root) if _degenerate(quantizer)],
        "unquantised": _unquantised(root, [path for path, _ in weighted if path not in rounded]),
    }


def _quantizers(root: nn.Module) -> list[tuple[str, Quantizer]]:
    return [(path, module) for path, module in root.named_modules() if isinstance(module, Quantizer)]


def _fires(module: nn.Module) -> bool:
    return any(quantizer.on for _, quantizer in _quantizers(module))


def _scalars(module: Any) -> int:
    return module.weight.numel()


def _weight_bits(module: Any) -> int:
    return module.weight_bits


def _described(module: nn.Module) -> dict[str, Any]:
    return {path: _quantizer(quantizer) for path, quantizer in _quantizers(module)}


def _quantizer(quantizer: Quantizer) -> dict[str, Any]:
    """`step` and `interval`: smallest and largest, over groups and time."""
    if not quantizer.on:
        return {"bits": IDENTITY_BITS}
    step, zero_point = quantizer.source.over_time()
    low, high = quantizer.grid.span(step, zero_point)
    told: dict[str, Any] = {
        "bits": quantizer.bits,
        "grid": quantizer.grid.kind,
        "per": "tensor" if quantizer.axis is None else f"{quantizer.channels} groups of channels",
        "source": type(quantizer.source).__name__,
        "step": _range(step),
        "interval": [float(low.min()), float(high.max())],
    }
    if quantizer.source.timed:
        told["times"] = len(step)
    return told if quantizer.beta is None else told | {"offset": float(quantizer.beta.detach())}


def _range(values: Tensor) -> list[float]:
    return [float(values.min()), float(values.max())]


def _degenerate(quantizer: Quantizer) -> bool:
    """A step at the smallest there is: the calibration data was constantly zero."""
    return quantizer.on and bool((quantizer.source.over_time()[0] <= SMALLEST_STEP).any())


def _unquantised(root: nn.Module, layers: list[str]) -> list[str]:
    """Names of layers and attention products, then the kinds of other modules that compute, each with its number."""
    hidden = [f"{path} (q k^T, P v)" for path, module in attentions(root).items() if not _opened(module)]
    others = Counter(
        type(module).__name__
        for _, module in named(root, lambda _, module: isinstance(module, Quantizer) or not list(module.children()))
        if not isinstance(module, (*LAYERS, Quantizer, nn.Identity, nn.Dropout))
    )
    kinds = [f"{kind} x{count}" for kind, count in sorted(others.items())]
    functional = ["softmax"] if attentions(root) else []
    return [*layers, *hidden, *kinds, *functional, "residual additions"]


def _opened(attention: nn.Module) -> bool:
    return any(isinstance(module, QuantizedMatmul) and _fires(module) for module in attention.modules())
