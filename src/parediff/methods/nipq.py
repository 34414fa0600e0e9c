"""NIPQ: bits and clip boundaries learned per tensor through noise, within a budget (Shin et al., 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import nn

from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.allocation import allocate
from parediff.quantization.budget import AverageBits, BitOperations, Budget, Spent, measure
from parediff.quantization.calibrate import Plan, calibrate
from parediff.quantization.grid import IDENTITY_BITS
from parediff.quantization.intervals import StaticInterval
from parediff.quantization.layers import QuantizedLayer, QuantizedMatmul, layers_of
from parediff.quantization.noise import NOISES, BitRange, NoiseQuantizer, harden, quantizers
from parediff.quantization.placement import Placement, Slot, Width, place
from parediff.quantization.proof import proof
from parediff.quantization.search import SearchSettings
from parediff.validation import WIDTHS, Below1, Count, NonNegative, Positive, Range, Seed, Whole, require, widths_of

VALUES = 65536
"""Of each activation that are kept for its boundary."""

BIT_OPERATIONS_WEIGHT = 3.0
"""The paper's factor before the penalty on bit operations; the one before average bits is 1."""


@dataclass(frozen=True)
class Nipq(Method):
    """Mixed precision by gradient descent within a budget of one network evaluation.

    The budget is what `target_width` everywhere would cost in bit operations, or else `target_gbops`, or else an
    average width, `target_bits`. With `uniform_bits` every width is held there (those of activations at
    `uniform_activation_bits`, where given), and with `rounding_share` 1 rounding starts at once: the control, LSQ
    through the boundary, which differs in nothing else. `allocation` sensitivity: widths are not learned but given
    within the budget, before training, to what changes the network's output most.
    """

    emulated: ClassVar[bool] = True
    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "quantisation"
    serves: ClassVar[tuple[str, ...]] = ("images", "classes")

    target_bits: Positive | None
    target_gbops: Positive | None
    target_width: Annotated[str, WIDTHS] | None
    uniform_bits: Annotated[int, Range(2, 31)] | None
    uniform_activation_bits: Annotated[int, Range(2, 31)] | None
    allocation: Literal["learned", "sensitivity"]
    bits_min: Annotated[int, Range(2, 31), "the least width"]
    bits_max: Annotated[int, Range(2, 31), "the greatest width"]
    bits_start: Annotated[float, Range(2, 31), "where learned widths begin"]
    noise: Literal["uniform", "histogram"]
    skip: tuple[str, ...]
    attention: bool
    image_input: bool
    budget_strength: Positive
    budget_unit: Positive | None
    rounding_share: Annotated[float, Range(above=0, most=1)]
    optimizer: Literal["sgd", "adamw"]
    learning_rate: Annotated[Positive, "of weights"]
    quantizer_learning_rate: Positive
    bits_learning_rate: Positive
    warmup_steps: Annotated[Whole, "in which the rates rise"]
    weight_decay: Annotated[NonNegative, "of weights"]
    ema_decay: Annotated[Below1, "of the averaged weights, which are kept"]
    distillation: NonNegative
    shift: Whole
    norm_batches: Count
    seed: Annotated[Seed, "of what is random in the training"]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._range()
        widths = widths_of(self.target_width or "")
        if widths is not None:
            reachable = f"widths between bits_min ({self.bits_min}) and bits_max ({self.bits_max}), one of them inside,"
            ends = self.bits_min * 2 < sum(widths) < self.bits_max * 2
            within = all(self.bits_min <= bits <= self.bits_max for bits in widths)
            require(ends and within, "target_width", self.target_width, reachable)
        elif self.target_gbops is None and self.target_bits is None:
            accepted = "an average width, or target_gbops, or target_width, is accepted"
            raise RequestError("target_bits", None, accepted)
        elif self.target_gbops is None and self.target_bits is not None:
            reachable = f"a number between bits_min ({self.bits_min}) and bits_max ({self.bits_max})"
            require(self.bits_min < self.target_bits < self.bits_max, "target_bits", self.target_bits, reachable)
        self._check_phases()

    def _check_phases(self) -> None:
        share, held = self.rounding_share, self.uniform_bits
        both = held is not None or self.uniform_activation_bits is None
        require(both, "uniform_activation_bits", self.uniform_activation_bits, "null, where uniform_bits is null,")
        given = self.allocation == "sensitivity"
        require(held is None or not given, "allocation", self.allocation, "learned, where uniform_bits is given,")
        learns = held is None and not given
        require(share < 1 or not learns, "rounding_share", share, "a share below 1, where bits are learned,")

    def _range(self) -> BitRange:
        return BitRange(self.bits_min, self.bits_max, self.bits_start)

    def prepare(self, model: DiffusionModel) -> None:
        noise, range = NOISES[self.noise](), self._range()

        def make(slot: Slot) -> NoiseQuantizer:
            weight = slot.operand == "weight"
            quantizer = NoiseQuantizer(range, noise, "symmetric" if weight else None)
            held = self.uniform_bits if weight else self.uniform_activation_bits or self.uniform_bits
            quantizer.fix(IDENTITY_BITS if slot.grid.identity else held or 0)
            return quantizer

        place(model.denoiser, self._placement(), make)
        model.denoiser.requires_grad_(False)

    def _placement(self) -> Placement:
        """Everything, with a width of its own."""
        attention: Width = "same" if self.attention else "full"
        return Placement(8, 8, skip=self.skip, attention=attention, image=self.image_input, whole=True)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        def run(call: Call) -> Any:
            return model.predict(call.x, call.t, call.cond)

        search = SearchSettings().named("mse")
        calibrate(model.denoiser, calls, run, Plan(StaticInterval(), search, search, VALUES, False, False, None))
        first = next(iter(calls))
        measure(model.denoiser, first, run)
        budget = self._budget(model.denoiser)  # an unreachable target is told before anything is trained
        if self.allocation == "sensitivity":
            allocate(model.denoiser, budget, lambda: run(first))

    def _budget(self, network: nn.Module) -> Budget:
        if self.uniform_bits is not None:
            return Spent(network)
        gbops = self._gbops_asked(network)
        if gbops is not None:
            strength = BIT_OPERATIONS_WEIGHT * self.budget_strength
            return BitOperations(network, gbops, strength=strength, unit=self.budget_unit)
        assert self.target_bits is not None
        return AverageBits(network, self.target_bits, strength=self.budget_strength, unit=self.budget_unit)

    def _gbops_asked(self, network: nn.Module) -> float | None:
        """The budget in bit operations of an example / 1e9, where it is one."""
        widths = widths_of(self.target_width or "")
        return self.target_gbops if widths is None else _gbops_at(network, *widths)

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any:
        from parediff.training.nipq import NoiseTraining

        network = student.denoiser
        return NoiseTraining(
            network,
            objective_for(student, teacher, distillation=self.distillation, shift=self.shift),
            Spent(network) if self.allocation == "sensitivity" else self._budget(network),  # allocated widths are held
            rounding_share=self.rounding_share,
            optimizer=self.optimizer,
            quantizer_learning_rate=self.quantizer_learning_rate,
            bits_learning_rate=self.bits_learning_rate,
            norm_batches=self.norm_batches,
            learning_rate=self.learning_rate,
            schedule="cosine",
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            ema_decay=self.ema_decay,
            seed=self.seed,
        )

    def finalize(self, model: DiffusionModel) -> None:
        if not all(bool(quantizer.rounding) for quantizer in quantizers(model.denoiser)):
            accepted = "weights of the second phase are accepted, in which the bits no longer change"
            raise RequestError("checkpoint", "of the noise phase", accepted)
        harden(model.denoiser)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """As of plain quantisation; every product's widths, their averages, and what of the budget is spent."""
        found = _products(model.denoiser)
        widths = {path: _bits_of(module) for path, module in found.items()}
        weights, activations = _spread(found.values())
        gbops = sum(_macs(module) * _product(widths[path]) for path, module in found.items()) / 1e9
        told = {
            "widths": widths,
            "average_weight_bits": _average(weights),
            "average_activation_bits": _average(activations),
            "gbops": gbops,
        }
        return proof(model.denoiser) | told | {"budget": self._spent(model.denoiser, told)}

    def _spent(self, network: nn.Module, told: dict[str, Any]) -> dict[str, Any] | None:
        """What was asked for, and what the widths spend."""
        if self.uniform_bits is not None:
            return None
        gbops = self._gbops_asked(network)
        if gbops is not None:
            return {"unit": "GBOPs", "target": gbops, "spent": told["gbops"]}
        averages = {key: told[f"average_{key}_bits"] for key in ("weight", "activation")}
        return {"unit": "bits", "target": self.target_bits, "spent": averages}


def objective_for(student: Any, teacher: Any, *, distillation: float, shift: int) -> Any:
    """Labels for a classifier, the noise for a denoiser of pixels."""
    from parediff.training.objectives import Classify, Denoise

    if not isinstance(student, DiffusionModel):
        return Classify(teacher.denoiser, distillation=distillation, shift=shift)
    if student.conditioning == "text" or hasattr(student.pipeline, "vae"):
        accepted = "a model of pixels, unconditional or with classes, is accepted by this training"
        raise RequestError("model", student.name, accepted)
    if distillation > 1:
        raise RequestError("distillation", distillation, "a share from 0 to 1 is accepted for a denoiser")
    conditional = student.conditioning == "class"
    return Denoise(teacher.denoiser, student.pipeline.scheduler, distillation=distillation, conditional=conditional)


def _products(network: nn.Module) -> dict[str, Any]:
    """Every layer and product whose factors are rounded, by its path."""
    return {path: one for path, one in layers_of(network).items() if hasattr(one, "operands")}


def _gbops_at(network: nn.Module, weight_bits: int, activation_bits: int) -> float:
    """BOPs / 1e9 of one example with this width for every weight, and for every activation, that is rounded."""
    total = 0
    for module in _products(network).values():
        wanted = (weight_bits if isinstance(module, QuantizedLayer) else activation_bits, activation_bits)
        now = _bits_of(module).values()
        left, right = (IDENTITY_BITS if one == IDENTITY_BITS else bits for one, bits in zip(now, wanted, strict=True))
        total += _macs(module) * left * right
    return total / 1e9


def _macs(module: QuantizedLayer | QuantizedMatmul) -> int:
    return int(next(iter(module.operands().values())).macs)


def _bits_of(module: QuantizedLayer | QuantizedMatmul) -> dict[str, int]:
    if isinstance(module, QuantizedLayer):
        return {"weight_bits": module.weight_bits, "activation_bits": module.activation_bits}
    return {"a_bits": module.a_bits, "b_bits": module.b_bits}


def _product(bits: dict[str, int]) -> int:
    left, right = bits.values()
    return left * right


Widths = list[tuple[int, int]]
"""(bits, values of one example) of every operand that is quantised."""


def _spread(modules: Iterable[Any]) -> tuple[Widths, Widths]:
    """Those of weights, those of activations."""
    weights: Widths = []
    activations: Widths = []
    for module in modules:
        left, right = _bits_of(module).values()
        first, second = (int(operand.elements) for operand in module.operands().values())
        (weights if isinstance(module, QuantizedLayer) else activations).append((left, first))
        activations.append((right, second))
    return [width for width in weights if width[0] < 32], [width for width in activations if width[0] < 32]


def _average(widths: Widths) -> float | None:
    """Bits per value."""
    total = sum(count for _, count in widths)
    return sum(bits * count for bits, count in widths) / total if total else None
