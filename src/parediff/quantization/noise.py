"""NIPQ's pseudo-quantiser: noise of the rounding error's size in place of rounding; bits and boundary are learned.

Shin et al., "NIPQ: Noise proxy-based Integrated Pseudo-Quantization", CVPR 2023, arXiv 2206.00820. Their symbols:
b bits, a clip boundary, n(b) levels, D = a / n(b) the step, u the noise in steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parediff.errors import RequestError
from parediff.quantization.arithmetic import fake_quantize
from parediff.quantization.grid import IDENTITY_BITS, SILU_MINIMUM, SMALLEST_STEP, Grid, Kind
from parediff.quantization.layers import fold, layers_of
from parediff.quantization.quantizer import Quantizer
from parediff.quantization.samples import Samples
from parediff.quantization.search import Search
from parediff.quantization.sources import round_straight

KINDS: tuple[Kind, ...] = ("symmetric", "unsigned", "shifted")
"""Grids with one boundary: -a..a, 0..a, and m..a + m with m the minimum of SiLU."""

BINS = 256


@dataclass(frozen=True)
class BitRange:
    """b = low + (high - low) * sigmoid(theta_b), with b = `start` before training."""

    low: int
    high: int
    start: float

    def __post_init__(self) -> None:
        if not 2 <= self.low < IDENTITY_BITS:
            raise RequestError("bits_min", self.low, "a whole number from 2 to 31 is accepted")
        if not self.low < self.high < IDENTITY_BITS:
            raise RequestError("bits_max", self.high, f"a whole number from {self.low + 1} to 31 is accepted")
        if not self.low < self.start < self.high:
            raise RequestError("bits_start", self.start, f"a number between {self.low} and {self.high} is accepted")

    def of(self, theta: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.sigmoid(theta)

    def theta(self, bits: float) -> float:
        """The theta_b of `bits` strictly inside the range."""
        share = (bits - self.low) / (self.high - self.low)
        return math.log(share / (1 - share))


class Noise(ABC):
    """Draws u for values x (already shifted) of a quantiser with boundaries low < high; no gradient enters."""

    @abstractmethod
    def draw(self, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """u in [-1/2, 1/2], shaped like x; from torch's generator, which a training seeds by its step."""


class Uniform(Noise):
    """u ~ U(-1/2, 1/2): the error of rounding something smooth."""

    def draw(self, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.rand_like(x).sub_(0.5)


class Histogram(Noise):
    """u has the distribution, in 256 bins, of the error of the values at hand that are not clipped."""

    @torch.no_grad()
    def draw(self, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        v = x / step
        errors = (v.round() - v)[(x > low) & (x < high)]
        counts = torch.histc(errors.float(), BINS, -0.5, 0.5)
        if errors.numel() == 0:
            counts = torch.ones_like(counts)  # everything is clipped: no error is known
        shares = counts.double().cumsum(0)
        place = torch.rand_like(x) * (shares[-1] * (1 - 1e-7)).to(x.dtype)
        bins = torch.searchsorted(shares.to(x.dtype), place, right=True).clamp_(max=BINS - 1)
        return torch.rand_like(x).add_(bins).div_(BINS).sub_(0.5)


NOISES: dict[str, type[Noise]] = {"uniform": Uniform, "histogram": Histogram}


class _AddNoise(torch.autograd.Function):
    """x + u D inside the boundaries, the boundary outside; gradients of section 4 through x, D and a."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, clip: Tensor, u: Tensor, one_sided: bool) -> Tensor:
        low = torch.zeros_like(clip) if one_sided else -clip
        above, below = x >= clip, x <= low
        ctx.save_for_backward(u, above, below)
        ctx.one_sided = one_sided
        noisy = (u * step).add_(x)
        return noisy.masked_fill_(above, clip).masked_fill_(below, low)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        u, above, below = ctx.saved_tensors
        inside = gradient.masked_fill(above | below, 0)
        for_step = (inside * u).sum() if ctx.needs_input_grad[1] else None
        for_clip = gradient[above].sum() if ctx.needs_input_grad[2] else None
        if for_clip is not None and not ctx.one_sided:
            for_clip = for_clip - gradient[below].sum()
        return (inside if ctx.needs_input_grad[0] else None), for_step, for_clip, None, None


def add_noise(x: Tensor, step: Tensor, clip: Tensor, u: Tensor, *, one_sided: bool) -> Tensor:
    """The noise proxy: a where x >= a, -a (0 if one-sided) below, x + u D between."""
    return _AddNoise.apply(x, step, clip, u, one_sided)


def levels(bits: Tensor, *, signed: bool) -> Tensor:
    """n(b): 2^(b-1) - 1 on -n..n, 2^b - 1 on 0..n."""
    return torch.exp2(bits - 1 if signed else bits) - 1


class NoiseQuantizer(nn.Module):
    """One learned (bits, clip) pair. In training it adds noise; evaluated, or once frozen, it rounds.

    Until `fill` it passes its input. `fixed` is 0 while bits are learned, else the width that holds: 32 passes all. The
    kind of grid is the one given, else what the values call for.
    """

    theta_bits: nn.Parameter
    theta_clip: nn.Parameter
    fixed: Tensor
    kind_index: Tensor
    calibrated: Tensor
    rounding: Tensor
    elements: Tensor
    macs: Tensor
    axis = channels = None
    timeless = False

    def __init__(self, range: BitRange, noise: Noise, kind: Kind | None = None) -> None:
        super().__init__()
        self.range, self.noise, self.only = range, noise, kind
        self.theta_bits = nn.Parameter(torch.tensor(range.theta(range.start)))
        self.theta_clip = nn.Parameter(torch.tensor(inverse_softplus(1.0)))
        self.register_buffer("fixed", torch.zeros((), dtype=torch.int32))
        self.register_buffer("kind_index", torch.zeros((), dtype=torch.int32))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))
        self.register_buffer("rounding", torch.zeros((), dtype=torch.bool))
        for name in ("elements", "macs"):  # of one example: values, and multiplications of the product
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    @property
    def kind(self) -> Kind:
        return KINDS[int(self.kind_index)]

    @property
    def signed(self) -> bool:
        return self.kind == "symmetric"

    @property
    def on(self) -> bool:
        return bool(self.calibrated) and int(self.fixed) < IDENTITY_BITS

    @property
    def bits(self) -> int:
        """The width of what comes out when rounding; 32 while everything passes."""
        return int(self.continuous_bits().detach().round()) if self.on else IDENTITY_BITS

    @property
    def grid(self) -> Grid:
        return Grid(self.bits, self.kind)

    @property
    def clip(self) -> Tensor:
        """a, positive by construction."""
        return F.softplus(self.theta_clip)

    def continuous_bits(self) -> Tensor:
        """b as the penalty sees it."""
        fixed = int(self.fixed)
        return torch.full_like(self.theta_bits, fixed) if fixed else self.range.of(self.theta_bits)

    def integer_bits(self) -> Tensor:
        """round(b) with gradient 1."""
        return round_straight(self.continuous_bits())

    def sampled_bits(self) -> Tensor:
        """floor(b) or the next one, b on average: stochastic rounding, with gradient 1."""
        shift = torch.rand((), device=self.theta_bits.device) - 0.5
        return round_straight(self.continuous_bits() + shift)

    def step(self, bits: Tensor) -> Tensor:
        """D = a / n(b)."""
        return (self.clip / levels(bits, signed=self.signed)).clamp_min(SMALLEST_STEP)

    def forward(self, x: Tensor) -> Tensor:
        if not self.on:
            return x
        if self.training and not bool(self.rounding):
            return self._noisy(x)
        return fake_quantize(x, self.step(self.integer_bits().detach()), None, self.grid)

    def _noisy(self, x: Tensor) -> Tensor:
        offset = self.grid.offset
        values = x - offset if offset else x
        step, clip = self.step(self.sampled_bits()), self.clip
        low = -clip if self.signed else torch.zeros_like(clip)
        u = self.noise.draw(values.detach(), step.detach(), low.detach(), clip.detach())
        noisy = add_noise(values, step, clip, u, one_sided=not self.signed)
        return noisy + offset if offset else noisy

    @property
    def wanted(self) -> bool:
        """Whether it is to be filled at all."""
        return int(self.fixed) < IDENTITY_BITS

    @property
    def learns(self) -> bool:
        """Whether its bits are learned."""
        return self.on and not int(self.fixed)

    def take(self, samples: Samples, search: Search) -> None:
        """The boundary that the search finds at the starting bits.

        At 8 bits the best boundary is next to the largest weight; at 3 it is not, and bits would be learned to make up.
        The released code starts at softplus(max W), which is at least ln 2 (defect 3).
        """
        kind = self.only or kind_of(float(samples.low.min()), float(samples.high.max()))
        grid = Grid(int(self.fixed) or round(self.range.start), kind)
        boundary = search.fit(samples, grid)[0][0] * grid.high
        usable = float(boundary) > SMALLEST_STEP * 1e3  # a tensor of zeros could never grow its boundary
        self.fill(boundary if usable else torch.ones_like(boundary), kind)

    @torch.no_grad()
    def fill(self, clip: Tensor, kind: Kind) -> None:
        """Take over a boundary and the grid's kind; switches on."""
        if not bool(torch.isfinite(clip)):
            raise ValueError("the clip boundary is not finite: the calibration data holds NaN or infinity")
        self.theta_clip.fill_(inverse_softplus(max(float(clip), SMALLEST_STEP)))
        self.kind_index.fill_(KINDS.index(kind))
        self.calibrated.fill_(True)

    def fix(self, bits: int) -> None:
        """Hold the width at `bits`, whatever theta_b does."""
        self.fixed.fill_(bits)

    def freeze(self) -> None:
        """Phase 2: the bits stay as they are, and training rounds."""
        if self.on:
            self.fix(self.bits)
        self.rounding.fill_(True)

    @torch.no_grad()
    def ordinary(self) -> Quantizer:
        """A plain quantiser that gives what this one gives when it rounds, bit by bit."""
        plain = Quantizer(self.grid if self.on else Grid(IDENTITY_BITS)).to(self.theta_clip.device)
        if self.on:
            plain.fill(self.step(self.integer_bits()))
        for name in ("elements", "macs"):
            plain.register_buffer(name, getattr(self, name), persistent=False)
        return plain

    def extra_repr(self) -> str:
        return f"{self.kind}, bits={self.bits}, rounding={bool(self.rounding)}"


def inverse_softplus(value: float) -> float:
    """theta with softplus(theta) = value > 0."""
    return value + math.log(-math.expm1(-value))


def kind_of(low: float, high: float) -> Kind:
    """unsigned for what has no negative values, shifted for what looks like SiLU's output, else symmetric."""
    if low >= 0:
        return "unsigned"
    reaches_minimum = SILU_MINIMUM - 1e-4 <= low <= 0.7 * SILU_MINIMUM
    return "shifted" if reaches_minimum and high > -SILU_MINIMUM else "symmetric"


def products(network: nn.Module) -> dict[str, Any]:
    """Every layer and product whose operands are pseudo-quantised, by its path."""
    found = layers_of(network)
    return {path: one for path, one in found.items() if any(isinstance(c, NoiseQuantizer) for c in one.children())}


def operands(product: Any) -> tuple[NoiseQuantizer, NoiseQuantizer]:
    """The quantisers of both factors."""
    left, right = product.operands().values()
    return left, right


def quantizers(network: nn.Module) -> Iterator[NoiseQuantizer]:
    for module in network.modules():
        if isinstance(module, NoiseQuantizer):
            yield module


def harden(network: nn.Module) -> None:
    """Exchange every pseudo-quantiser for an ordinary one, and round the weights once."""
    for product in products(network).values():
        for name, quantizer in product.operands().items():
            setattr(product, name, quantizer.ordinary())
    fold(network)
