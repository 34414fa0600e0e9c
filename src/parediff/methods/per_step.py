"""A step for every time step of the sampler, without a network (TFMQ-DM, arXiv 2311.16503; EfficientDM's TALSQ)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import Layout, calibrate_weights, check_bits, fold
from parediff.quantization.report import description
from parediff.quantization.search import search_named
from parediff.quantization.tables import PerStepTable
from parediff.quantization.time_context import TimeContext
from parediff.quantization.timed import check_coverage, fill_tables, observe, prepare_timed
from parediff.validation import require


@dataclass(frozen=True)
class PerStep(Method):
    """The dynamic competitor of TDQ: the best interval at each calibrated time step, looked up by t.

    Steps of the sampler that were not calibrated are refused, or interpolated over t where `unseen_steps` says so.
    """

    emulated: ClassVar[bool] = True

    weight_bits: int
    activation_bits: int
    grid: Literal["narrow", "full"]
    search: Literal["minmax", "mse"]
    matmuls: bool
    skip: tuple[str, ...]
    unseen_steps: Literal["refuse", "interpolate"]
    sampler: Sampler | None
    exponent: float
    values: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self)
        require(self.values >= 1, "values", self.values, "1 or more")

    @property
    def interpolates(self) -> bool:
        return self.unseen_steps == "interpolate"

    def prepare(self, model: DiffusionModel) -> None:
        def source(context: TimeContext, grid: Grid, _: int) -> PerStepTable:
            return PerStepTable(context, zero_point=grid.has_zero_point)

        layout = Layout(self.weight_bits, self.activation_bits, self.grid, False, self.matmuls, self.skip)
        prepare_timed(model, layout, source, interpolate=self.interpolates)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        calibrate_weights(model.denoiser, search_named("mse", exponent=self.exponent))
        quantizers, samples = observe(model, calls, values=self.values, seed=self.seed)
        check_coverage(model, self.sampler, interpolate=self.interpolates)
        search = search_named(self.search, exponent=self.exponent)
        fill_tables(list(quantizers.values()), [samples[name] for name in quantizers], search)

    def finalize(self, model: DiffusionModel) -> None:
        check_coverage(model, self.sampler, interpolate=self.interpolates)
        fold(model.denoiser)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Per layer: bits, grid, range of steps over the calibrated time steps; what stays in full precision."""
        return description(model.denoiser)
