"""How far a batch is from the statistics that BatchNorm stored: four losses that must not be mixed up.

mu, sigma^2 are the stored mean and variance, m, v those of the batch; sums and means as in each method's code. Channels
whose stored variance is below `DEAD` carry nothing and are left out. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        values = _pooled(x)[alive]
        found = values.var(1, unbiased=False)
        terms.append((values.mean(1) - mean).square().mean() + (found - variance).square().mean())
    return torch.stack(terms).mean()


def per_image_loss(seen: Sequence[NormInput]) -> Tensor:
    """V2, ZeroQ: every image alone, standard deviations; sum over channels, mean over images, sum over layers.

    A layer with a single position per image has no deviation within an image and is left out.
    """
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        values = x.float().flatten(2)[:, alive] if x.ndim > 2 else x[:, alive, None]
        if values.shape[2] > 1:
            terms.append(_moments(values, mean, (variance + SMALL).sqrt()).sum(1).mean())
    return torch.stack(terms).sum()


def deviation_loss(seen: Sequence[NormInput]) -> Tensor:
    """V3, GENIE: (m - mu)^2 + (s - sqrt(sigma^2 + 1e-6))^2 over the batch; mean over channels, sum over layers."""
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        terms.append(_moments(_pooled(x)[alive], mean, (variance + SMALL).sqrt()).mean())
    return torch.stack(terms).sum()


def gaussian_divergence(seen: Sequence[NormInput]) -> Tensor:
    """V4, DFAKD: KL(N(m, v) || N(mu, sigma^2)) per channel of all layers, variances at least `DEAD`."""
    terms = []
    for norm, x in seen:
        mean, variance, alive = _stored(norm)
        values = _pooled(x)[alive]
        found, stored = values.var(1, unbiased=False).clamp_min(DEAD), variance.clamp_min(DEAD)
        distance = (values.mean(1) - mean).square()
        terms.append((distance + found) / (2 * stored) - 0.5 * (found / stored).log() - 0.5)
    return torch.cat(terms)


def input_loss(normalised: Tensor) -> Tensor:
    """Of the input [N, C, H, W]: every image's mean to 0, deviation to 1; sum over channels, mean over images."""
    zero = normalised.new_zeros(normalised.shape[1])
    return _moments(normalised.float().flatten(2), zero, zero + 1).sum(1).mean()


def _moments(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(m - mean)^2 + (s - deviation)^2 along the last axis, s = sqrt(unbiased v + 1e-6)."""
    found = (values.var(-1) + SMALL).sqrt()
    return (values.mean(-1) - mean).square() + (found - deviation).square()


def _pooled(x: Tensor) -> Tensor:
    """[N, C, ...] -> [C, values]."""
    return x.float().transpose(0, 1).flatten(1)


def _stored(norm: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variance) of the living channels, and which these are."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    alive = variance >= DEAD
    return mean[alive].float(), variance[alive].float(), alive
