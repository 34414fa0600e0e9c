"""A quantiser: a grid, where its interval comes from, and which channels share one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parediff.quantization.arithmetic import codes_of, fake_quantize, round_fixed
from parediff.quantization.grid import IDENTITY_BITS, Grid
from parediff.quantization.samples import Samples
from parediff.quantization.search import Search
from parediff.quantization.sources import Interval, Static, StepSource


class Quantizer(nn.Module):
    """Rounds a tensor to its grid; passes it on untouched, bit by bit, at 32 bits or until it is calibrated.

    `axis` None: one interval for the tensor; else one for each of `channels` equal groups of channels along that axis.
    `dropout` stands in front and multiplies what it keeps by 1 / (1 - p) in training, so a shifted grid starts at
    m / (1 - p) there. `centred`: x is rounded around a learned number beta [], q(x - beta) + beta (TDQ's Asym, tdq.md,
    section 2). `timeless`: it is met before the network knows the time step. Everything learned is in tensors with
    final shapes from the start.
    """

    calibrated: Tensor

    def __init__(
        self,
        grid: Grid,
        *,
        axis: int | None = None,
        channels: int | None = None,
        source: StepSource | None = None,
        dropout: float = 0.0,
        centred: bool = False,
        timeless: bool = False,
    ) -> None:
        super().__init__()
        if (axis is None) != (channels is None):
            raise ValueError("a per-channel quantiser needs both axis and channels, a per-tensor one neither")
        self.grid, self.axis, self.channels, self.dropout = grid, axis, channels, dropout
        self.timeless = timeless
        self.source = Static(channels, zero_point=grid.has_zero_point) if source is None else source
        self.beta = nn.Parameter(torch.zeros(())) if centred else None
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
    def _plain(self) -> bool:
        """One interval for the whole tensor, which nothing will change."""
        return self._frozen is not None and self.axis is None and self.beta is None

    @property
    def bits(self) -> int:
        """The width of what comes out: the grid's, or 32 while the quantiser passes everything."""
        return self.grid.bits if self.on else IDENTITY_BITS

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x
        if self._plain and not (self.training or torch.is_grad_enabled()):
            fixed = self.source.fixed(self.grid)
            if fixed is not None:
                return round_fixed(x, *fixed)
        if self.beta is not None or (self.training and self.dropout and self.grid.offset):
            shift = self._shift(x)
            return self.rounded(x - shift) + shift
        return self.rounded(x)

    def rounded(self, x: Tensor) -> Tensor:
        """x on the grid."""
        return fake_quantize(x, *self.parameters_for(x), self.grid)

    def _shift(self, x: Tensor) -> Any:
        if self.beta is not None:
            return self.beta.to(x.dtype)
        return self.grid.offset / (1 - self.dropout) - self.grid.offset

    def parameters_for(self, x: Tensor) -> Interval:
        """(step, zero point), shaped to broadcast against x."""
        step, zero_point = self.source(x)
        return self._along(step, x), None if zero_point is None else self._along(zero_point, x)

    def codes(self, x: Tensor) -> Tensor:
        """The integers, int32."""
        return codes_of(x, *self.parameters_for(x), self.grid)

    @property
    def wanted(self) -> bool:
        """Whether it is to be filled at all."""
        return not self.grid.identity

    def take(self, samples: Samples, search: Search) -> None:
        """Search on its own grid and take the result over."""
        step, zero_point = search.fit(samples, self.grid)
        if self.axis is None:
            step, zero_point = step[0], None if zero_point is None else zero_point[0]
        self.fill(step, zero_point)

    def fill(self, step: Tensor, zero_point: Tensor | None = None) -> None:
        """Take over a search's result, for all time, and switch on."""
        self.check(step)
        self.source.fill(step.to(self.calibrated.device), zero_point)
        self.calibrated.fill_(True)

    def check(self, step: Tensor) -> None:
        """Raise unless every step is a number."""
        if not bool(torch.isfinite(step).all()):
            raise ValueError("the step is not finite: the calibration data holds NaN or infinity")

    def freeze(self) -> None:
        """Read `calibrated`, and an interval that holds, once and for all: sampling never waits for the device."""
        self._frozen = bool(self.calibrated)
        if self.on and not self.source.timed:
            self.source.fixed(self.grid)

    def deployed(self) -> dict[str, tuple[Tensor, float]]:
        """What an integer kernel keeps of it, with bits: steps, zero points as codes, both for every tabulated time."""
        if not self.on:
            return {}
        step, zero_point = self.source.over_time()
        kept = {"step": (step, 32.0)}
        if zero_point is not None:
            kept["zero_point"] = (zero_point, float(self.grid.bits))
        return kept if self.beta is None else kept | {"beta": (self.beta, 32.0)}

    def extra_repr(self) -> str:
        return f"{self.grid.kind}, bits={self.grid.bits}, axis={self.axis}"

    def _along(self, value: Tensor, x: Tensor) -> Tensor:
        """Rows of time along the batch, groups along the axis."""
        if self.axis is None:
            return value.reshape(-1, *[1] * (x.ndim - 1)) if self.source.timed else value
        if self.channels != x.shape[self.axis]:
            value = value.repeat_interleave(x.shape[self.axis] // (self.channels or 1), dim=-1)
        shape = [1] * x.ndim
        shape[0] = len(value) if self.source.timed else 1
        shape[self.axis] = -1
        return value.reshape(shape)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._frozen = None
        super()._load_from_state_dict(*args, **kwargs)


@contextmanager
def bypassed(*modules: nn.Module) -> Iterator[None]:
    """Every quantiser in or below the modules passes its input while the block runs: the full-precision network."""
    quantizers = [child for module in modules for child in module.modules() if isinstance(child, Quantizer)]
    before = [quantizer._bypassed for quantizer in quantizers]
    for quantizer in quantizers:
        quantizer._bypassed = True
    try:
        yield
    finally:
        for quantizer, value in zip(quantizers, before, strict=True):
            quantizer._bypassed = value
