"""Which modules do the arithmetic that is counted, and how wide their operands are."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
UNQUANTISED = 32


def wrapped_layer(module: nn.Module) -> nn.Module | None:
    """The convolution or linear inside a module that declares its bits, None for every other module."""
    inner = getattr(module, "layer", None)
    declares = hasattr(module, "weight_bits") and hasattr(module, "activation_bits")
    return inner if declares and isinstance(inner, WEIGHTED) else None


def weight_layers(root: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """(name, module that is called, layer that holds the weight); a wrapper stands for the layer it wraps."""
    wrapped = {id(inner) for module in root.modules() if (inner := wrapped_layer(module)) is not None}
    for name, module in root.named_modules():
        inner = wrapped_layer(module)
        if inner is not None:
            yield name, module, inner
        elif isinstance(module, WEIGHTED) and id(module) not in wrapped:
            yield name, module, module


def is_matmul(module: nn.Module) -> bool:
    """A module that multiplies two activations and is called with both."""
    return bool(getattr(module, "is_matmul", False))


def declared_bits(module: nn.Module, attribute: str, operand: Tensor) -> float:
    """What the module declares under `attribute`; where it declares nothing or 32, the width of the operand's dtype."""
    bits = float(getattr(module, attribute, UNQUANTISED))
    return bits if bits < UNQUANTISED else float(8 * operand.element_size())
