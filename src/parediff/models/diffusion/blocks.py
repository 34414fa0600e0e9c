"""The blocks of diffusers' networks that take in the time."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.normalization import AdaLayerNormZero
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


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


def streams_of(block: nn.Module, args: Any, kwargs: Any, outputs: int) -> tuple[Tensor | None, ...]:
    """What the `outputs` of a transformer block go on from: the image's tokens, or those and the text's, as returned.

    diffusers' registry knows the order for most blocks; others return text first, as its joint blocks do.
    """
    kind: Any = type(block)
    signature = inspect.signature(kind.forward)
    given = signature.bind(block, *args, **kwargs).arguments
    hidden = given.get("hidden_states", given.get(list(signature.parameters)[1]))
    if outputs == 1:
        return (hidden,)
    metadata, context = _known(kind), given.get("encoder_hidden_states")
    first = metadata is not None and metadata.return_hidden_states_index == 0
    return (hidden, context) if first else (context, hidden)


def _known(kind: Any) -> Any:
    try:
        return TransformerBlockRegistry.get(kind)
    except ValueError:
        return None
