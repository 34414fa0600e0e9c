"""Which layers are quantised, to which grid and how many bits; and putting them in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from parediff.errors import RequestError
from parediff.models.diffusion.attention import Matmul, explicit_attention
from parediff.models.tree import named, put
from parediff.quantization.grid import IDENTITY_BITS, Grid, Kind
from parediff.quantization.layers import QuantizedLayer, QuantizedMatmul, SplitQuantizedLayer
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.roles import Role, roles

Width = Literal["same", "eight_bit", "full"]
"""As wide as every other layer; 8 bits (or as wide as the others where those are wider); full precision."""


@dataclass(frozen=True)
class Rule:
    """Bits and grids by what a layer is to its network.

    `ends`: first and last layer. `time_layers`: those that depend on the time step only. `attention`: the products
    q k^T and P v (P, the softmax's output, has `softmax_bits`). `split`: up-path shortcuts that read [deep, skip] get
    quantisers for each part; `all`: also the first convolution behind the norm of such a concatenation.
    """

    weight_bits: int
    activation_bits: int
    weight_grid: Kind
    activation_grid: Kind
    silu_grid: Kind
    per_channel: bool
    ends: Width
    time_layers: Width
    attention: Width
    softmax_bits: int
    split: Literal["none", "shortcuts", "all"]


@dataclass(frozen=True)
class Choice:
    """What becomes of one layer. `border`: split its input at this channel."""

    path: str
    weight: Grid
    activation: Grid
    border: int | None


def widened(bits: int, width: Width) -> int:
    """The bits that remain of `bits` under a rule for special layers."""
    return {"same": bits, "eight_bit": max(bits, 8), "full": IDENTITY_BITS}[width]


def choices(root: nn.Module, rule: Rule) -> list[Choice]:
    """One for each layer that the rule quantises, in definition order."""
    found = [_choice(role, rule) for role in roles(root)]
    return [choice for choice in found if not (choice.weight.identity and choice.activation.identity)]


def _choice(role: Role, rule: Rule) -> Choice:
    width: Width = {"first": rule.ends, "last": rule.ends, "time": rule.time_layers}.get(role.position, "same")
    kind = rule.silu_grid if role.after_silu else rule.activation_grid
    name = role.path.rpartition(".")[2]
    split = rule.split == "all" or (rule.split == "shortcuts" and name == "conv_shortcut")
    return Choice(
        role.path,
        Grid(widened(rule.weight_bits, width), rule.weight_grid),
        Grid(widened(rule.activation_bits, width), kind),
        role.border if split else None,
    )


def quantize(root: nn.Module, rule: Rule) -> list[str]:
    """Wrap every chosen layer and product of activations, uncalibrated; the paths. Raises where there is none."""
    chosen = choices(root, rule)
    if not chosen:
        raise RequestError(
            "weight_bits", rule.weight_bits, "fewer than 32 for weights or activations are needed to change anything"
        )
    modules = dict(root.named_modules(remove_duplicate=False))
    built: dict[int, nn.Module] = {}
    for choice in chosen:
        layer = modules[choice.path]
        built[id(layer)] = _built(layer, choice, per_channel=rule.per_channel)
    for path, module in modules.items():  # some networks know one layer under two names
        if id(module) in built:
            put(root, path, built[id(module)])
    return [choice.path for choice in chosen] + _quantize_matmuls(root, rule)


def _built(layer: Any, choice: Choice, *, per_channel: bool) -> nn.Module:
    outputs = layer.weight.shape[0] if per_channel else None

    def weight() -> Quantizer:
        return Quantizer(choice.weight, axis=0 if per_channel else None, channels=outputs)

    module: nn.Module
    if choice.border is None:
        module = QuantizedLayer(layer, weight(), Quantizer(choice.activation))
    else:
        inputs = Quantizer(choice.activation), Quantizer(choice.activation)
        module = SplitQuantizedLayer(layer, choice.border, (weight(), weight()), inputs)
    return module.to(layer.weight.device).train(layer.training)


def _quantize_matmuls(root: nn.Module, rule: Rule) -> list[str]:
    bits = widened(rule.activation_bits, rule.attention)
    if rule.attention == "full" or (bits >= IDENTITY_BITS and rule.softmax_bits >= IDENTITY_BITS):
        return []
    explicit_attention(root)
    operand, softmax = Grid(bits, rule.activation_grid), Grid(rule.softmax_bits, "unsigned")
    found = [path for path, _ in named(root, Matmul)]
    device = next(root.parameters()).device
    for path in found:
        first = softmax if path.endswith(".pv") else operand
        put(root, path, QuantizedMatmul(Quantizer(first), Quantizer(operand)).to(device))
    return found
