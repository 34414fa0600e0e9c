"""LSQ: one learned interval per tensor (Esser et al., arXiv 1902.08153); the static counterpart of TDQ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.grid import Grid
from parediff.quantization.intervals import Layout, activation_quantizers, calibrate_weights, check_bits, fold, install
from parediff.quantization.recipe import Recipe
from parediff.quantization.report import description
from parediff.quantization.search import search_named
from parediff.quantization.sources import Learned
from parediff.quantization.static_fit import fit_static
from parediff.validation import require


@dataclass(frozen=True)
class Lsq(Method):
    """`mode` qat: steps and weights trained; ptq: the steps of the search stay, weights rounded per channel.

    Layers, grids and samples are those of TDQ, so that only the interval's dependence on time differs.
    """

    emulated: ClassVar[bool] = True

    weight_bits: int
    activation_bits: int
    grid: Literal["narrow", "full"]
    mode: Literal["ptq", "qat"]
    search: Literal["minmax", "mse", "lsq"]
    matmuls: bool
    skip: tuple[str, ...]
    exponent: float
    values: int
    training_recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self)
        require(self.values >= 1, "values", self.values, "1 or more")

    def prepare(self, model: DiffusionModel) -> None:
        layout = Layout(self.weight_bits, self.activation_bits, self.grid, self.mode == "qat", self.matmuls, self.skip)

        def source(grid: Grid, _: int) -> Learned:
            levels = 1 if grid.identity else grid.high
            return Learned(None, zero_point=False, gradient_levels=levels, batched=True)

        install(model, layout, source)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        calibrate_weights(model.denoiser, search_named("mse", exponent=self.exponent))
        quantizers = activation_quantizers(model.denoiser)
        fit_static(model, calls, quantizers, self.search, exponent=self.exponent, values=self.values, seed=self.seed)

    def training(self, student: DiffusionModel, teacher: DiffusionModel) -> Any | None:
        if self.mode == "ptq":
            return None
        from parediff.training.quantization_aware import QuantizationAware

        return QuantizationAware(student.denoiser, student.pipeline.scheduler, self.training_recipe, seed=self.seed)

    def finalize(self, model: DiffusionModel) -> None:
        fold(model.denoiser)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """Per layer: bits, grid and step; what stays in full precision."""
        return description(model.denoiser)
