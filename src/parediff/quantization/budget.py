"""What learned bits may cost: an average width, or bit operations, both differentiable in theta_b (NIPQ, section 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.cost import counting
from parediff.errors import RequestError
from parediff.quantization.grid import IDENTITY_BITS
from parediff.quantization.layers import QuantizedLayer
from parediff.quantization.noise import NoiseQuantizer, operands, products

AVERAGE_UNIT = 2**23
"""The paper's divisor of summed bits."""

BIT_OPERATIONS_UNIT = 1e9
"""The paper's divisor of bit operations."""

MOBILENET_WEIGHTS, MOBILENET_GBOPS = 3_469_760, 5.3
"""The network and the target for which these divisors were chosen; a null unit keeps their proportion."""

TOLERANCE = 0.02
"""A budget is a constraint: missed by more than this share it is an error."""


@torch.no_grad()
def measure(network: nn.Module, call: Any, run: Callable[[Any], Any]) -> None:
    """Write multiplications and values of one example into the quantisers of every product that the call reaches."""
    batch: list[int] = []

    def seen(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        batch.append(next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))

    def sized(module: Any, args: tuple[Tensor, ...]) -> None:
        module.elements.fill_(args[0].numel() // batch[0])

    with ExitStack() as stack:
        stack.callback(network.register_forward_pre_hook(seen, with_kwargs=True).remove)
        for product in products(network).values():
            for operand in operands(product):
                stack.callback(operand.register_forward_pre_hook(sized).remove)
        counter = stack.enter_context(counting(network))
        run(call)
    for path, product in products(network).items():
        if path not in counter.layers:
            raise RequestError("calibration", path, "no call reaches this layer; one that does, or skip, is accepted")
        for operand in operands(product):
            operand.macs.fill_(counter.layers[path].macs // batch[0])
        if isinstance(product, QuantizedLayer):
            product.weight_quantizer.elements.fill_(product.weight.numel())


@dataclass(frozen=True)
class Constraint:
    """`spent(widths)` of the quantisers whose bits are learned, in the target's unit; it grows with every width."""

    key: str
    target: float
    quantizers: list[NoiseQuantizer]
    spent: Callable[[Sequence[int]], float]

    @property
    def now(self) -> float:
        return self.spent([quantizer.bits for quantizer in self.quantizers])

    def check(self) -> None:
        """Raise where the widths miss the target by more than the tolerance."""
        if abs(self.now / self.target - 1) > TOLERANCE:
            accepted = (
                f"the widths spend {self.now:.6g}; a target within {TOLERANCE:.0%} of reachable widths is accepted"
            )
            raise RequestError(self.key, self.target, accepted)


class Budget(ABC):
    """A target for learned bits."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """L_bit, to be added to the task's loss."""

    @abstractmethod
    def value(self) -> float:
        """What the present integer bits spend, in the target's unit."""

    def constraints(self) -> list[Constraint]:
        """What integer widths have to keep."""
        return []


class Spent(Budget):
    """No target: the widths are held."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def penalty(self) -> Tensor:
        return torch.zeros(())

    def value(self) -> float:
        return float(bit_operations(self.network).detach()) / 1e9


class AverageBits(Budget):
    """lambda SmoothL1(sum_l round(b_l) numel_l, T sum_l numel_l) / unit, for weights and for activations apart."""

    def __init__(self, network: nn.Module, target: float, *, strength: float, unit: float | None) -> None:
        self.weights, self.activations = operands_of(network)
        self.target, self.strength, self.unit = target, strength, unit
        learned = [quantizer for quantizer in self.weights + self.activations if not int(quantizer.fixed)]
        low = max((quantizer.range.low for quantizer in learned), default=0)
        high = min((quantizer.range.high for quantizer in learned), default=0)
        if not low < target < high:
            raise RequestError("target_bits", target, f"reachable averages are accepted: above {low}, below {high}")

    def penalty(self) -> Tensor:
        return self._penalty_of(self.weights) + self._penalty_of(self.activations)

    def value(self) -> float:
        """The larger of both averages."""
        return max(average_bits(self.weights), average_bits(self.activations))

    def constraints(self) -> list[Constraint]:
        found = []
        for side in (self.weights, self.activations):
            held = [(q.bits, int(q.elements)) for q in side if not q.learns]
            learned = [q for q in side if q.learns]
            found.append(Constraint("target_bits", self.target, learned, _average_of(held, learned)))
        return [constraint for constraint in found if constraint.quantizers]

    def _penalty_of(self, quantizers: Sequence[NoiseQuantizer]) -> Tensor:
        total = sum(int(quantizer.elements) for quantizer in quantizers)
        spent = sum((quantizer.integer_bits() * int(quantizer.elements) for quantizer in quantizers), torch.zeros(()))
        unit = total * AVERAGE_UNIT / MOBILENET_WEIGHTS if self.unit is None else self.unit
        wanted = torch.full_like(spent, self.target * total)
        return self.strength * F.smooth_l1_loss(spent, wanted) / max(unit, 1.0)


class BitOperations(Budget):
    """strength SmoothL1(BOPs / unit, target / unit) with BOPs = sum over all products of MACs b_left b_right."""

    def __init__(self, network: nn.Module, target_gbops: float, *, strength: float, unit: float | None) -> None:
        self.network, self.target = network, target_gbops
        self.strength = strength
        self.unit = target_gbops / MOBILENET_GBOPS * 1e9 if unit is None else unit
        low, high = reachable_gbops(network)
        if not low < target_gbops < high:
            accepted = f"reachable GBOPs of an example are accepted: above {low:.6g}, below {high:.6g}"
            raise RequestError("target_gbops", target_gbops, accepted)

    def penalty(self) -> Tensor:
        spent = bit_operations(self.network)
        wanted = torch.full_like(spent, self.target * 1e9 / self.unit)
        return self.strength * F.smooth_l1_loss(spent / self.unit, wanted)

    def value(self) -> float:
        return float(bit_operations(self.network).detach()) / 1e9

    def constraints(self) -> list[Constraint]:
        pairs = [operands(product) for product in products(self.network).values()]
        learned = list(dict.fromkeys(q for pair in pairs for q in pair if q.learns))
        place = {q: index for index, q in enumerate(learned)}
        held = {q: q.bits for pair in pairs for q in pair if q not in place}

        def spent(widths: Sequence[int]) -> float:
            width = lambda q: widths[place[q]] if q in place else held[q]  # noqa: E731
            return sum(int(left.macs) * width(left) * width(right) for left, right in pairs) / 1e9

        return [Constraint("target_gbops", self.target, learned, spent)] if learned else []


def _average_of(held: list[tuple[int, int]], learned: list[NoiseQuantizer]) -> Callable[[Sequence[int]], float]:
    """Bits per value, of quantisers that are held and of those with the given widths."""
    counts = [int(quantizer.elements) for quantizer in learned]
    total = sum(counts) + sum(count for _, count in held)

    def spent(widths: Sequence[int]) -> float:
        known = sum(bits * count for bits, count in held)
        return (known + sum(bits * count for bits, count in zip(widths, counts, strict=True))) / max(1, total)

    return spent


def bit_operations(network: nn.Module) -> Tensor:
    """BOPs of one example: integer where the bits are, with gradient 1 through every rounding; float64."""
    found = products(network).values()
    return sum((_cost(product) for product in found), torch.zeros((), dtype=torch.float64))


def reachable_gbops(network: nn.Module) -> tuple[float, float]:
    """BOPs / 1e9 of one example with every learned width at its smallest, and at its largest."""
    ends = [0, 0]
    for product in products(network).values():
        left, right = operands(product)
        for index in range(2):
            ends[index] += int(left.macs) * _extremes(left)[index] * _extremes(right)[index]
    return ends[0] / 1e9, ends[1] / 1e9


def operands_of(network: nn.Module) -> tuple[list[NoiseQuantizer], list[NoiseQuantizer]]:
    """(weights, activations): the quantisers that are on."""
    weights: list[NoiseQuantizer] = []
    activations: list[NoiseQuantizer] = []
    for product in products(network).values():
        left, right = operands(product)
        (weights if isinstance(product, QuantizedLayer) else activations).append(left)
        activations.append(right)
    return [q for q in weights if q.on], [q for q in activations if q.on]


def average_bits(quantizers: Iterable[NoiseQuantizer]) -> float:
    """Integer bits per element; 32 of nothing."""
    counted = [(quantizer.bits, int(quantizer.elements)) for quantizer in quantizers]
    total = sum(elements for _, elements in counted)
    return sum(bits * elements for bits, elements in counted) / total if total else float(IDENTITY_BITS)


def _cost(product: Any) -> Tensor:
    left, right = operands(product)
    return _width(left) * _width(right) * int(left.macs)


def _width(quantizer: NoiseQuantizer) -> Tensor:
    if not quantizer.on:
        return torch.full((), float(IDENTITY_BITS), dtype=torch.float64)
    return quantizer.integer_bits().double()


def _extremes(quantizer: NoiseQuantizer) -> tuple[int, int]:
    if not quantizer.on:
        return IDENTITY_BITS, IDENTITY_BITS
    fixed = int(quantizer.fixed)
    return (fixed, fixed) if fixed else (quantizer.range.low, quantizer.range.high)
