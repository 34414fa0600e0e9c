"""A quantiser: a grid, where its step comes from, and which axis has a step of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from parediff.quantization.arithmetic import codes_of, fake_quantize
from parediff.quantization.grid import IDENTITY_BITS, SMALLEST_STEP, Grid
from parediff.quantization.sources import Static, StepSource


@dataclass(frozen=True)
class Codes:
    """What an integer kernel would hold: value = step * (integers - zero_point) + offset. All shapes broadcast."""

    integers: Tensor
    step: Tensor
    zero_point: Tensor | None
    offset: float

    def dequantize(self) -> Tensor:
        """The float32 values."""
        centred = self.integers.float()
        centred = centred if self.zero_point is None else centred - self.zero_point
        return centred * self.step + self.offset if self.offset else centred * self.step


class Quantizer(nn.Module):
    """Rounds a tensor to its grid; passes it on untouched, bit by bit, at 32 bits or until it is calibrated.

    `axis` None: one step for the tensor; else one for each of `channels` along that axis. Everything learned is in
    the source's tensors and in `calibrated`, with final shapes from the start.
    """

    calibrated: Tensor

    def __init__(
        self, grid: Grid, *, axis: int | None = None, channels: int | None = None, source: StepSource | None = None
    ) -> None:
        super().__init__()
        if (axis is None) != (channels is None):
            raise ValueError("a per-channel quantiser needs both axis and channels, a per-tensor one neither")
        self.grid, self.axis = grid, axis
        self.source = Static(channels, zero_point=grid.has_zero_point) if source is None else source
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))
        self._bypassed = False
        self._frozen: bool | None = None

    @property
    def on(self) -> bool:
        """Whether values change: a grid below 32 bits, and calibrated."""
        if self.grid.identity or self._bypassed:
            return False
        return bool(self.calibrated) if self._frozen is None else self._frozen

    @property
    def bits(self) -> int:
        """The width of what comes out: the grid's, or 32 while the quantiser passes everything."""
        return self.grid.bits if self.on else IDENTITY_BITS

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x
        return fake_quantize(x, *self.parameters_for(x), self.grid)

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(step, zero point), shaped to broadcast against x."""
        zero_point = self.source.zero_point(x)
        return self._along(self.source(x), x), None if zero_point is None else self._along(zero_point, x)

    def quantize_integer(self, x: Tensor) -> Codes:
        """x as integers; `.dequantize()` gives what `forward` gives."""
        step, zero_point = self.parameters_for(x)
        return Codes(codes_of(x, step, zero_point, self.grid), step, zero_point, self.grid.offset)

    def fill(self, step: Tensor, zero_point: Tensor | None = None) -> None:
        """Take over a search's result and switch on."""
        if not bool(torch.isfinite(step).all()):
            raise ValueError("the step is not finite: the calibration data holds NaN or infinity")
        self.source.fill(step.to(self.calibrated.device), zero_point)
        self.calibrated.fill_(True)

    def degenerate(self, x: Tensor) -> Tensor:
        """Which steps for x stand at the smallest one there is: constant zero data, e.g. a zero-initialised layer."""
        return self.source(x) <= SMALLEST_STEP

    def freeze(self) -> None:
        """Read `calibrated` once and for all, so that sampling never waits for the device."""
        self._frozen = bool(self.calibrated)

    def extra_repr(self) -> str:
        return f"{self.grid.kind}, bits={self.grid.bits}, axis={self.axis}"

    def _along(self, value: Tensor, x: Tensor) -> Tensor:
        """A vector of channels laid along the axis; anything else already broadcasts."""
        if self.axis is None or value.ndim != 1:
            return value
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return value.view(shape)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._frozen = None
        super()._load_from_state_dict(*args, **kwargs)


@contextmanager
def bypassed(module: nn.Module) -> Iterator[None]:
    """Every quantiser below `module` passes its input while the block runs: the full-precision network."""
    quantizers = [child for child in module.modules() if isinstance(child, Quantizer)]
    before = [quantizer._bypassed for quantizer in quantizers]
    for quantizer in quantizers:
        quantizer._bypassed = True
    try:
        yield
    finally:
        for quantizer, value in zip(quantizers, before, strict=True):
            quantizer._bypassed = value
