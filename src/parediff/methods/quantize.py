"""Quantisation: one engine of independent choices, of which the method names are presets (see conf/method/ptq.yaml).

Placement, grid, kind of interval, rounding and training are chosen one by one. ptq, tdq (So et al., arXiv 2306.02316),
lsq (Esser et al., 1902.08153), per_step (TFMQ-DM, 2311.16503) and q_diffusion (Li et al., 2302.04304) differ in what is
chosen, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch

from parediff.calibration.base import walk
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.quantization.calibrate import (
    Plan,
    calibrate,
    calibrate_along,
    check_coverage,
    tabulate,
)
from parediff.quantization.generator_fit import GeneratorFit
from parediff.quantization.intervals import (
    GeneratedInterval,
    IntervalKind,
    LearnedInterval,
    PerStepInterval,
    StaticInterval,
    source_of,
)
from parediff.quantization.layers import fold
from parediff.quantization.placement import Groups, Placement, Slot, Width, place
from parediff.quantization.proof import proof
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.reconstruction import Reconstruction
from parediff.quantization.rounding import install_rounding
from parediff.quantization.search import SearchName, SearchSettings
from parediff.quantization.sources import Learned
from parediff.quantization.time_context import TimeContext, find_time_context, install_time_context
from parediff.quantization.time_layers import cache_time_layers
from parediff.training.recipe import Recipe
from parediff.validation import Range, Seed, require

GridName = Literal["affine", "symmetric", "symmetric_negative", "narrow"]


@dataclass(frozen=True)
class Quantize(Method):
    """`recipe` names one of `recipes`, from which the YAML takes the grids, widths and searches that are not given.

    Grids and special layers are as in `quantization.placement`, searches as in `quantization.search`. `values`: how
    many numbers of each activation are kept. `weights_first`: activations are observed behind rounded weights, as they
    will be met. `trajectory`: `own` fits timed intervals step by step along the quantised model's own trajectory. Timed
    tables are made for `sampler`'s steps, or for the calibrated ones where it is null. `offset` learned: symmetric
    grids not behind SiLU are rounded around a learned number. `cache_time_layers`: projections of the time embedding
    become tables too.
    """

    emulated: ClassVar[bool] = True
    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "quantisation"
    serves: ClassVar[tuple[str, ...]] = ("images", "classes")

    recipe: str
    recipes: Annotated[Mapping[str, Any], "what each recipe chooses"]
    weight_bits: Annotated[int, Range(2, 32), "width of weights; 32 is full precision"]
    activation_bits: Annotated[int, Range(2, 32), "width of activations; 32 is full precision"]
    grid: GridName
    weight_grid: GridName
    silu_grid: Literal["shifted", "shifted_narrow", "affine", "symmetric", "symmetric_negative", "narrow"]
    offset: Literal["none", "learned"]
    weight_groups: Literal["tensor", "channel"]
    activation_groups: Groups
    ends: Width
    image: Annotated[bool, "whether what the first layer reads is rounded too"]
    time_layers: Width
    attention: Width
    softmax_bits: Annotated[int, Range(2, 32), "width of attention's weights; 32 is full precision"]
    split: Literal["none", "shortcuts", "all"]
    skip: tuple[str, ...]
    interval: Literal["static", "per_step", "generated", "learned"]
    generator: GeneratorFit
    unseen_steps: Literal["refuse", "interpolate"]
    sampler: Sampler | None
    cache_time_layers: bool
    trajectory: Literal["recorded", "own"]
    weight_search: SearchName
    activation_search: SearchName
    search: SearchSettings
    values: Annotated[int, Range(256)]
    weights_first: Annotated[bool, "whether activations are observed behind rounded weights, as they will be met"]
    rounding: Literal["nearest", "adaround", "joint"]
    learning: Literal["none", "reconstruction", "qat"]
    reconstruction: Reconstruction
    training_recipe: Recipe
    seed: Annotated[Seed, "of what is random in the training"]

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, kinds in (("weight_bits", (self.weight_grid,)), ("activation_bits", (self.grid, self.silu_grid))):
            wide = getattr(self, field) >= 3 or "narrow" not in kinds
            require(wide, field, getattr(self, field), "3 to 32, on narrow grids,")
        some = self.weight_bits < 32 or self.activation_bits < 32
        require(some, "weight_bits", 32, "below 32 here or for activations")
        self._check_choices()

    def _check_choices(self) -> None:
        """Choices that cannot stand beside each other."""
        timed = self.interval in ("per_step", "generated")
        learns = self.interval in ("learned", "generated")
        reconstructs, qat = self.learning == "reconstruction", self.learning == "qat"
        require(learns or not reconstructs, "interval", self.interval, "learned or generated, with this training,")
        require(
            self.rounding == "nearest" or not qat, "rounding", self.rounding, "nearest: qat learns the weights, which"
        )
        require(timed or self.trajectory == "recorded", "trajectory", self.trajectory, "recorded, with this interval,")
        require(timed or not self.cache_time_layers, "cache_time_layers", True, "false, with this interval,")
        own = self.trajectory == "own"
        require(self.sampler is not None or not own, "sampler", None, "a sampler, with trajectory=own,")
        symmetric = self.grid != "affine"
        require(symmetric or self.offset == "none", "offset", self.offset, "none on affine grids")

    @property
    def kind(self) -> IntervalKind:
        """What activations' intervals are."""
        kinds: dict[str, IntervalKind] = {
            "static": StaticInterval(),
            "learned": LearnedInterval(trained=self.learning == "qat"),
            "per_step": PerStepInterval(),
            "generated": GeneratedInterval(self.generator, self.seed),
        }
        return kinds[self.interval]

    @property
    def sees_time(self) -> bool:
        """Whether samples are kept apart by time step."""
        return self.kind.timed or self.search.bias_weight > 0

    def prepare(self, model: DiffusionModel) -> None:
        context: TimeContext | None = None
        steps = getattr(model, "pipeline", None) is not None
        require(steps or not self.kind.timed, "interval", self.interval, "static or learned, of a model without time,")
        if self.sees_time and steps:
            total = int(model.pipeline.scheduler.config.get("num_train_timesteps", 1000))
            context = install_time_context(model.denoiser, total, interpolate=self.unseen_steps == "interpolate")
            context.to(model.device)
        count = iter(range(10**9))

        def make(slot: Slot) -> Quantizer:
            if slot.operand == "weight":
                return self._weight_quantizer(slot)
            source = source_of(self.kind, slot, next(count), context)
            centred = self.offset == "learned" and slot.grid.signed and slot.operand == "input"
            return Quantizer(
                slot.grid,
                axis=slot.axis,
                channels=slot.groups,
                source=source,
                dropout=slot.dropout,
                centred=centred,
                timeless=slot.timeless,
            )

        place(model.denoiser, self._placement(), make)
        if self.rounding != "nearest":
            install_rounding(model.denoiser, joint=self.rounding == "joint")

    def _weight_quantizer(self, slot: Slot) -> Quantizer:
        source = None
        if self.learning == "qat":
            levels = 2**slot.grid.bits - 1  # L of the TDQ code; 1 / sqrt(L numel) multiplies the gradient
            source = Learned(slot.groups, zero_point=slot.grid.has_zero_point, gradient_levels=levels)
        return Quantizer(slot.grid, axis=slot.axis, channels=slot.groups, source=source)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        plan = Plan(
            kind=self.kind,
            weights=self.search.named(self.weight_search),
            activations=self.search.named(self.activation_search),
            values=self.values,
            weights_first=self.weights_first,
            cells=self.search.bias_weight > 0,
            context=find_time_context(model.denoiser) if self.sees_time else None,
        )
        calibrate(model.denoiser, calls, lambda call: model.predict(call.x, call.t, call.cond), plan)
        if self.trajectory == "own" and self.sampler is not None:
            calibrate_along(model, partial(walk, calls, model, self.sampler), self.sampler, plan)
        self._check_coverage(model)
        if self.rounding != "nearest" or self.learning == "reconstruction":
            recipe = self._reconstruction()
            recipe.run(model, calls, torch.Generator().manual_seed(self.seed))

    def _reconstruction(self) -> Reconstruction:
        """Only what was chosen is learned."""
        return Reconstruction(
            **vars(self.reconstruction)
            | ({} if self.rounding != "nearest" else {"iterations": 0})
            | ({} if self.learning == "reconstruction" else {"step_iterations": 0})
        )

    def _check_coverage(self, model: DiffusionModel) -> None:
        if self.interval == "per_step" and self.unseen_steps == "refuse" and self.sampler is not None:
            check_coverage(model, self.sampler)

    @property
    def learns_from_data(self) -> bool:
        return self.learning == "qat"

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any | None:
        if self.learning != "qat":
            return None
        from parediff.training.quantization_aware import QuantizationAware

        return QuantizationAware(student.denoiser, student.pipeline.scheduler, self.training_recipe, seed=self.seed)

    def finalize(self, model: DiffusionModel) -> None:
        self._check_coverage(model)
        if self.interval == "generated":
            tabulate(model, None if self.sampler is None else model.times(self.sampler))
        fold(model.denoiser)
        if self.cache_time_layers:
            cache_time_layers(model)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """How much is quantised, each layer's bits, grids and intervals, and every operation left in full precision."""
        return {"setting": self._setting()} | proof(model.denoiser)

    def _setting(self) -> str:
        """W4A4 alone says too little: the ends, time layers and attention may be wider."""
        softmax = "" if self.attention == "full" else f" with softmax at {self.softmax_bits} bits"
        ends = self.ends if self.image else f"{self.ends} with the image as it is"
        groups = (
            f"{self.activation_groups} groups" if isinstance(self.activation_groups, int) else self.activation_groups
        )
        return (
            f"W{self.weight_bits}A{self.activation_bits}, weights {self.weight_grid} per {self.weight_groups}, "
            f"activations {self.grid} ({self.silu_grid} after SiLU) per {groups}, intervals {self.interval}, "
            f"rounding {self.rounding}, learning {self.learning}, ends {ends}, time layers {self.time_layers}, "
            f"attention products {self.attention}{softmax}"
        )

    def _placement(self) -> Placement:
        return Placement(
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            weight_grid=self.weight_grid,
            grid=self.grid,
            silu_grid=self.silu_grid,
            weight_groups=self.weight_groups,
            activation_groups=self.activation_groups,
            ends=self.ends,
            image=self.image,
            time_layers=self.time_layers,
            attention=self.attention,
            softmax_bits=self.softmax_bits,
            split=self.split,
            skip=self.skip,
        )
