"""TDQ: activation intervals generated from the time step (So et al., arXiv 2306.02316), after or during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.quantization.generated import Generated
from parediff.quantization.generator_fit import GeneratorFit
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import Layout, calibrate_weights, check_bits, fold, offsets_of
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.recipe import Recipe
from parediff.quantization.reconstruction import Reconstruction
from parediff.quantization.report import description
from parediff.quantization.search import Search, search_named
from parediff.quantization.time_context import TimeContext
from parediff.quantization.time_layers import cache_time_layers
from parediff.quantization.timed import executed_steps, observe, prepare_timed, tabulate
from parediff.quantization.timed_samples import TimedSamples, statistics_step
from parediff.validation import require


@dataclass(frozen=True)
class Tdq(Method):
    """`mode` ptq: generators fitted to recorded activations, weights rounded per channel; qat: everything trained.

    `initial` says where the generators start: `statistics` is the paper's mean + 3 sigma (16 sigma after SiLU), `mse`
    the best static step, `fitted` the fit of the ptq mode. `finalize` tabulates them for `sampler`'s steps, or for the
    calibrated ones where it is null. `block_iterations` of a second stage adjust the generators to block outputs.
    """

    emulated: ClassVar[bool] = True

    weight_bits: int
    activation_bits: int
    grid: Literal["narrow", "full"]
    mode: Literal["ptq", "qat"]
    initial: Literal["statistics", "mse", "fitted"]
    offset: Literal["none", "learned"]
    matmuls: bool
    skip: tuple[str, ...]
    unseen_steps: Literal["refuse", "interpolate"]
    sampler: Sampler | None
    time_layers: Literal["computed", "cached"]
    dropout: float
    iterations: int
    fit_learning_rate: float
    relative_error: bool
    exponent: float
    values: int
    block_iterations: int
    block_learning_rate: float
    block_rows: int
    training_recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a share from 0 to below 1")
        require(self.iterations >= 0, "iterations", self.iterations, "0 or more")
        require(self.fit_learning_rate > 0, "fit_learning_rate", self.fit_learning_rate, "a positive number")
        require(self.values >= 1, "values", self.values, "1 or more")
        require(self.block_iterations >= 0, "block_iterations", self.block_iterations, "0 or more")
        require(self.block_learning_rate > 0, "block_learning_rate", self.block_learning_rate, "a positive number")
        require(self.block_rows >= 2, "block_rows", self.block_rows, "2 or more")

    def prepare(self, model: DiffusionModel) -> None:
        def source(context: TimeContext, grid: Grid, place: int) -> Generated:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + place)
            return Generated(context, dropout=self.dropout, generator=generator)

        layout = Layout(
            self.weight_bits,
            self.activation_bits,
            self.grid,
            learned_weights=self.mode == "qat",
            matmuls=self.matmuls,
            skip=self.skip,
            offset=self.offset == "learned",
        )
        prepare_timed(model, layout, source, interpolate=self.unseen_steps == "interpolate")

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        search = search_named("mse", exponent=self.exponent)
        calibrate_weights(model.denoiser, search)
        quantizers, samples = observe(model, calls, values=self.values, seed=self.seed)
        for name, offset in offsets_of(model.denoiser).items():
            mean = samples[name].values.mean()
            offset.beta.data.copy_(mean)
            samples[name] = samples[name].minus(mean)
        self._fit(quantizers, samples, search)
        if self.block_iterations:
            self._reconstruct(model, calls)

    def _fit(self, quantizers: Mapping[str, Quantizer], samples: Mapping[str, TimedSamples], search: Search) -> None:
        if self.initial == "statistics":
            for name, quantizer in quantizers.items():
                quantizer.fill(statistics_step(samples[name], quantizer.grid))
            return
        iterations = self.iterations if self.initial == "fitted" else 0
        fit = GeneratorFit(search, iterations, self.fit_learning_rate, self.relative_error)
        fit.fit(list(quantizers.values()), [samples[name] for name in quantizers])

    def _reconstruct(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        """The second stage: generators only, block by block, rolled back where a held-out error does not fall."""
        blocks = Reconstruction(
            iterations=0,
            step_iterations=self.block_iterations,
            batch=32,
            rows=self.block_rows,
            learning_rate=1.0,
            step_learning_rate=self.block_learning_rate,
            regularisation=0.0,
        )
        blocks.run(model, calls, torch.Generator().manual_seed(self.seed))

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any | None:
        if self.mode == "ptq":
            return None
        from parediff.training.quantization_aware import QuantizationAware

        return QuantizationAware(student.denoiser, student.pipeline.scheduler, self.training_recipe, seed=self.seed)

    def finalize(self, model: DiffusionModel) -> None:
        tabulate(model, None if self.sampler is None else executed_steps(model, self.sampler))
        fold(model.denoiser)
        if self.time_layers == "cached":
            cache_time_layers(model)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Per layer: bits, grid, range of steps over the tabulated time steps; what stays in full precision."""
        return description(model.denoiser)
