"""TAC's linear reconstruction of a prediction, e ~ alpha_t,c e_q + beta_t,c, in closed form (arXiv 2407.03917)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.quantizer import bypassed
from parediff.quantization.time_context import TimeContext

NAME = "linear_reconstruction"


class LinearReconstruction(nn.Module):
    """alpha, beta [capacity, channels] by ascending time step, interpolated in between; 1 and 0 until filled."""

    alpha: Tensor
    beta: Tensor

    def __init__(self, capacity: int, channels: int) -> None:
        super().__init__()
        self.clock = TimeContext(capacity, 2, interpolate=True)
        self.register_buffer("alpha", torch.ones(capacity, channels))
        self.register_buffer("beta", torch.zeros(capacity, channels))

    @property
    def channels(self) -> int:
        return self.beta.shape[1]

    @torch.no_grad()
    def fill(self, found: dict[float, PairSums]) -> None:
        """Take over the solutions of every time step."""
        self.clock.remember(torch.tensor(sorted(found)))
        for place, t in enumerate(sorted(found)):
            self.alpha[place], self.beta[place] = found[t].solution()

    def forward(self, output: Tensor, t: Tensor) -> Tensor:
        """The reconstructed prediction; channels of a learned variance stay as they are."""
        if not len(self.clock.known):
            return output
        self.clock.enter(t)
        alpha, beta = (self.clock.look_up(table)[:, :, None, None] for table in (self.alpha, self.beta))
        noise, rest = output[:, : self.channels], output[:, self.channels :]
        return torch.cat([alpha.to(output.dtype) * noise + beta.to(output.dtype), rest], dim=1)


class PairSums:
    """Sums over pairs (e_q, e) of one time step, per channel in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.q, self.e, self.qq, self.qe = torch.zeros(4, channels, dtype=torch.float64).unbind()

    def add(self, quantized: Tensor, exact: Tensor) -> None:
        """One sample's [C, H, W] each."""
        q, e = quantized.double().cpu().flatten(1), exact.double().cpu().flatten(1)
        self.count += q.shape[1]
        self.q, self.e = self.q + q.sum(1), self.e + e.sum(1)
        self.qq, self.qe = self.qq + (q * q).sum(1), self.qe + (q * e).sum(1)

    def solution(self) -> tuple[Tensor, Tensor]:
        """alpha = cov(e_q, e) / var(e_q), beta = mean(e) - alpha mean(e_q); alpha = 1 where e_q does not vary."""
        mean_q, mean_e = self.q / self.count, self.e / self.count
        variance, covariance = self.qq / self.count - mean_q**2, self.qe / self.count - mean_q * mean_e
        alpha = torch.where(variance > 1e-12, covariance / variance.clamp_min(1e-12), torch.ones_like(variance))
        return alpha.float(), (mean_e - alpha * mean_q).float()


@torch.no_grad()
def pairs_of(model: DiffusionModel, calls: Iterable[Call], channels: int) -> dict[float, PairSums]:
    """Pairs at calls of the quantised network's own trajectory, so that its drift is in the data."""
    found: dict[float, PairSums] = {}
    for call in calls:
        quantized = model.predict(call.x, call.t, call.cond)[:, :channels]
        with bypassed(model.denoiser):
            exact = model.predict(call.x, call.t, call.cond)[:, :channels]
        for t, q, e in zip(call.t.tolist(), quantized, exact, strict=True):
            found.setdefault(float(t), PairSums(channels)).add(q, e)
    return found
