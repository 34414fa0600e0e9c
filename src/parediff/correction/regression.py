"""PTQD: e_q = (1 + k_t) e + b_t,c + residual for a quantised prediction (arXiv 2305.10657), fitted per time step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.quantizer import bypassed
from parediff.quantization.time_context import TimeContext

NAME = "noise_regression"


class NoiseRegression(nn.Module):
    """k [capacity], b [capacity, channels] and the residual's standard deviation [capacity], by ascending time step.

    Between two calibrated time steps the values are interpolated.
    """

    slope: Tensor
    bias: Tensor
    std: Tensor

    def __init__(self, capacity: int, channels: int) -> None:
        super().__init__()
        self.clock = TimeContext(capacity, 2, interpolate=True)
        self.register_buffer("slope", torch.zeros(capacity))
        self.register_buffer("bias", torch.zeros(capacity, channels))
        self.register_buffer("std", torch.zeros(capacity))

    @property
    def channels(self) -> int:
        return self.bias.shape[1]

    @torch.no_grad()
    def fill(self, found: dict[float, Moments]) -> None:
        """Take over the moments of every time step."""
        self.clock.remember(torch.tensor(sorted(found)))
        for place, t in enumerate(sorted(found)):
            self.slope[place] = found[t].slope
            self.bias[place] = found[t].intercept
            self.std[place] = found[t].residual_std()

    def corrected(self, output: Tensor, t: Tensor) -> Tensor:
        """(e_q - b) / (1 + k) in the first `channels` channels; a learned variance behind them stays as it is.

        Until it is filled everything passes.
        """
        if not len(self.clock.known):
            return output
        self.clock.enter(t)
        slope, bias = self.clock.look_up(self.slope), self.clock.look_up(self.bias)
        noise, rest = output[:, : self.channels], output[:, self.channels :]
        noise = (noise - bias[:, :, None, None].to(output.dtype)) / (1 + slope[:, None, None, None]).to(output.dtype)
        return torch.cat([noise, rest], dim=1) if rest.shape[1] else noise

    def remaining_std(self, t: float) -> float:
        """s_q = std_t / (1 + k_t): what the correction cannot take away; 0 until it is filled."""
        if not len(self.clock.known):
            return 0.0
        self.clock.enter(self.slope.new_tensor([t]))
        return float(self.clock.look_up(self.std) / (1 + self.clock.look_up(self.slope)))


class Moments:
    """Sums over the pairs of one time step, in float64: of e, of the error d, of their products."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.e, self.d = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        self.ee = self.ed = 0.0
        self.per_sample: list[Tensor] = []

    def add(self, exact: Tensor, error: Tensor) -> None:
        """One sample's [C, H, W]."""
        e, d = exact.double().cpu().flatten(1), error.double().cpu().flatten(1)
        self.count += e.shape[1]
        self.e, self.d = self.e + e.sum(1), self.d + d.sum(1)
        self.ee += float((e * e).sum())
        self.ed += float((e * d).sum())
        self.per_sample.append(torch.cov(torch.stack([e.flatten(), d.flatten()]), correction=0))

    @property
    def slope(self) -> float:
        """Of the error on e, all elements pooled, each channel about its own mean; a negative one counts as 0."""
        variance = self.ee - float((self.e * self.e).sum()) / self.count
        covariance = self.ed - float((self.e * self.d).sum()) / self.count
        return max(0.0, covariance / variance) if variance > 0 else 0.0

    @property
    def intercept(self) -> Tensor:
        """[channels]: the mean of what the slope leaves, so that an exact affine error is recovered exactly."""
        return ((self.d - self.slope * self.e) / self.count).float()

    def residual_std(self) -> float:
        """The mean over samples of std(d - k e)."""
        k = self.slope
        variances = [float(c[1, 1] - 2 * k * c[0, 1] + k * k * c[0, 0]) for c in self.per_sample]
        return sum(max(0.0, value) ** 0.5 for value in variances) / len(variances)


@torch.no_grad()
def moments_of(model: DiffusionModel, calls: Iterable[Call], channels: int) -> dict[float, Moments]:
    """Pairs of full-precision and quantised predictions at the same calls; lazy ones follow full precision."""
    found: dict[float, Moments] = {}
    with bypassed(model.denoiser):
        replayed = iter(calls)  # what is recorded lazily is recorded now
    for call in replayed:
        with bypassed(model.denoiser):
            exact = model.predict(call.x, call.t, call.cond)[:, :channels]
        error = model.predict(call.x, call.t, call.cond)[:, :channels] - exact
        for t, e, d in zip(call.t.tolist(), exact, error, strict=True):
            found.setdefault(float(t), Moments(channels)).add(e, d)
    return found
