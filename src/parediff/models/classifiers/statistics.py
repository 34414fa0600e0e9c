"""How far a batch is from the statistics that BatchNorm stored: four losses that must not be mixed up.

mu, sigma^2 are the stored mean and variance, m, v those of the batch; sums and means as in each method's code. Channels
whose stored variance is below `DEAD` carry nothing and are left out. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from parediff.models.classifiers.probes import NormInput

DEAD = 1e-5
"""A stored variance below it is a dead channel's; the Gaussian divergence also floors its variances here."""
SMALL = 1e-6
"""Under the roots of the losses that compare standard deviations."""

StatisticsLoss = Callable[[Sequence[NormInput]], Tensor]


def variance_loss(seen: Sequence[NormInput]) -> Tensor:
    """V1, GDFQ: (m - mu)^2 + (v - sigma^2)^2, biased v over the batch; mean over channels, then over layers."""
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        given, found = _pooled(x, alive, correction=0)
        terms.append((given - mean).square().mean() + (found - variance).square().mean())
    return torch.stack(terms).mean()


def per_image_loss(seen: Sequence[NormInput]) -> Tensor:
    """V2, ZeroQ: every image alone, standard deviations; sum over channels, mean over images, sum over layers.

    A layer with a single position per image has no deviation within an image and is left out.
    """
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        if x[0, 0].numel() > 1:
            given, found = (each[:, alive] for each in moments(x.float(), tuple(range(2, x.ndim)), correction=1))
            terms.append(_distance(given, found, mean, (variance + SMALL).sqrt()).sum(1).mean())
    return torch.stack(terms).sum()


def deviation_loss(seen: Sequence[NormInput]) -> Tensor:
    """V3, GENIE: (m - mu)^2 + (s - sqrt(sigma^2 + 1e-6))^2 over the batch; mean over channels, sum over layers."""
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        terms.append(_distance(*_pooled(x, alive, correction=1), mean, (variance + SMALL).sqrt()).mean())
    return torch.stack(terms).sum()


def gaussian_divergence(seen: Sequence[NormInput]) -> Tensor:
    """V4, DFAKD: KL(N(m, v) || N(mu, sigma^2)) per channel of all layers, variances at least `DEAD`."""
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        given, found = _pooled(x, alive, correction=0)
        found, stored = found.clamp_min(DEAD), variance.clamp_min(DEAD)
        distance = (given - mean).square()
        terms.append((distance + found) / (2 * stored) - 0.5 * (found / stored).log() - 0.5)
    return torch.cat(terms)


def input_loss(normalised: Tensor) -> Tensor:
    """Of the input [N, C, H, W]: every image's mean to 0, deviation to 1; sum over channels, mean over images."""
    zero = normalised.new_zeros(normalised.shape[1])
    return _distance(*moments(normalised.float(), (2, 3), correction=1), zero, zero + 1).sum(1).mean()


def moments(x: Tensor, axes: tuple[int, ...], *, correction: int) -> tuple[Tensor, Tensor]:
    """(mean, variance) along the axes; the sum of squares is divided by the count less `correction`.

    What torch's own var and mean give, without their copies and their slow running sums.
    """
    return _Moments.apply(x, axes, correction)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...], correction: int) -> tuple[Tensor, Tensor]:
        mean = x.mean(axes, keepdim=True)
        centred = x - mean
        squares = torch.linalg.vector_norm(centred, dim=axes).square()
        ctx.save_for_backward(centred)
        ctx.shape, ctx.count = mean.shape, x.numel() // mean.numel()
        ctx.freedom = ctx.count - correction
        return mean.squeeze(axes), squares / ctx.freedom

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, for_mean: Tensor, for_variance: Tensor) -> tuple[Tensor | None, ...]:
        (centred,) = ctx.saved_tensors
        constant = (for_mean / ctx.count).reshape(ctx.shape)
        slope = (for_variance * 2 / ctx.freedom).reshape(ctx.shape)
        return torch.addcmul(constant, centred, slope), None, None


def _distance(given: Tensor, found: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(m - mean)^2 + (s - deviation)^2, s = sqrt(unbiased v + 1e-6)."""
    return (given - mean).square() + ((found + SMALL).sqrt() - deviation).square()


def _pooled(x: Tensor, alive: Tensor, *, correction: int) -> tuple[Tensor, Tensor]:
    """(mean, variance) of the living channels of x [N, C, ...] over everything else."""
    mean, variance = moments(x.float(), (0, *range(2, x.ndim)), correction=correction)
    return mean[alive], variance[alive]


def _stored(norm: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variance) of the living channels, and which these are."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    alive = variance >= DEAD
    return mean[alive].float(), variance[alive].float(), alive
