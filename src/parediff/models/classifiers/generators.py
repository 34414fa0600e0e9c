"""Networks that make images for a classifier, in its normalised space (data-free.md, section 1.5).

The last BatchNorm has no affine part: in training mode every batch has mean 0 and variance 1 per channel, whatever tanh
allows. They are always sampled in training mode, as GDFQ's code does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]
"""Channels, height, width of an image."""


class ConditionalNorm(nn.Module):
    """BatchNorm whose gain (from 1) and bias (from 0) are embeddings of the class."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.norm(x) * self.gain(labels)[..., None, None] + self.bias(labels)[..., None, None]


class PlainNorm(nn.Module):
    """BatchNorm that does not look at the class."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=eps)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.norm(x)


NormFor = Callable[[int], nn.Module]


class Decoder(nn.Module):
    """A code [N, width] becomes images: linear, then per stage nearest x2, 3x3 convolution, norm, activation.

    `first`: channels behind the linear layer. `late_doubling`: the last doubling stands before the last convolution
    (GENIE). `slope` of the leaky ReLU; 0 is ReLU. `opening`: a norm behind the linear layer.
    """

    def __init__(
        self,
        shape: Shape,
        width: int,
        *,
        first: int,
        stages: tuple[int, ...],
        late_doubling: bool,
        slope: float,
        opening: nn.Module | None,
        norm: NormFor,
    ) -> None:
        super().__init__()
        self.shape, self.slope, self.late_doubling = shape, slope, late_doubling
        halvings = 2 ** (len(stages) + late_doubling)
        self.start = (first, -(-shape[1] // halvings), -(-shape[2] // halvings))
        self.linear = nn.Linear(width, self.start[0] * self.start[1] * self.start[2])
        self.opening = opening
        wides = [first, *stages]
        pairs = zip(wides[:-1], stages, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(narrow, wide, 3, padding=1) for narrow, wide in pairs)
        self.norms = nn.ModuleList(norm(wide) for wide in stages)
        self.last = nn.Conv2d(stages[-1], shape[0], 3, padding=1)
        self.out = nn.BatchNorm2d(shape[0], affine=False)

    def forward(self, code: Tensor, labels: Tensor) -> Tensor:
        x = self.linear(code).view(len(code), *self.start)
        x = x if self.opening is None else self.opening(x, labels)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(F.interpolate(x, scale_factor=2.0)), labels)
            x = F.leaky_relu(x, self.slope) if self.slope else x.relu()
        x = F.interpolate(x, scale_factor=2.0) if self.late_doubling else x
        return self.out(self.last(x[..., : self.shape[1], : self.shape[2]]).tanh())


class LabelledGenerator(nn.Module):
    """GDFQ for small images: an embedding of the class times the noise, element by element."""

    def __init__(self, shape: Shape, classes: int, *, latent: int, bn_eps: float) -> None:
        super().__init__()
        self.latent = latent
        self.embedding = nn.Embedding(classes, latent)
        self.decoder = gdfq_decoder(shape, latent, bn_eps)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.decoder(self.embedding(labels) * noise, labels)


class ConditionalGenerator(nn.Module):
    """GDFQ for large images: the class is in the norms alone."""

    def __init__(self, shape: Shape, classes: int, *, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.decoder = Decoder(
            shape,
            latent,
            first=128,
            stages=(128, 64),
            late_doubling=False,
            slope=0.2,
            opening=ConditionalNorm(128, classes),
            norm=lambda channels: ConditionalNorm(channels, classes),
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.decoder(noise, labels)


class SuperposedGenerator(nn.Module):
    """Qimera: (embedding + `noise_scale` noise), standardised per sample; a code may be a mixture of several.

    The embedding starts from `rows` [classes, any], the classifier's last layer, through one fixed linear map where the
    widths differ, or randomly where there is none.
    """

    def __init__(
        self, shape: Shape, classes: int, *, latent: int, noise_scale: float, bn_eps: float, rows: Tensor | None
    ) -> None:
        super().__init__()
        self.latent, self.noise_scale = latent, noise_scale
        self.embedding = nn.Embedding(classes, latent)
        self.decoder = gdfq_decoder(shape, latent, bn_eps)
        if rows is not None:
            with torch.no_grad():
                same = rows.shape[1] == latent
                narrowed = rows if same else rows @ torch.randn(rows.shape[1], latent) / rows.shape[1] ** 0.5
                self.embedding.weight.copy_(narrowed)

    def mixed(self, noise: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Images of sum_k w_k (embedding of label k + its noise); noise [N, K, latent], labels and weights [N, K]."""
        codes = self.embedding(labels) + self.noise_scale * noise
        code = (weights[..., None] * codes).sum(1)
        standard = (code - code.mean(1, keepdim=True)) / (code.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return self.decoder(standard, labels[:, 0])

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.mixed(noise[:, None], labels[:, None], torch.ones_like(labels, dtype=noise.dtype)[:, None])


class PlainGenerator(nn.Module):
    """GENIE: no class."""

    def __init__(self, shape: Shape, *, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.decoder = Decoder(
            shape,
            latent,
            first=128,
            stages=(64,),
            late_doubling=True,
            slope=0.2,
            opening=PlainNorm(128, 1e-5),
            norm=lambda channels: PlainNorm(channels, 1e-5),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.decoder(noise, noise)


class WideGenerator(nn.Module):
    """DFAKD: no class, ReLU, three doublings."""

    def __init__(self, shape: Shape, *, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.decoder = Decoder(
            shape,
            latent,
            first=512,
            stages=(256, 128, 64),
            late_doubling=False,
            slope=0.0,
            opening=None,
            norm=lambda channels: PlainNorm(channels, 1e-5),
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.decoder(noise, labels)


def gdfq_decoder(shape: Shape, latent: int, bn_eps: float) -> Decoder:
    """GDFQ's; `bn_eps` 0.8 is its code's, most likely meant as a momentum."""
    return Decoder(
        shape,
        latent,
        first=128,
        stages=(128, 64),
        late_doubling=False,
        slope=0.2,
        opening=PlainNorm(128, 1e-5),
        norm=lambda channels: PlainNorm(channels, bn_eps),
    )
