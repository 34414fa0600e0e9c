"""Which layers and products are quantised, on which grids and at what widths; and putting the quantisers in place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from parediff.errors import RequestError
from parediff.models.diffusion.attention import Matmul, explicit_attention
from parediff.models.tree import named, put
from parediff.quantization.grid import IDENTITY_BITS, Grid, Kind
from parediff.quantization.layers import FoldableLayer, QuantizedLayer, QuantizedMatmul, SplitQuantizedLayer
from parediff.quantization.roles import Role, roles
from parediff.validation import Count

Width = Literal["same", "eight_bit", "full"]
"""As wide as every other layer; 8 bits (or as wide as the others where those are wider); full precision."""
Groups = Literal["tensor", "channel"] | Count
"""Who shares an interval: the whole tensor, each channel alone, or so many equal groups of channels where there are."""


@dataclass(frozen=True)
class Placement:
    """Bits and grids by what a layer is to its network.

    `silu_grid`: of layers behind SiLU. `ends`: first and last layer. `time_layers`: those that depend on the time step
    only. `attention`: the products q k^T and P v (P, the softmax's output, has `softmax_bits`). `split`: up-path
    shortcuts that read [deep, skip] get quantisers for each part; `all`: also the first convolution behind the norm of
    such a concatenation. `skip`: patterns of paths that stay in full precision. `image`: what the first layer sees is
    rounded too. `whole`: layers left in full precision are wrapped as well.
    """

    weight_bits: int
    activation_bits: int
    weight_grid: Kind = "symmetric"
    grid: Kind = "affine"
    silu_grid: Kind = "shifted"
    weight_groups: Groups = "channel"
    activation_groups: Groups = "tensor"
    ends: Width = "same"
    time_layers: Width = "same"
    attention: Width = "same"
    softmax_bits: int = 8
    split: Literal["none", "shortcuts", "all"] = "none"
    skip: tuple[str, ...] = ()
    image: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Choice:
    """What becomes of one layer. `border`: split its input at this channel. `role`: what it is to its network."""

    path: str
    weight: Grid
    activation: Grid
    border: int | None
    role: Role


@dataclass(frozen=True)
class Slot:
    """Where one quantiser goes: of `operand` (weight, input, a or b) of the layer or product at `path`.

    `groups` equal groups of channels along `axis` have an interval each. `dropout` stands between SiLU and the layer.
    `timeless`: met before the network knows the time step.
    """

    path: str
    operand: str
    grid: Grid
    axis: int | None = None
    groups: int | None = None
    dropout: float = 0.0
    timeless: bool = False


Make = Callable[[Slot], Any]
"""The quantiser for a slot."""


def widened(bits: int, width: Width) -> int:
    """The bits that remain of `bits` under a rule for special layers."""
    return {"same": bits, "eight_bit": max(bits, 8), "full": IDENTITY_BITS}[width]


def choices(root: nn.Module, placement: Placement) -> list[Choice]:
    """One for each layer that gets quantisers, in definition order."""
    paths = [path for path, _ in root.named_modules()]
    for pattern in placement.skip:
        if not any(re.search(pattern, path) for path in paths):
            raise RequestError("skip", pattern, "a pattern that some module's path matches is accepted")
    found = [_choice(role, placement) for role in roles(root)]
    return [one for one in found if placement.whole or not (one.weight.identity and one.activation.identity)]


def _choice(role: Role, placement: Placement) -> Choice:
    width: Width = {"first": placement.ends, "last": placement.ends, "time": placement.time_layers}.get(
        role.position, "same"
    )
    width = "full" if _skipped(role.path, placement) else width
    image = role.position != "first" or placement.image
    split = placement.split == "all" or (placement.split == "shortcuts" and role.path.endswith("conv_shortcut"))
    return Choice(
        role.path,
        Grid(widened(placement.weight_bits, width), placement.weight_grid),
        Grid(
            widened(placement.activation_bits, width if image else "full"),
            placement.silu_grid if role.after_silu else placement.grid,
        ),
        role.border if split else None,
        role,
    )


def _skipped(path: str, placement: Placement) -> bool:
    return any(re.search(pattern, path) for pattern in placement.skip)


def place(root: nn.Module, placement: Placement, make: Make) -> list[str]:
    """Put quantisers around every chosen layer and product of activations; the paths. Raises where there is none."""
    if any(isinstance(module, FoldableLayer | QuantizedMatmul) for module in root.modules()):
        raise RequestError("method", "quantised twice", "one quantising method at a time is accepted")
    chosen = choices(root, placement)
    if not chosen:
        accepted = "fewer than 32 for weights or activations of a network with convolutions or linear layers is needed"
        raise RequestError("weight_bits", placement.weight_bits, accepted)
    modules = dict(root.named_modules(remove_duplicate=False))
    built: dict[int, nn.Module] = {}
    for choice in chosen:
        built[id(modules[choice.path])] = _built(modules[choice.path], choice, placement, make)
    for path, module in modules.items():  # some networks know one layer under two names
        if id(module) in built:
            put(root, path, built[id(module)])
    return [choice.path for choice in chosen] + _place_matmuls(root, placement, make)


def _built(layer: Any, choice: Choice, placement: Placement, make: Make) -> nn.Module:
    def weight(part: int) -> Any:
        return make(Slot(choice.path, "weight", choice.weight, *_groups(placement.weight_groups, 0, part, choice.path)))

    def activation(channels: int) -> Any:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        groups = _groups(placement.activation_groups, axis, channels, choice.path)
        slot = Slot(choice.path, "input", choice.activation, *groups, choice.role.dropout, choice.role.timeless)
        return make(slot)

    outputs, inputs = layer.weight.shape[0], layer.weight.shape[1] * getattr(layer, "groups", 1)
    module: nn.Module
    if choice.border is None:
        module = QuantizedLayer(layer, weight(outputs), activation(inputs))
    else:
        activations = activation(choice.border), activation(inputs - choice.border)
        module = SplitQuantizedLayer(layer, choice.border, (weight(outputs), weight(outputs)), activations)
    return module.to(layer.weight.device).train(layer.training)


def _groups(groups: Groups, axis: int, channels: int, path: str) -> tuple[int | None, int | None]:
    """(axis, number of groups)."""
    if groups == "tensor":
        return None, None
    if groups == "channel":
        return axis, channels
    count = min(int(groups), channels)
    if channels % count:
        raise RequestError("activation_groups", groups, f"a divisor of {path}'s {channels} channels is accepted")
    return axis, count


def _place_matmuls(root: nn.Module, placement: Placement, make: Make) -> list[str]:
    """q and k^T; the softmax's output, on an unsigned grid, and v."""
    bits = widened(placement.activation_bits, placement.attention)
    if bits >= IDENTITY_BITS:
        return []
    explicit_attention(root)
    found = [path for path, _ in named(root, Matmul)]
    device = next(root.parameters()).device
    for path in found:
        operand = Grid(IDENTITY_BITS if _skipped(path, placement) else bits, placement.grid)
        softmax = Grid(placement.softmax_bits, "unsigned") if not operand.identity else operand
        grids = (softmax if path.endswith(".pv") else operand, operand)
        a, b = (make(Slot(path, name, grid)) for name, grid in zip("ab", grids, strict=True))
        put(root, path, QuantizedMatmul(a, b).to(device))
    return found
