"""The blocks of diffusers' networks that take in the time."""

from __future__ import annotations

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.normalization import AdaLayerNormZero
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


def residual_blocks(denoiser: nn.Module) -> dict[str, ResnetBlock2D]:
    """Residual blocks with a time embedding, added before (`default`) or modulating after (`scale_shift`) norm2."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None
    }


def adaptive_blocks(denoiser: nn.Module) -> dict[str, BasicTransformerBlock]:
    """Transformer blocks whose norm1 is adaLN-Zero: it modulates what attention and feed-forward see."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, BasicTransformerBlock) and is_adaptive(module.norm1)
    }


def is_adaptive(norm: nn.Module) -> bool:
    """Whether a norm is adaLN-Zero, or stands for one that it holds as `inner`."""
    return isinstance(getattr(norm, "inner", norm), AdaLayerNormZero)
