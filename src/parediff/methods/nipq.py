"""NIPQ: bits and clip boundaries learned per tensor through noise, within a budget (Shin et al., 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.tree import put
from parediff.quantization.budget import AverageBits, BitOperations, Budget, Spent
from parediff.quantization.layers import QuantizedLayer, QuantizedMatmul
from parediff.quantization.noise import NOISES, BitRange
from parediff.quantization.noisy import products, quantizers
from parediff.quantization.pseudo import calibrate, install
from parediff.validation import require

BIT_OPERATIONS_WEIGHT = 3.0
"""The paper's factor before the penalty on bit operations; the one before average bits is 1."""


@dataclass(frozen=True)
class Nipq(Method):
    """Mixed precision by gradient descent; `target_gbops` (of one network evaluation) goes before `target_bits`.

    With `uniform_bits` every width is held there, and with `rounding_share` 1 rounding starts at once: the control, LSQ
    through the boundary, which differs in nothing else.
    """

    emulated: ClassVar[bool] = True

    target_bits: float | None
    target_gbops: float | None
    uniform_bits: int | None
    bits_min: int
    bits_max: int
    bits_start: float
    noise: Literal["uniform", "histogram"]
    skip: tuple[str, ...]
    attention: bool
    image_input: bool
    budget_strength: float
    budget_unit: float | None
    rounding_share: float
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    quantizer_learning_rate: float
    bits_learning_rate: float
    warmup_steps: int
    weight_decay: float
    ema_decay: float
    distillation: float
    shift: int
    norm_batches: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._range()
        if self.target_gbops is not None:
            require(self.target_gbops > 0, "target_gbops", self.target_gbops, "a positive number")
        elif self.target_bits is None:
            raise RequestError("target_bits", None, "an average width, or target_gbops, is accepted")
        else:
            reachable = f"a number between bits_min ({self.bits_min}) and bits_max ({self.bits_max})"
            require(self.bits_min < self.target_bits < self.bits_max, "target_bits", self.target_bits, reachable)
        self._check_phases()
        for key in ("budget_strength", "learning_rate", "quantizer_learning_rate", "bits_learning_rate"):
            require(getattr(self, key) > 0, key, getattr(self, key), "a positive number")
        for key in ("warmup_steps", "weight_decay", "distillation", "shift"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(self.norm_batches >= 1, "norm_batches", self.norm_batches, "1 or more")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 to below 1")

    def _check_phases(self) -> None:
        share, held = self.rounding_share, self.uniform_bits
        require(held is None or 2 <= held <= 31, "uniform_bits", held, "null, or a whole number from 2 to 31")
        if held is None:
            require(0 < share < 1, "rounding_share", share, "a share between 0 and 1")
        else:
            require(0 < share <= 1, "rounding_share", share, "a share above 0, up to 1")

    def _range(self) -> BitRange:
        return BitRange(self.bits_min, self.bits_max, self.bits_start)

    def prepare(self, model: DiffusionModel) -> None:
        install(
            model.denoiser,
            self._range(),
            NOISES[self.noise](),
            skip=self.skip,
            attention=self.attention,
            image_input=self.image_input,
            uniform_bits=self.uniform_bits,
        )

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        calibrate(model.denoiser, calls, lambda call: model.predict(call.x, call.t, call.cond))
        self._budget(model.denoiser)  # an unreachable target is told before anything is trained

    def _budget(self, network: nn.Module) -> Budget:
        if self.uniform_bits is not None:
            return Spent(network)
        if self.target_gbops is not None:
            strength = BIT_OPERATIONS_WEIGHT * self.budget_strength
            return BitOperations(network, self.target_gbops, strength=strength, unit=self.budget_unit)
        assert self.target_bits is not None
        return AverageBits(network, self.target_bits, strength=self.budget_strength, unit=self.budget_unit)

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any:
        from parediff.training.nipq import NoiseTraining

        return NoiseTraining(
            student.denoiser,
            objective_for(student, teacher, distillation=self.distillation, shift=self.shift),
            self._budget(student.denoiser),
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
        found = products(model.denoiser)
        if not all(bool(quantizer.rounding) for quantizer in quantizers(model.denoiser)):
            accepted = "weights of the second phase are accepted, in which the bits no longer change"
            raise RequestError("checkpoint", "of the noise phase", accepted)
        for path, product in found.items():
            rounded = product.rounded()
            rounded.register_buffer("macs", product.macs, persistent=False)
            for name, operand in zip(("left_elements", "right_elements"), product.operands, strict=True):
                rounded.register_buffer(name, operand.elements, persistent=False)
            put(model.denoiser, path, rounded)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Learned bits of every product, their averages, and bit operations of one network evaluation."""
        found: dict[str, Any] = {
            path: module
            for path, module in model.denoiser.named_modules()
            if isinstance(module, QuantizedLayer | QuantizedMatmul) and hasattr(module, "macs")
        }
        layers = {path: _bits_of(module) for path, module in found.items()}
        weights, activations = _spread(found.values())
        return {
            "layers": layers,
            "average_weight_bits": _average(weights),
            "average_activation_bits": _average(activations),
            "gbops": sum(int(module.macs) * _product(layers[path]) for path, module in found.items()) / 1e9,
        }


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
        (weights if isinstance(module, QuantizedLayer) else activations).append((left, int(module.left_elements)))
        activations.append((right, int(module.right_elements)))
    return [width for width in weights if width[0] < 32], [width for width in activations if width[0] < 32]


def _average(widths: Widths) -> float | None:
    """Bits per value."""
    total = sum(count for _, count in widths)
    return sum(bits * count for bits, count in widths) / total if total else None
