"""Attention with its two activation-by-activation products as modules of their own."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn


class Matmul(nn.Module):
    """a @ b over the last two dimensions; a place to hook, count and quantise."""

    is_matmul = True

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b)


class MatmulAttention(nn.Module):
    """softmax(q k^T * scale + mask) v with plain products: what diffusers' fused kernels compute, but visible."""

    def __init__(self) -> None:
        super().__init__()
        self.qk = Matmul()
        self.pv = Matmul()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **rest: Any,
    ) -> Tensor:
        """diffusers reads this signature to know what it may hand over."""
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **rest)

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        residual, shape = hidden_states, hidden_states.shape
        hidden_states = _sequence(attn, hidden_states, temb)
        context = _context(attn, hidden_states, encoder_hidden_states)
        q, k, v = (
            _heads(attn, projection(x))
            for projection, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        q = attn.norm_q(q) if getattr(attn, "norm_q", None) is not None else q
        k = attn.norm_k(k) if getattr(attn, "norm_k", None) is not None else k
        out = self.pv(self._probabilities(attn, q, k, attention_mask), v)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))
        if len(shape) == 4:
            out = out.transpose(-1, -2).reshape(shape[0], -1, *shape[2:])
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def _probabilities(self, attn: Attention, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """[B, heads, n_q, n_k], rows sum to one."""
        scores = self.qk(q * attn.scale, k.transpose(-1, -2))
        if mask is not None:
            batch, heads = q.shape[:2]
            prepared = attn.prepare_attention_mask(mask, k.shape[2], batch)
            scores = scores + prepared.reshape(batch, heads, -1, prepared.shape[-1])
        if attn.upcast_softmax:
            scores = scores.float()
        return scores.softmax(dim=-1).to(q.dtype)


def _sequence(attn: Attention, x: Tensor, temb: Tensor | None) -> Tensor:
    """[B, n, channels], normalised where the block normalises."""
    if attn.spatial_norm is not None:
        x = attn.spatial_norm(x, temb)
    if x.ndim == 4:
        x = x.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
    return x


def _context(attn: Attention, x: Tensor, encoder_hidden_states: Tensor | None) -> Tensor:
    if encoder_hidden_states is None:
        return x
    return attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states


def _heads(attn: Attention, x: Tensor) -> Tensor:
    """[B, n, channels] to [B, heads, n, channels / heads]."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def attentions(denoiser: nn.Module) -> dict[str, Attention]:
    """Every diffusers attention by its path."""
    return {name: module for name, module in denoiser.named_modules() if isinstance(module, Attention)}


def explicit_attention(denoiser: nn.Module) -> list[str]:
    """Give every attention a `MatmulAttention` of its own; the paths. Attentions of other kinds raise."""
    found = attentions(denoiser)
    for name, module in found.items():
        processor = module.processor
        if isinstance(processor, MatmulAttention):
            continue
        if not isinstance(processor, AttnProcessor | AttnProcessor2_0):
            raise TypeError(
                f"{name} attends with {type(processor).__name__}; only the standard attention can be opened"
            )
        module.set_processor(MatmulAttention())
    return list(found)
