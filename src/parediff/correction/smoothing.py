"""Intra-noise smoothing (QNCD, 3.2): channels that the time amplifies are divided by S, and the next weight carries it.

`h / S` and `W * S` cancel in full precision. A per-tensor step D on h / S is a per-channel step D * S_c on h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from parediff.correction.factors import added, bounded, modulated
from parediff.errors import RequestError
from parediff.models.diffusion.blocks import adaptive_blocks, residual_blocks
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel

FIRST = "false, or a place in the list before every method that quantises: weights take their factors before rounding"


class SmoothedDropout(nn.Module):
    """h / S in front of a residual block's second convolution; S = 1 passes every value bit by bit."""

    factor: Tensor

    def __init__(self, inner: nn.Module, channels: int) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("factor", torch.ones(channels))

    @property
    def p(self) -> float:
        """The dropout's own, which quantisers behind it ask for."""
        return float(getattr(self.inner, "p", 0.0))

    def forward(self, h: Tensor) -> Tensor:
        return self.inner(h / self.factor.view(1, -1, 1, 1))


class SmoothedNorm(nn.Module):
    """adaLN-Zero whose modulated outputs are divided by S: those of attention directly, the feed-forward's through
    shift / S and (1 + scale) / S - 1.
    """

    factor: Tensor
    feedforward_factor: Tensor

    def __init__(self, inner: Any, channels: int) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("factor", torch.ones(channels))
        self.register_buffer("feedforward_factor", torch.ones(channels))

    @property
    def emb(self) -> Any:
        """The embedding of time and class, which the transformer's head asks its first norm for."""
        return self.inner.emb

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        x, gate, shift, scale, feedforward_gate = self.inner(*args, **kwargs)
        divisor = self.feedforward_factor
        return x / self.factor, gate, shift / divisor, (1 + scale) / divisor - 1, feedforward_gate


class Site(ABC):
    """One place to smooth: where S is divided by, the layers that multiply by it, and what S is read from."""

    def __init__(self, block: Any) -> None:
        self.block = block

    @property
    @abstractmethod
    def installed(self) -> bool:
        """Whether `install` was called."""

    @abstractmethod
    def install(self) -> None:
        """Put the division in place."""

    @property
    @abstractmethod
    def source(self) -> nn.Module:
        """The projection of the time embedding, whose output [B, n] S is read from."""

    @abstractmethod
    def magnitudes(self, embedding: Tensor) -> list[Tensor]:
        """Per factor [B, C]: what the time does to each channel."""

    @property
    @abstractmethod
    def factors(self) -> list[Tensor]:
        """Every S [C], once installed."""

    @property
    @abstractmethod
    def layers(self) -> list[list[nn.Module]]:
        """Per factor: the layers whose weight [out, C, ...] it multiplies."""


class ResidualSite(Site):
    """conv2 of diffusers' ResnetBlock2D."""

    @property
    def installed(self) -> bool:
        return isinstance(self.block.dropout, SmoothedDropout)

    def install(self) -> None:
        self.block.dropout = SmoothedDropout(self.block.dropout, self.block.norm2.num_channels)

    @property
    def source(self) -> nn.Module:
        return self.block.time_emb_proj

    def magnitudes(self, embedding: Tensor) -> list[Tensor]:
        if self.block.time_embedding_norm == "default":
            return [added(embedding, self.block.norm2)]
        return [modulated(embedding.chunk(2, dim=1)[0])]

    @property
    def factors(self) -> list[Tensor]:
        return [self.block.dropout.factor]

    @property
    def layers(self) -> list[list[nn.Module]]:
        return [[self.block.conv2]]


class AdaptiveSite(Site):
    """The queries, keys and values, and the first layer of the feed-forward, of a transformer block with adaLN-Zero."""

    @property
    def installed(self) -> bool:
        return isinstance(self.block.norm1, SmoothedNorm)

    def install(self) -> None:
        self.block.norm1 = SmoothedNorm(self.block.norm1, self.block.norm1.norm.normalized_shape[0])

    @property
    def source(self) -> nn.Module:
        return getattr(self.block.norm1, "inner", self.block.norm1).linear

    def magnitudes(self, embedding: Tensor) -> list[Tensor]:
        _, scale, _, _, feedforward_scale, _ = embedding.chunk(6, dim=1)
        return [modulated(scale), modulated(feedforward_scale)]

    @property
    def factors(self) -> list[Tensor]:
        return [self.block.norm1.factor, self.block.norm1.feedforward_factor]

    @property
    def layers(self) -> list[list[nn.Module]]:
        attention = self.block.attn1
        return [[attention.to_q, attention.to_k, attention.to_v], [self.block.ff.net[0].proj]]


def sites(denoiser: nn.Module) -> list[Site]:
    """Every place that can be smoothed, in the network's order."""
    residual: list[Site] = [ResidualSite(block) for block in residual_blocks(denoiser).values()]
    return residual + [AdaptiveSite(block) for block in adaptive_blocks(denoiser).values()]


def install_smoothing(model: DiffusionModel) -> None:
    """Put S = 1 everywhere. Refuses networks without a place for it, and layers that are quantised already."""
    found = sites(model.denoiser)
    if not found:
        accepted = (
            "a network with residual blocks that take in the time, or with DiT's blocks of adaLN-Zero, is accepted"
        )
        raise RequestError("smoothing", type(model.denoiser).__name__, f"{accepted}; false switches it off")
    if any(hasattr(layer, "layer") for site in found for layers in site.layers for layer in layers):
        raise RequestError("smoothing", True, f"{FIRST}, is accepted")
    for site in found:
        site.install()


@torch.no_grad()
def calibrate_smoothing(model: DiffusionModel, calls: Iterable[Call], strength: float = 1.0) -> None:
    """S from the time embeddings of the calls, folded into the weights. `strength` is an exponent of S."""
    found = sites(model.denoiser)
    means = [_Mean() for _ in found]
    with ExitStack() as stack:
        for site, mean in zip(found, means, strict=True):
            stack.callback(site.source.register_forward_hook(mean.observer(site)).remove)
        for call in calls:
            model.predict(call.x, call.t, call.cond)
    for site, mean in zip(found, means, strict=True):
        for factor, layers, value in zip(site.factors, site.layers, mean.values(), strict=True):
            fold(factor, layers, bounded(value, strength))


@torch.no_grad()
def fold(factor: Tensor, layers: list[nn.Module], value: Tensor) -> None:
    """Take over S = `value`: the weights, of which there is only one copy, carry it from now on."""
    change = value.to(factor) / factor
    for layer in layers:
        weight = getattr(layer, "layer", layer).weight
        assert isinstance(weight, Tensor)
        weight.mul_(change.to(weight.dtype).view(1, -1, *[1] * (weight.ndim - 2)))
    factor.copy_(value)


def smoothing_factors(denoiser: nn.Module) -> list[Tensor]:
    """Every S in place, [C] each."""
    return [factor for site in sites(denoiser) if site.installed for factor in site.factors]


class _Mean:
    """The mean over every sample that was seen, in float64."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.count = 0

    def observer(self, site: Site) -> Any:
        def observe(_: nn.Module, __: Any, output: Tensor) -> None:
            magnitudes = [value.double().sum(dim=0) for value in site.magnitudes(output)]
            self.sums = [a + b for a, b in zip(self.sums, magnitudes, strict=True)] if self.sums else magnitudes
            self.count += output.shape[0]

        return observe

    def values(self) -> list[Tensor]:
        if not self.count:
            raise ValueError("no calibration call reached a block that is to be smoothed")
        return [total / self.count for total in self.sums]
