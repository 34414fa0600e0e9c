"""diffusers' own caches, where they can be put around a UNet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from parediff.models.diffusion.pipeline import DiffusionModel


@contextmanager
def pyramid_attention(model: DiffusionModel, interval: int) -> Iterator[None]:
    """Pyramid attention broadcast: every attention is computed once in `interval` steps (arXiv 2408.12588)."""
    from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast
    from diffusers.hooks import HookRegistry

    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=interval,
        cross_attention_block_skip_range=interval,
        spatial_attention_timestep_skip_range=(-1, 1001),
        cross_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(model.denoiser, config)
    try:
        yield
    finally:
        for module in model.denoiser.modules():
            registry = getattr(module, "_diffusers_hook", None)
            if isinstance(registry, HookRegistry):
                for name in list(registry.hooks):
                    registry.remove_hook(name, recurse=False)
                del module._diffusers_hook
