"""A prediction brought back to the exact one by a map of each time step, e ~ alpha_t,c e_q + beta_t, in closed form.

TAC (arXiv 2407.03917) has a beta for each channel; ours (`methods.stepwise`) has one for each pixel too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.quantizer import bypassed
from parediff.quantization.time_context import TimeContext

NAME = "linear_reconstruction"
Map = tuple[Tensor, Tensor]
"""alpha [C, 1, 1] and beta [C, 1, 1] or [C, H, W]."""


class LinearReconstruction(nn.Module):
    """alpha [capacity, C, 1, 1], beta [capacity, *shape] by ascending time step, interpolated in between.

    1 and 0 until filled. `shape` is [C, H, W], or [C, 1, 1] for a number for each channel.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, capacity: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.clock = TimeContext(capacity, 2, interpolate=True)
        self.register_buffer("alpha", torch.ones(capacity, shape[0], 1, 1))
        self.register_buffer("beta", torch.zeros(capacity, *shape))

    @property
    def channels(self) -> int:
        return self.beta.shape[1]

    def fill(self, found: Mapping[float, Map]) -> None:
        """Take over the maps of every time step."""
        self.clock.remember(torch.tensor(sorted(found)))
        for place, t in enumerate(sorted(found)):
            self.fill_entry(place, found[t])

    @torch.no_grad()
    def fill_entry(self, place: int, found: Map) -> None:
        """Take over the map of one known time step."""
        self.alpha[place], self.beta[place] = found

    def forward(self, output: Tensor, t: Tensor) -> Tensor:
        """The reconstructed prediction; channels of a learned variance stay as they are."""
        if not len(self.clock.known):
            return output
        self.clock.enter(t)
        alpha, beta = (self.clock.look_up(table).to(output.dtype) for table in (self.alpha, self.beta))
        noise, rest = output[:, : self.channels], output[:, self.channels :]
        return torch.cat([alpha * noise + beta, rest], dim=1)


class PairSums:
    """Sums over pairs (e_q, e) of one time step, per pixel in float64 [C, H, W]."""

    def __init__(self) -> None:
        self.count = 0
        self.q = self.e = self.qq = self.qe = self.ee = torch.zeros((), dtype=torch.float64)

    def add(self, quantized: Tensor, exact: Tensor) -> None:
        """Samples [B, C, H, W] each."""
        q, e = quantized.double().cpu(), exact.double().cpu()
        self.count += len(q)
        self.q, self.e = self.q + q.sum(0), self.e + e.sum(0)
        self.qq, self.qe, self.ee = self.qq + (q * q).sum(0), self.qe + (q * e).sum(0), self.ee + (e * e).sum(0)

    def of_channels(self) -> Map:
        """alpha = cov(e_q, e) / var(e_q), beta = mean(e) - alpha mean(e_q); alpha = 1 where e_q does not vary."""
        mean_q, mean_e, qq, qe = (_mean(one / self.count) for one in (self.q, self.e, self.qq, self.qe))
        alpha = _slope(qq - mean_q**2, qe - mean_q * mean_e)
        return alpha.float(), (mean_e - alpha * mean_q).float()

    def of_pixels(self) -> Map:
        """Regression with a mean for each pixel, drawn to the channel's by what `count` samples leave uncertain.

        beta = b_c + k (b_c,h,w - b_c), b_c,h,w = mean(e) - alpha mean(e_q) and k = max(0, 1 - V / M): V is the variance
        of the pixels' means, M the mean square of what they differ by. One sample says nothing of a pixel.
        """
        mean_q, mean_e, var_q, cov = self._moments()
        alpha = _slope(_mean(var_q), _mean(cov))
        pixels = mean_e - alpha * mean_q
        centre = _mean(pixels)
        uncertain = _mean(self.residual(alpha)) / max(1, self.count - 1)
        apart = _mean((pixels - centre).square())
        kept = torch.where(apart > 0, (1 - uncertain / apart.clamp_min(1e-30)).clamp(0, 1), torch.zeros_like(apart))
        kept = kept if self.count > 1 else torch.zeros_like(kept)
        return alpha.float(), (centre + kept * (pixels - centre)).float()

    def residual(self, alpha: Tensor) -> Tensor:
        """The variance that alpha e_q + beta leaves of e, per pixel."""
        _, mean_e, var_q, cov = self._moments()
        return (self.ee / self.count - mean_e**2 - 2 * alpha * cov + alpha**2 * var_q).clamp_min(0)

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means of e_q and e, the variance of e_q and their covariance."""
        mean_q, mean_e = self.q / self.count, self.e / self.count
        return mean_q, mean_e, self.qq / self.count - mean_q**2, self.qe / self.count - mean_q * mean_e


def _mean(pixels: Tensor) -> Tensor:
    """[C, H, W] as [C, 1, 1]."""
    return pixels.mean(dim=(1, 2), keepdim=True)


def _slope(variance: Tensor, covariance: Tensor) -> Tensor:
    return torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), torch.ones_like(variance))


@torch.no_grad()
def pairs_of(model: DiffusionModel, calls: Iterable[Call], channels: int) -> dict[float, PairSums]:
    """Pairs at calls of the quantised network's own trajectory, so that its drift is in the data."""

    def told(call: Call) -> tuple[Tensor, Tensor, Tensor]:
        quantized, exact = both(model, call)
        return call.t, quantized[:, :channels], exact[:, :channels]

    return by_time(map(told, calls))


def by_time(batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> dict[float, PairSums]:
    """Sums for every time step of batches (t [B], e_q, e [B, C, H, W])."""
    found: dict[float, PairSums] = {}
    for times, quantized, exact in batches:
        for t, q, e in zip(times.tolist(), quantized, exact, strict=True):
            found.setdefault(float(t), PairSums()).add(q[None], e[None])
    return found


def both(model: DiffusionModel, call: Call) -> tuple[Tensor, Tensor]:
    """The quantised network's prediction and the uncompressed one's, at the same input."""
    quantized = model.predict(call.x, call.t, call.cond)
    with bypassed(model.denoiser):
        exact = model.predict(call.x, call.t, call.cond)
    return quantized, exact
