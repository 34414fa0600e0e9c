"""Post-training quantisation: the best static steps for weights and activations (quantization.md, sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.calibrate import calibrate_activations, calibrate_weights
from parediff.quantization.intervals import fold
from parediff.quantization.proof import proof
from parediff.quantization.search import Search, search_named
from parediff.quantization.select import Rule, Width, quantize
from parediff.validation import require

SearchName = Literal["minmax", "percentile", "mse", "cosine", "kl"]


@dataclass(frozen=True)
class PTQ(Method):
    """Grids and special layers as in `quantization.select.Rule`; searches as in `quantization.search`.

    `exponent`: mse minimises mean |error|^exponent. `candidates` shrunken ranges from 1 down to `lowest` are tried
    before the finer search. `percentile`: the share of values that its search spans. `values`: how many of each
    activation are kept. `weights_first`: activations are observed behind rounded weights, as they will be met.
    """

    emulated: ClassVar[bool] = True

    weight_bits: int
    activation_bits: int
    weight_grid: Literal["symmetric", "symmetric_negative", "narrow", "affine"]
    activation_grid: Literal["affine", "symmetric", "symmetric_negative", "narrow"]
    silu_grid: Literal["shifted", "shifted_narrow", "affine", "symmetric", "symmetric_negative", "narrow"]
    per_channel: bool
    weight_search: SearchName
    activation_search: SearchName
    exponent: float
    candidates: int
    lowest: float
    percentile: float
    values: int
    weights_first: bool
    ends: Width
    time_layers: Width
    attention: Width
    softmax_bits: int
    split: Literal["none", "shortcuts", "all"]

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, kinds in (
            ("weight_bits", (self.weight_grid,)),
            ("activation_bits", (self.activation_grid, self.silu_grid)),
            ("softmax_bits", ("unsigned",)),
        ):
            least = 3 if "narrow" in kinds else 2
            require(least <= getattr(self, field) <= 32, field, getattr(self, field), f"{least} to 32")
        require(
            self.weight_bits < 32 or self.activation_bits < 32, "weight_bits", 32, "below 32 here or for activations"
        )
        require(self.exponent > 0, "exponent", self.exponent, "a positive number")
        require(self.candidates >= 2, "candidates", self.candidates, "2 or more")
        require(0 < self.lowest < 1, "lowest", self.lowest, "a share between 0 and 1")
        require(0.5 < self.percentile <= 1, "percentile", self.percentile, "a share above 0.5, at most 1")
        require(self.values >= 256, "values", self.values, "256 or more")

    def prepare(self, model: DiffusionModel) -> None:
        quantize(model.denoiser, self._rule())

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        weights, activations = self._search(self.weight_search), self._search(self.activation_search)
        if self.weights_first:
            calibrate_weights(model.denoiser, weights)
        calibrate_activations(model, calls, activations, capacity=self.values)
        if not self.weights_first:
            calibrate_weights(model.denoiser, weights)

    def finalize(self, model: DiffusionModel) -> None:
        fold(model.denoiser)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """How much is quantised, each layer's bits, grid and steps, and every operation left in full precision."""
        return {"setting": self._setting()} | proof(model.denoiser)

    def _rule(self) -> Rule:
        return Rule(
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            weight_grid=self.weight_grid,
            activation_grid=self.activation_grid,
            silu_grid=self.silu_grid,
            per_channel=self.per_channel,
            ends=self.ends,
            time_layers=self.time_layers,
            attention=self.attention,
            softmax_bits=self.softmax_bits,
            split=self.split,
        )

    def _search(self, name: str) -> Search:
        return search_named(
            name,
            exponent=self.exponent,
            candidates=self.candidates,
            lowest=self.lowest,
            fraction=self.percentile,
        )

    def _setting(self) -> str:
        """W4A4 alone says too little: the ends, time layers and attention may be wider."""
        granularity = "channel" if self.per_channel else "tensor"
        return (
            f"W{self.weight_bits}A{self.activation_bits}, weights per {granularity}, activations per tensor, "
            f"ends {self.ends}, time layers {self.time_layers}, attention products {self.attention}"
            + ("" if self.attention == "full" else f" with softmax at {self.softmax_bits} bits")
        )
