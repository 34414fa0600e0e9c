"""Quantisers of a network exchanged for those that learn: rounding of weights, steps of activations."""

from __future__ import annotations

from typing import Any

from torch import nn

from parediff.quantization.layers import QuantizedLayer, SplitQuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.rounding import RoundedQuantizer
from parediff.quantization.sources import Learned


def install_rounding(root: nn.Module) -> None:
    """Give every weight a RoundedQuantizer, every activation a learned step; nothing is calibrated yet."""
    for module in root.modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer = _rounder(module.weight_quantizer, module.weight)
            _learn(module.input_quantizer)
        elif isinstance(module, SplitQuantizedLayer):
            parts = [_rounder(quantizer, part) for quantizer, part in module.weight_parts()]
            module.weight_quantizers = nn.ModuleList(parts)
            for quantizer in module.input_quantizers:
                _learn(quantizer)


def rounded_share(root: nn.Module) -> dict[str, Any]:
    """How many weight tensors kept the rounding they learned, and how many weights do not go to the nearest value."""
    found = [module for module in root.modules() if isinstance(module, RoundedQuantizer)]
    kept = [quantizer for quantizer in found if bool(quantizer.learned)]
    return {"rounding_learned": len(kept), "rounding_rolled_back": len(found) - len(kept)}


def _rounder(quantizer: Quantizer, weight: Any) -> RoundedQuantizer:
    channels = None if quantizer.axis is None else weight.shape[quantizer.axis]
    return RoundedQuantizer(quantizer.grid, weight.shape, axis=quantizer.axis, channels=channels).to(weight.device)


def _learn(quantizer: Any) -> None:
    device = quantizer.calibrated.device
    quantizer.source = Learned(None, zero_point=quantizer.grid.has_zero_point).to(device)
