"""The mean of a prediction against what the uncompressed network answers to an input of this mean; the idea is ours.

An estimate by re-noised samples cannot see a bias behind the drift that it caused: the network takes the drift back,
and the estimate reads its answer. Here that is known: over images mean(eps)_c ~ alpha_t,c mean(x)_c + beta_t,c, fitted
at the calls that calibrate, which behind a quantiser are those of the compressed model's trajectories. What exceeds it
is the bias, however far the trajectory has drifted, and to measure it costs no call of the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from parediff.correction.affine import LinearReconstruction, PairSums, by_time
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.quantization.quantizer import bypassed
from parediff.reuse.prediction import to_noise

NAME = "expected_mean"


class ExpectedMean(LinearReconstruction):
    """alpha and beta of every time step, and the standard deviation `spread` [capacity, C, 1, 1] that they leave."""

    spread: Tensor

    def __init__(self, capacity: int, channels: int) -> None:
        super().__init__(capacity, (channels, 1, 1))
        self.register_buffer("spread", torch.ones(capacity, channels, 1, 1))

    def take(self, found: Mapping[float, PairSums]) -> None:
        """The regressions over images of every time step."""
        self.fill({t: sums.of_channels() for t, sums in found.items()})
        for place, t in enumerate(sorted(found)):
            alpha = self.alpha[place].double()
            self.spread[place] = found[t].residual(alpha).sqrt().clamp_min(1e-6)

    def excess(self, noise: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(mean(noise) less what is expected at x, in units of the spread; the spread), [B, C, 1, 1] each."""
        own, met = (_mean(one[:, : self.channels]) for one in (noise, x))
        expected = self(met, t)
        spread = self.clock.look_up(self.spread).to(own)
        return (own - expected) / spread, spread


@torch.no_grad()
def fit(table: ExpectedMean, model: DiffusionModel, calls: Iterable[Call]) -> None:
    """Fill the table with the uncompressed network's answers at these calls."""

    def answered(call: Call) -> tuple[Tensor, Tensor, Tensor]:
        with bypassed(model.denoiser):
            output = model.predict(call.x, call.t, call.cond)
        noise = to_noise(output, call.x, call.t, model.pipeline.scheduler)
        return call.t, _mean(call.x[:, : table.channels]), _mean(noise[:, : table.channels])

    found = by_time(map(answered, calls))
    if not found or min(sums.count for sums in found.values()) < 3:
        raise RequestError("calibration.count", "too few", "three images of every time step or more are accepted")
    table.take(found)


def table_of(model: Any) -> ExpectedMean:
    """Where the regressions are kept, in this model's own denoiser."""
    module = getattr(model.denoiser, NAME)
    assert isinstance(module, ExpectedMean)
    return module


def _mean(pixels: Tensor) -> Tensor:
    return pixels.mean(dim=(2, 3), keepdim=True)
