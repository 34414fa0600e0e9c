"""Tiny random models, built in milliseconds: what the conformance suites compress and sample."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)

from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler

DDIM = Sampler(name="ddim", scheduler="DDIMScheduler", steps=5)


def scheduler(**options: object) -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=1000, clip_sample=False, **options)


def unet(**options: object) -> UNet2DModel:
    """A two-level UNet with attention, 8x8 images of one channel; its zero-initialised layers are made to matter."""
    torch.manual_seed(1)
    arguments: dict[str, object] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return UNet2DModel(**(arguments | options))


def transformer() -> DiTTransformer2DModel:
    torch.manual_seed(1)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )


def unconditional_model(**options: object) -> DiffusionModel:
    return DiffusionModel(DDPMPipeline(unet(**options), scheduler()), name="tiny_unet")


def dit_model(guidance_scale: float = 1.0) -> DiffusionModel:
    pipeline = DiTPipeline(transformer(), autoencoder(), scheduler())
    return DiffusionModel(pipeline, name="tiny_dit", guidance_scale=guidance_scale, null_class=1000)
