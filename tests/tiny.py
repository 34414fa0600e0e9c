"""Tiny random models of every kind, built in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import DDPMPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import BatchEncoding, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from parediff.cost import Counter
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.models.diffusion.tiny import (
    DDIM,
    autoencoder,
    dit_model,
    scheduler,
    transformer,
    unconditional_model,
    unet,
)

__all__ = ["DDIM", "autoencoder", "dit_model", "scheduler", "transformer", "unconditional_model", "unet"]


class Codes(NamedTuple):
    """What an integer kernel would hold: value = step * (integers - zero_point) + offset. All shapes broadcast."""

    integers: torch.Tensor
    step: torch.Tensor
    zero_point: torch.Tensor | None
    offset: float

    def dequantize(self) -> torch.Tensor:
        centred = self.integers.float() - (0 if self.zero_point is None else self.zero_point)
        return centred * self.step + self.offset if self.offset else centred * self.step


def integers(quantizer: Any, x: torch.Tensor) -> Codes:
    """x as the quantiser's integers."""
    return Codes(quantizer.codes(x), *quantizer.parameters_for(x), quantizer.grid.offset)


def macs_of(counter: Counter, kind: str) -> int:
    """Of one kind of layer."""
    return sum(layer.macs for layer in counter.layers.values() if layer.kind == kind)


def conditional_unet(**options: object) -> UNet2DConditionModel:
    torch.manual_seed(1)
    arguments: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 12,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(**(arguments | options))


def class_model(guidance_scale: float = 1.0) -> DiffusionModel:
    """A UNet2DModel conditioned on three classes, label 3 meaning none."""
    pipeline = DDPMPipeline(unet(num_class_embeds=4), scheduler())
    return DiffusionModel(pipeline, name="tiny_class_unet", guidance_scale=guidance_scale, null_class=3)


def text_model(guidance_scale: float = 1.0) -> DiffusionModel:
    """Stable Diffusion's pipeline with a text encoder of one tiny layer and a byte-level tokenizer."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=_text_encoder(),
        tokenizer=_Tokenizer(),
        unet=conditional_unet(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return DiffusionModel(pipeline, name="tiny_text", guidance_scale=guidance_scale)


def xl_model(options: dict[str, object]) -> DiffusionModel:
    """SDXL's pipeline: two text encoders, and size and crop embedded with the time step."""
    unet = conditional_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 12,
        use_linear_projection=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=_text_encoder(),
        text_encoder_2=_text_encoder(CLIPTextModelWithProjection),
        tokenizer=_Tokenizer(),
        tokenizer_2=_Tokenizer(),
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )
    return DiffusionModel(pipeline, name="tiny_xl", options=options)


class _Tokenizer:
    """One token a byte."""

    model_max_length = 8
    added_tokens_encoder: dict[str, int] = {}

    def tokenize(self, text: str) -> list[str]:
        return list(text)

    def __call__(self, prompt: list[str] | str, **_: object) -> BatchEncoding:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rows = [list(text.encode()[:8].ljust(8, b"\0")) for text in prompts]
        ids = torch.tensor(rows)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def _text_encoder(kind: type = CLIPTextModel) -> CLIPTextModel:
    torch.manual_seed(1)
    return kind(
        CLIPTextConfig(
            projection_dim=12,
            vocab_size=256,
            hidden_size=12,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def fail_where(monkeypatch: pytest.MonkeyPatch, condition: Callable[[Sampler], bool], error: Exception) -> None:
    """Sampling raises `error` under every sampler that meets the condition."""
    plain = DiffusionModel.generate

    def generate(self: DiffusionModel, seeds: Any, conditions: Any, sampler: Any) -> Any:
        if condition(sampler):
            raise error
        return plain(self, seeds, conditions, sampler)

    monkeypatch.setattr(DiffusionModel, "generate", generate)
