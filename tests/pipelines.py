"""Tiny random pipelines of every architecture that people run, whole from tokenizer to decoder, built in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers as d
import pytest
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from parediff.models.diffusion.door import Call, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler

WIDTH = 16
TOKENS = 16


@dataclass(frozen=True)
class Kind:
    """One architecture: how to build its pipeline, and what its call needs beside steps, seeds and a prompt."""

    build: Callable[[], Any]
    conditioning: str = "text"
    options: dict[str, Any] = field(default_factory=dict)
    guidance: float = 1.0
    null_class: int | None = None
    frames: int | None = None


@functools.cache
def built(name: str) -> Any:
    """The pipeline `name` with weights that do not depend on what was built before; shared by a session's tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipeline = KINDS[name].build()
    for part in ("unet", "transformer", "prior", "decoder"):
        network = getattr(pipeline, part, None)
        if isinstance(network, torch.nn.Module):
            wake(network)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def model(name: str) -> DiffusionModel:
    """A model of its own: whatever is done to its network stays there."""
    kind = KINDS[name]
    return DiffusionModel(
        built(name), name=name, guidance_scale=kind.guidance, null_class=kind.null_class, options=kind.options
    ).copy()


def conditions(name: str, count: int) -> tuple[Any, ...] | None:
    """One for each image, all different."""
    kind = KINDS[name].conditioning
    return {"text": ("a cat", "dogs", "an owl")[:count], "class": (2, 0, 1)[:count], "none": None}[kind]


@functools.cache
def first_call(name: str) -> Call:
    """What the network is asked at the first of two steps, for two images."""
    asked = model(name)
    with recording(asked) as calls:
        asked.generate([3, 7], conditions(name, 2), Sampler("own", None, 2))
    return calls[0]


def folder(name: str, root: Path) -> Path:
    """The same, saved as a diffusers folder."""
    path = root / name
    if not path.exists():
        built(name).save_pretrained(path, safe_serialization=True)
    return path


@torch.no_grad()
def wake(network: torch.nn.Module) -> None:
    """Zero-initialised tensors (adaLN's, last layers) would hide what stands before them."""
    generator = torch.Generator().manual_seed(2)
    for value in network.parameters():
        unset = value.isnan().any() or value.abs().max() > 1e3  # torch.empty
        if value.is_floating_point() and (unset or not value.count_nonzero()):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))


def tokenizer() -> Any:
    """One token a byte."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    symbols = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_of = Tokenizer(
        models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[], unk_token="<unk>")
    )
    bytes_of.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bytes_of.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    ends = [("<bos>", symbols.index("<bos>")), ("<eos>", symbols.index("<eos>"))]
    bytes_of.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<bos> $A <eos>", special_tokens=ends
    )
    made = t.PreTrainedTokenizerFast(
        tokenizer_object=bytes_of,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        model_max_length=TOKENS,
    )
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return made


SMALL = {"vocab_size": 264, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}


def clip_text(kind: Any = t.CLIPTextModel, width: int = WIDTH) -> Any:
    config = SMALL | {"hidden_size": width, "projection_dim": width}
    return kind(
        t.CLIPTextConfig(
            **config,
            num_hidden_layers=2,
            max_position_embeddings=77,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
        )
    ).eval()


def clip_image() -> Any:
    config = t.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
    )
    return t.CLIPVisionModelWithProjection(config).eval()


def image_processor() -> Any:
    return t.CLIPImageProcessor(crop_size=224, size={"shortest_edge": 224})


def t5(kind: Any = t.T5EncoderModel, config: Any = t.T5Config) -> Any:
    return kind(config(vocab_size=264, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)).eval()


def gemma() -> Any:
    return t.Gemma2Model(
        t.Gemma2Config(**SMALL, num_hidden_layers=1, num_key_value_heads=2, head_dim=8, sliding_window=8)
    ).eval()


def autoencoder(channels: int = 4, **options: Any) -> Any:
    arguments: dict[str, Any] = {
        "latent_channels": channels,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "sample_size": 16,
        "layers_per_block": 1,
    }
    return d.AutoencoderKL(**(arguments | options)).eval()


def unet(**options: Any) -> Any:
    arguments: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return d.UNet2DConditionModel(**(arguments | options)).eval()


def ddim(**options: Any) -> Any:
    return d.DDIMScheduler(
        clip_sample=False, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1, **options
    )


def flow(**options: Any) -> Any:
    return d.FlowMatchEulerDiscreteScheduler(**options)


def picture(size: int = 16) -> Any:
    from PIL import Image

    return Image.new("RGB", (size, size), (200, 100, 50))


def _stable_diffusion(kind: Any = d.StableDiffusionPipeline, **given: Any) -> Any:
    parts = {
        "vae": autoencoder(),
        "text_encoder": clip_text(),
        "tokenizer": tokenizer(),
        "unet": unet(),
        "scheduler": ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return kind(**(parts | given))


def _inpaint() -> Any:
    return _stable_diffusion(d.StableDiffusionInpaintPipeline, unet=unet(in_channels=9))


def _v_prediction() -> Any:
    return _stable_diffusion(scheduler=ddim(prediction_type="v_prediction"))


def _img2img() -> Any:
    return _stable_diffusion(d.StableDiffusionImg2ImgPipeline)


def _controlnet() -> Any:
    network = unet()
    return _stable_diffusion(
        d.StableDiffusionControlNetPipeline,
        unet=network,
        controlnet=d.ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(4, 8)).eval(),
    )


def _sdxl() -> Any:
    network = unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTH,
        use_linear_projection=True,
    )
    return d.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(t.CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=network,
        scheduler=d.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
        add_watermarker=False,
    )


def _sd3() -> Any:
    return d.StableDiffusion3Pipeline(
        transformer=d.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
            qk_norm="rms_norm",
            pos_embed_max_size=8,
        ).eval(),
        scheduler=flow(shift=3.0),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_text(t.CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        text_encoder_2=clip_text(t.CLIPTextModelWithProjection),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5(
            config=lambda **options: t.T5Config(**(options | {"d_model": 2 * WIDTH})),
        ),
        tokenizer_3=tokenizer(),
    )


def _flux() -> Any:
    return d.FluxPipeline(
        scheduler=flow(use_dynamic_shifting=True, shift=3.0),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(),
        tokenizer=tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
        transformer=d.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ).eval(),
    )


def _chroma() -> Any:
    return d.ChromaPipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        transformer=d.ChromaTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ).eval(),
    )


def _pixart() -> Any:
    return d.PixArtSigmaPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=autoencoder(),
        transformer=d.PixArtTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            use_additional_conditions=False,
        ).eval(),
        scheduler=ddim(),
    )


def _hunyuan_dit() -> Any:
    bert = t.BertConfig(**SMALL, num_hidden_layers=1, max_position_embeddings=128)
    return d.HunyuanDiTPipeline(
        vae=autoencoder(),
        text_encoder=t.BertModel(bert).eval(),
        tokenizer=tokenizer(),
        transformer=d.HunyuanDiT2DModel(
            sample_size=8,
            num_layers=4,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=4,
            hidden_size=16,
            activation_fn="gelu-approximate",
        ).eval(),
        scheduler=d.DDPMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(),
    )


def _sana() -> Any:
    return d.SanaPipeline(
        tokenizer=tokenizer(),
        text_encoder=gemma(),
        vae=d.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ).eval(),
        transformer=d.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            sample_size=8,
        ).eval(),
        scheduler=d.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
    )


def _lumina2() -> Any:
    return d.Lumina2Pipeline(
        transformer=d.Lumina2Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            hidden_size=24,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=3,
            num_kv_heads=1,
            multiple_of=4,
            ffn_dim_multiplier=1.0,
            norm_eps=1e-5,
            scaling_factor=1.0,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 32, 32),
            cap_feat_dim=WIDTH,
        ).eval(),
        scheduler=flow(shift=6.0),
        vae=autoencoder(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=gemma(),
        tokenizer=tokenizer(),
    )


def _dit() -> Any:
    return d.DiTPipeline(
        transformer=d.DiTTransformer2DModel(
            sample_size=8,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=1000,
            norm_num_groups=4,
        ).eval(),
        vae=autoencoder(),
        scheduler=ddim(),
    )


def _ldm() -> Any:
    return d.LDMPipeline(
        vqvae=d.VQModel(
            block_out_channels=(8, 8),
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=3,
            num_vq_embeddings=16,
            norm_num_groups=4,
        ).eval(),
        unet=_pixel_unet(in_channels=3, out_channels=3),
        scheduler=ddim(),
    )


def _pixel_unet(**options: Any) -> Any:
    arguments: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return d.UNet2DModel(**(arguments | options)).eval()


def _ddpm() -> Any:
    return d.DDPMPipeline(_pixel_unet(), d.DDPMScheduler())


def _kandinsky() -> Any:
    network = unet(
        in_channels=4,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="image",
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        class_embed_type=None,
        resnet_time_scale_shift="scale_shift",
    )
    movq = d.VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    return d.KandinskyV22Pipeline(unet=network, scheduler=d.DDPMScheduler(clip_sample=False), movq=movq.eval())


def _stable_cascade() -> Any:
    prior = d.StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=WIDTH,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_image_in_channels=WIDTH,
        clip_text_in_channels=WIDTH,
        clip_text_pooled_in_channels=WIDTH,
        dropout=(0.0, 0.0),
        timestep_ratio_embedding_dim=16,
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
    )
    return d.StableCascadePriorPipeline(
        tokenizer=tokenizer(),
        text_encoder=clip_text(t.CLIPTextModelWithProjection),
        prior=prior.eval(),
        scheduler=d.DDPMWuerstchenScheduler(),
        feature_extractor=image_processor(),
        image_encoder=clip_image(),
    )


def _wan() -> Any:
    vae = d.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return d.WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(t.UMT5EncoderModel, t.UMT5Config),
        vae=vae.eval(),
        scheduler=d.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
        transformer=d.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ).eval(),
    )


def _ltx() -> Any:
    vae = d.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return d.LTXPipeline(
        scheduler=flow(),
        vae=vae.eval(),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        transformer=d.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDTH,
        ).eval(),
    )


def _qwen_image() -> Any:
    text = t.Qwen2_5_VLConfig(
        text_config=SMALL
        | {
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    return d.QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.02, time_shift_type="exponential"),
        vae=d.AutoencoderKLQwenImage(
            base_dim=6,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ).eval(),
        text_encoder=t.Qwen2_5_VLForConditionalGeneration(text).eval(),
        tokenizer=tokenizer(),
        transformer=d.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 4, 4),
        ).eval(),
    )


def _cogvideox() -> Any:
    return d.CogVideoXPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=d.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ).eval(),
        transformer=d.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=4,
            text_embed_dim=WIDTH,
            num_layers=2,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=TOKENS,
        ).eval(),
        scheduler=d.CogVideoXDDIMScheduler(),
    )


def _z_image() -> Any:
    qwen = t.Qwen3Config(**SMALL, num_hidden_layers=2, num_key_value_heads=2, head_dim=8)
    return d.ZImagePipeline(
        scheduler=flow(shift=3.0),
        vae=autoencoder(16, shift_factor=0.1, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t.Qwen3Model(qwen).eval(),
        tokenizer=tokenizer(),
        transformer=d.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=16,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ).eval(),
    )


def _aura_flow() -> Any:
    return d.AuraFlowPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(t.UMT5EncoderModel, t.UMT5Config),
        vae=autoencoder(),
        transformer=d.AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=WIDTH,
            out_channels=4,
            pos_embed_max_size=64,
        ).eval(),
        scheduler=flow(shift=1.73),
    )


def _cogview4() -> Any:
    glm = t.GlmConfig(**SMALL, num_hidden_layers=2, num_key_value_heads=2, head_dim=8, pad_token_id=0)
    return d.CogView4Pipeline(
        tokenizer=tokenizer(),
        text_encoder=t.GlmModel(glm).eval(),
        vae=autoencoder(),
        transformer=d.CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            out_channels=4,
            text_embed_dim=WIDTH,
            time_embed_dim=8,
            condition_dim=4,
        ).eval(),
        scheduler=flow(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"),
    )


def _hunyuan_video() -> Any:
    llama = t.LlamaConfig(**SMALL, num_hidden_layers=3, num_key_value_heads=2, max_position_embeddings=512)
    return d.HunyuanVideoPipeline(
        text_encoder=t.LlamaModel(llama).eval(),
        tokenizer=tokenizer(),
        transformer=d.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            rope_axes_dim=(2, 4, 4),
        ).eval(),
        vae=d.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            temporal_compression_ratio=4,
            spatial_compression_ratio=8,
            mid_block_add_attention=True,
        ).eval(),
        scheduler=flow(shift=7.0),
        text_encoder_2=clip_text(),
        tokenizer_2=tokenizer(),
    )


def _mochi() -> Any:
    return d.MochiPipeline(
        scheduler=flow(),
        vae=d.AutoencoderKLMochi(
            latent_channels=12,
            out_channels=3,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ).eval(),
        text_encoder=t5(),
        tokenizer=tokenizer(),
        transformer=d.MochiTransformer3DModel(
            patch_size=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=12,
            out_channels=None,
            qk_norm="rms_norm",
            text_embed_dim=WIDTH,
            time_embed_dim=4,
            activation_fn="swiglu",
            max_sequence_length=TOKENS,
        ).eval(),
    )


def _video_diffusion() -> Any:
    return d.StableVideoDiffusionPipeline(
        vae=d.AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
        ).eval(),
        image_encoder=clip_image(),
        unet=d.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=8,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=WIDTH,
            num_attention_heads=(2, 4),
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
        ).eval(),
        scheduler=d.EulerDiscreteScheduler(
            prediction_type="v_prediction",
            use_karras_sigmas=True,
            timestep_type="continuous",
            timestep_spacing="leading",
            steps_offset=1,
            sigma_min=0.002,
            sigma_max=700.0,
            beta_schedule="scaled_linear",
        ),
        feature_extractor=image_processor(),
    )


SIDE: dict[str, Any] = {"height": 16, "width": 16}
WIDE: dict[str, Any] = {"height": 32, "width": 32}
EMBEDDINGS = {"image_embeds": torch.ones(1, WIDTH), "negative_image_embeds": torch.zeros(1, WIDTH)}
SHORT = {"max_sequence_length": TOKENS}

QUICK = ("ddpm", "sd1", "dit", "sd3", "flux", "z_image", "wan", "cogvideox")
"""A network of each make; tests over all architectures are slow for the others."""


def params(names: Iterable[str], quick: Sequence[str] = QUICK) -> list[Any]:
    """The architectures as a test's parameters."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


KINDS: dict[str, Kind] = {
    "ddpm": Kind(_ddpm, "none"),
    "ldm": Kind(_ldm, "none"),
    "sd1": Kind(_stable_diffusion, options=SIDE, guidance=5.0),
    "sd2_v": Kind(_v_prediction, options=SIDE, guidance=5.0),
    "sd_img2img": Kind(_img2img, options={"image": picture(), "strength": 0.8}, guidance=5.0),
    "sd_inpaint": Kind(_inpaint, options={"image": picture(), "mask_image": picture(), **SIDE}, guidance=5.0),
    "sd_controlnet": Kind(_controlnet, options={"image": picture()}, guidance=5.0),
    "sdxl": Kind(_sdxl, options=SIDE, guidance=5.0),
    "kandinsky22": Kind(_kandinsky, "none", options={**SIDE, **EMBEDDINGS}, guidance=4.0),
    "stable_cascade": Kind(_stable_cascade, options={"height": 128, "width": 128}, guidance=4.0),
    "dit": Kind(_dit, "class", guidance=1.5, null_class=1000),
    "pixart_sigma": Kind(
        _pixart, options={"use_resolution_binning": False, "clean_caption": False, **SIDE, **SHORT}, guidance=4.5
    ),
    "hunyuan_dit": Kind(_hunyuan_dit, options={"use_resolution_binning": False, **SIDE}, guidance=5.0),
    "sd3": Kind(_sd3, options={**SIDE, **SHORT}, guidance=5.0),
    "flux": Kind(_flux, options={**SIDE, **SHORT}, guidance=3.5),
    "chroma": Kind(_chroma, options={**SIDE, **SHORT}, guidance=5.0),
    "aura_flow": Kind(_aura_flow, options={**SIDE, **SHORT}, guidance=3.5),
    "sana": Kind(
        _sana,
        options={"use_resolution_binning": False, "complex_human_instruction": None, **WIDE, **SHORT},
        guidance=4.5,
    ),
    "lumina2": Kind(_lumina2, options={**SIDE, **SHORT}, guidance=4.0),
    "cogview4": Kind(_cogview4, options={**SIDE, **SHORT}, guidance=5.0),
    "qwen_image": Kind(_qwen_image, options={**SIDE, **SHORT, "true_cfg_scale": 4.0, "negative_prompt": "dull"}),
    "z_image": Kind(_z_image, options={**SIDE, **SHORT}, guidance=5.0),
    "svd": Kind(_video_diffusion, "none", options={**SIDE, "image": picture(), "num_frames": 2}, frames=2),
    "wan": Kind(_wan, options={**SIDE, **SHORT, "num_frames": 9}, guidance=5.0, frames=9),
    "ltx": Kind(_ltx, options={**WIDE, **SHORT, "num_frames": 9}, guidance=3.0, frames=9),
    "cogvideox": Kind(_cogvideox, options={**SIDE, **SHORT, "num_frames": 9}, guidance=6.0, frames=9),
    "hunyuan_video": Kind(_hunyuan_video, options={**SIDE, **SHORT, "num_frames": 5}, guidance=6.0, frames=5),
    "mochi": Kind(_mochi, options={**SIDE, **SHORT, "num_frames": 7}, guidance=4.5, frames=7),
}
