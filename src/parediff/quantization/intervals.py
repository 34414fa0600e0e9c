"""Where TDQ and its static counterparts put quantisers: one layout, so that only the source of the step differs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from parediff.models.diffusion.attention import Matmul, explicit_attention
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.tree import named, put
from parediff.quantization.grid import Grid
from parediff.quantization.layers import LAYERS, FoldableLayer, QuantizedLayer, QuantizedMatmul
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Samples
from parediff.quantization.search import Search
from parediff.quantization.sources import Learned, StepSource
from parediff.validation import require

TIME_ONLY = (
    r"time_embedding|time_emb_proj|time_embed|class_embedding|add_embedding|emb\.timestep_embedder"
    r"|norm\d*\.linear|adaln_single|time_proj|time_context"
)
ENDS = r"(^|\.)(conv_in|conv_out)$|^pos_embed\.proj$|^(proj_out|proj_out_1|proj_out_2|norm_out\.linear)$"
FULL_PRECISION = re.compile(f"{TIME_ONLY}|{ENDS}")
"""What TDQ leaves alone: first and last layer, and everything that depends on time only (tdq.md, section 2.1)."""

SourceFor = Callable[[Grid, int], StepSource]
"""A step source for the n-th activation quantiser, whose grid is given."""


@dataclass(frozen=True)
class Layout:
    """Bits and grids. `narrow` grids are the TDQ code's, `full` ones use every level.

    `learned_weights`: one learned step per weight tensor; else one fixed step per output channel. `matmuls`: both
    products inside attention too, which the paper's settings leave out. `offset`: inputs that do not come from SiLU are
    shifted by a learned number before they are rounded (the TDQ code's Asym).
    """

    weight_bits: int
    activation_bits: int
    grid: Literal["narrow", "full"]
    learned_weights: bool
    matmuls: bool
    skip: tuple[str, ...]
    offset: bool = False

    def signed(self, bits: int) -> Grid:
        return Grid(bits, "narrow" if self.grid == "narrow" else "symmetric")

    def after_silu(self, bits: int) -> Grid:
        return Grid(bits, "shifted_narrow" if self.grid == "narrow" else "shifted")


def check_bits(method: Any) -> None:
    """Raise unless both widths of a method fit its `grid`: a narrow one has no levels left below 3 bits."""
    least = 3 if method.grid == "narrow" else 2
    for bits in ("weight_bits", "activation_bits"):
        require(least <= getattr(method, bits) <= 32, bits, getattr(method, bits), f"{least} to 32")


class BehindDropout(nn.Module):
    """A quantiser of SiLU's output behind a dropout, which multiplies what it keeps by 1 / (1 - p) in training.

    So the smallest value is m / (1 - p) there, and m = SiLU's minimum in evaluation.
    """

    def __init__(self, quantizer: Quantizer, dropout: float) -> None:
        super().__init__()
        self.quantizer, self.dropout = quantizer, dropout

    @property
    def bits(self) -> int:
        return self.quantizer.bits

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropout or not self.quantizer.on:
            return self.quantizer(x)
        offset = self.quantizer.grid.offset
        shift = offset / (1 - self.dropout) - offset
        return self.quantizer(x - shift) + shift


class Offset(nn.Module):
    """A quantiser around beta: q(x - beta) + beta. beta [] is learned and the same at all times (tdq.md, section 2)."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.beta = nn.Parameter(torch.zeros(()))

    @property
    def bits(self) -> int:
        return self.quantizer.bits

    def forward(self, x: Tensor) -> Tensor:
        if not self.quantizer.on:
            return self.quantizer(x)
        beta = self.beta.to(x.dtype)
        return self.quantizer(x - beta) + beta


def offsets_of(denoiser: nn.Module) -> dict[str, Offset]:
    """Every offset, by the path of its quantiser."""
    return {f"{path}.quantizer": child for path, child in denoiser.named_modules() if isinstance(child, Offset)}


def install(model: DiffusionModel, layout: Layout, source_for: SourceFor) -> list[str]:
    """Quantise the denoiser's layers; the paths. Raises where nothing matched or a `skip` pattern matches nothing."""
    denoiser = model.denoiser
    _check_patterns(denoiser, layout.skip)
    matches = list(named(denoiser, lambda path, module: _wanted(path, module, layout.skip)))
    if not matches:
        raise ValueError(f"nothing to quantise in {type(denoiser).__name__}: no convolution or linear layer is left")
    for place, (path, layer) in enumerate(matches):
        put(denoiser, path, _quantized(denoiser, path, layer, layout, source_for, place))
    return [path for path, _ in matches] + _matmuls(denoiser, layout, source_for, len(matches))


def _wanted(path: str, module: nn.Module, skip: tuple[str, ...]) -> bool:
    return isinstance(module, LAYERS) and not FULL_PRECISION.search(path) and not any(re.search(p, path) for p in skip)


def _check_patterns(denoiser: nn.Module, skip: tuple[str, ...]) -> None:
    paths = [path for path, _ in denoiser.named_modules()]
    for pattern in skip:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(f"skip={pattern}: no module's path matches it")


def _quantized(
    denoiser: nn.Module, path: str, layer: Any, layout: Layout, source_for: SourceFor, place: int
) -> QuantizedLayer:
    dropout = behind_silu(denoiser, path)
    bits = layout.activation_bits
    grid = layout.signed(bits) if dropout is None else layout.after_silu(bits)
    quantizer: Any = Quantizer(grid, source=source_for(grid, place))
    if dropout:
        quantizer = BehindDropout(quantizer, dropout)
    elif dropout is None and layout.offset:
        quantizer = Offset(quantizer)
    quantized = QuantizedLayer(layer, _weight_quantizer(layer, layout), quantizer)
    return quantized.to(layer.weight.device).train(layer.training)


def _weight_quantizer(layer: Any, layout: Layout) -> Quantizer:
    grid = layout.signed(layout.weight_bits)
    if layout.learned_weights:
        levels = 2**layout.weight_bits - 1  # L of the TDQ code; 1 / sqrt(L numel) multiplies the gradient
        return Quantizer(grid, source=Learned(None, zero_point=False, gradient_levels=levels))
    return Quantizer(grid, axis=0, channels=layer.weight.shape[0])


def _matmuls(denoiser: nn.Module, layout: Layout, source_for: SourceFor, count: int) -> list[str]:
    """q and k; the softmax's output, on an unsigned grid, and v."""
    if not layout.matmuls:
        return []
    explicit_attention(denoiser)
    found = list(named(denoiser, Matmul))
    for place, (path, _) in enumerate(found):
        grids = [layout.signed(layout.activation_bits)] * 2
        if path.endswith("pv"):
            grids[0] = Grid(layout.activation_bits, "unsigned")
        operands = [Quantizer(grid, source=source_for(grid, count + 2 * place + i)) for i, grid in enumerate(grids)]
        put(denoiser, path, QuantizedMatmul(*operands))
    return [path for path, _ in found]


def behind_silu(denoiser: nn.Module, path: str) -> float | None:
    """The dropout in front of a layer that reads SiLU's output (a residual block's two convolutions), else None."""
    owner_path, _, name = path.rpartition(".")
    owner: Any = denoiser.get_submodule(owner_path)
    if name not in ("conv1", "conv2") or not isinstance(getattr(owner, "nonlinearity", None), nn.SiLU):
        return None
    return float(owner.dropout.p) if name == "conv2" else 0.0


def layers_of(denoiser: nn.Module) -> dict[str, FoldableLayer | QuantizedMatmul]:
    """Every quantised layer and product by its path."""
    return {
        path: module for path, module in denoiser.named_modules() if isinstance(module, FoldableLayer | QuantizedMatmul)
    }


def activation_quantizers(denoiser: nn.Module) -> dict[str, Quantizer]:
    """Every quantiser of an activation by its path."""
    return {
        path: module
        for path, module in denoiser.named_modules()
        if isinstance(module, Quantizer) and "weight_quantizer" not in path
    }


@torch.no_grad()
def calibrate_weights(denoiser: nn.Module, search: Search) -> None:
    """Fit every weight quantiser to its weight."""
    for module in denoiser.modules():
        if isinstance(module, QuantizedLayer) and not module.weight_quantizer.grid.identity:
            quantizer = module.weight_quantizer
            step, zero_point = search.fit(Samples.of(module.weight, quantizer.axis), quantizer.grid)
            quantizer.fill(step[0] if quantizer.axis is None else step, zero_point)


def fold(denoiser: nn.Module) -> None:
    """Round every weight once and settle which quantisers are on."""
    for module in denoiser.modules():
        if isinstance(module, FoldableLayer):
            module.fold()
        elif isinstance(module, Quantizer):
            module.freeze()
