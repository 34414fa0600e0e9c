"""What learned bits may cost: an average width, or bit operations, both differentiable in theta_b (NIPQ, section 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.errors import RequestError
from parediff.quantization.grid import IDENTITY_BITS
from parediff.quantization.noise import NoiseQuantizer
from parediff.quantization.noisy import NoisyLayer, NoisyMatmul, products

AVERAGE_UNIT = 2**23
"""The paper's divisor of summed bits."""

BIT_OPERATIONS_UNIT = 1e9
"""The paper's divisor of bit operations."""

MOBILENET_WEIGHTS, MOBILENET_GBOPS = 3_469_760, 5.3
"""The network and the target for which these divisors were chosen; a null unit keeps their proportion."""


class Budget(ABC):
    """A target for learned bits."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """L_bit, to be added to the task's loss."""

    @abstractmethod
    def value(self) -> float:
        """What the present integer bits spend, in the target's unit."""


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


def bit_operations(network: nn.Module) -> Tensor:
    """BOPs of one example: integer where the bits are, with gradient 1 through every rounding; float64."""
    found = products(network).values()
    return sum((_cost(product) for product in found), torch.zeros((), dtype=torch.float64))


def reachable_gbops(network: nn.Module) -> tuple[float, float]:
    """BOPs / 1e9 of one example with every learned width at its smallest, and at its largest."""
    ends = [0, 0]
    for product in products(network).values():
        left, right = product.operands
        for index in range(2):
            ends[index] += int(product.macs) * _extremes(left)[index] * _extremes(right)[index]
    return ends[0] / 1e9, ends[1] / 1e9


def operands_of(network: nn.Module) -> tuple[list[NoiseQuantizer], list[NoiseQuantizer]]:
    """(weights, activations): the quantisers that are on."""
    weights: list[NoiseQuantizer] = []
    activations: list[NoiseQuantizer] = []
    for product in products(network).values():
        left, right = product.operands
        (weights if isinstance(product, NoisyLayer) else activations).append(left)
        activations.append(right)
    return [q for q in weights if q.on], [q for q in activations if q.on]


def average_bits(quantizers: Iterable[NoiseQuantizer]) -> float:
    """Integer bits per element; 32 of nothing."""
    counted = [(quantizer.bits, int(quantizer.elements)) for quantizer in quantizers]
    total = sum(elements for _, elements in counted)
    return sum(bits * elements for bits, elements in counted) / total if total else float(IDENTITY_BITS)


def _cost(product: NoisyLayer | NoisyMatmul) -> Tensor:
    left, right = (_width(quantizer) for quantizer in product.operands)
    return left * right * int(product.macs)


def _width(quantizer: NoiseQuantizer) -> Tensor:
    if not quantizer.on:
        return torch.full((), float(IDENTITY_BITS), dtype=torch.float64)
    return quantizer.integer_bits().double()


def _extremes(quantizer: NoiseQuantizer) -> tuple[int, int]:
    if not quantizer.on:
        return IDENTITY_BITS, IDENTITY_BITS
    fixed = int(quantizer.fixed)
    return (fixed, fixed) if fixed else (quantizer.range.low, quantizer.range.high)
