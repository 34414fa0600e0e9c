"""Q-Diffusion: even calibration over time, split shortcuts, block reconstruction (arXiv 2302.04304)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.calibrate import calibrate_activations, calibrate_weights
from parediff.quantization.intervals import fold
from parediff.quantization.proof import proof
from parediff.quantization.reconstruction import Reconstruction
from parediff.quantization.rounded import install_rounding, rounded_share
from parediff.quantization.search import search_named
from parediff.quantization.select import Rule, Width, quantize
from parediff.validation import require


@dataclass(frozen=True)
class QDiffusion(Method):
    """Static steps by search, then learned rounding and learned activation steps, unit by unit, with roll-back."""

    emulated: ClassVar[bool] = True

    weight_bits: int
    activation_bits: int
    weight_grid: Literal["symmetric", "symmetric_negative", "affine"]
    activation_grid: Literal["affine", "symmetric"]
    exponent: float
    values: int
    ends: Width
    time_layers: Width
    attention: Width
    softmax_bits: int
    split: Literal["none", "shortcuts", "all"]
    reconstruction: Reconstruction
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for bits in ("weight_bits", "activation_bits", "softmax_bits"):
            require(2 <= getattr(self, bits) <= 32, bits, getattr(self, bits), "2 to 32")
        require(self.exponent > 0, "exponent", self.exponent, "a positive number")
        require(self.values >= 256, "values", self.values, "256 or more")

    def prepare(self, model: DiffusionModel) -> None:
        quantize(model.denoiser, self._rule())
        install_rounding(model.denoiser)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        search = search_named("mse", exponent=self.exponent)
        calibrate_weights(model.denoiser, search)
        calibrate_activations(model, calls, search, capacity=self.values)
        self.reconstruction.run(model, calls, torch.Generator().manual_seed(self.seed))

    def finalize(self, model: DiffusionModel) -> None:
        fold(model.denoiser)

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        """As of plain quantisation, and the share of weights whose rounding was learned and kept."""
        return proof(model.denoiser) | rounded_share(model.denoiser)

    def _rule(self) -> Rule:
        return Rule(
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            weight_grid=self.weight_grid,
            activation_grid=self.activation_grid,
            silu_grid="shifted",
            per_channel=True,
            ends=self.ends,
            time_layers=self.time_layers,
            attention=self.attention,
            softmax_bits=self.softmax_bits,
            split=self.split,
        )
