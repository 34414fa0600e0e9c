"""From noise to images: diffusers' own pipelines where they take any scheduler, one plain loop where they do not."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from parediff.errors import RequestError
from parediff.models.diffusion.conditioning import class_rows
from parediff.models.diffusion.door import Sampled
from parediff.models.diffusion.inputs import arguments_of, check_frames, check_options, parameters_of
from parediff.models.diffusion.text import prompts_kept

PICTURES = ("images", "frames")
DECODERS = ("vae", "vqvae", "movq", "vqgan")
BARE = {
    "batch_size",
    "generator",
    "num_inference_steps",
    "eta",
    "use_clipped_model_output",
    "class_labels",
    "output_type",
    "return_dict",
}


def conditioning_of(pipeline: Any, denoiser: Any) -> str:
    """'text', 'class' or 'none': what an image of this pipeline is conditioned on.

    A UNet says that it takes classes by its embedding, a DiT by its configuration.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" in parameters:
        return "text"
    embeds = getattr(denoiser, "class_embedding", None) is not None or class_rows(denoiser.config) is not None
    if "class_labels" in parameters or embeds:
        return "class"
    return "none"


def own_guidance(pipeline: Any) -> float:
    """The guidance scale that a pipeline takes where nobody says; 1, which is none, where it takes no scale."""
    parameter = parameters_of(type(pipeline)).get("guidance_scale")
    return 1.0 if parameter is None or parameter.default is None else float(parameter.default)


def draws_pixels(pipeline: Any) -> bool:
    """Whether the pipeline is a bare network of pixels, which the plain loop samples with any scheduler."""
    decoder = any(hasattr(pipeline, name) for name in DECODERS)
    return not decoder and set(parameters_of(type(pipeline))) <= BARE


def images(model: Sampled, conditions: Sequence[Any] | None, scheduler: Any, generators: Any, steps: int) -> Tensor:
    """What the open door of `model` draws: images [B, C, H, W] or videos [B, F, C, H, W] in [0, 1], or latents.

    Latents, where the pipeline gives or is asked for them, are shown as z / 8 + 1/2: four standard deviations each way.
    """
    pipeline = model.pipeline
    if draws_pixels(pipeline):
        check_options_of(model)
        return _pixels(model, conditions, scheduler, generators, steps)
    parameters = parameters_of(type(pipeline))
    check_options_of(model)
    arguments: dict[str, Any] = {"num_inference_steps": steps, "generator": generators, "output_type": "np"}
    if "prompt" in parameters:
        arguments["prompt"] = list(conditions or [])
    elif "class_labels" in parameters:
        arguments["class_labels"] = list(conditions or [])
    elif "batch_size" in parameters:
        arguments["batch_size"] = len(generators)
    scale = parameters.get("guidance_scale")
    if scale is not None and (scale.default is not None or model.guidance_scale != 1):  # null there: not distilled
        arguments["guidance_scale"] = model.guidance_scale
    arguments |= arguments_of(type(pipeline), model.options, len(generators))
    pipeline.set_progress_bar_config(disable=True)
    with prompts_kept(pipeline, model.prompts):
        output = pipeline(**arguments)
    return _drawn(output, latent=arguments["output_type"] == "latent")


def check_options_of(model: Sampled) -> None:
    """Raise RequestError where the pipeline does not take what the model is told to hand it."""
    try:
        check_options(type(model.pipeline), model.options)
    except RequestError as error:
        raise error.within("model") from error
    check_frames(model.pipeline, model.options)


def _drawn(output: Any, *, latent: bool) -> Tensor:
    kind = next((name for name in PICTURES if getattr(output, name, None) is not None), None)
    if kind is None or latent:
        return _as_picture(torch.as_tensor(output[0])) / 8 + 0.5
    drawn = output[kind]
    if isinstance(drawn, Tensor):
        return drawn
    tensor = torch.as_tensor(np.asarray(drawn))
    return tensor.movedim(-1, -3)


def _as_picture(latent: Tensor) -> Tensor:
    """[B, tokens, C] as one channel of that size; every other shape stays."""
    return latent.unsqueeze(1) if latent.ndim == 3 else latent


def _pixels(model: Sampled, conditions: Sequence[int] | None, scheduler: Any, generators: Any, steps: int) -> Tensor:
    """The plain sampling loop of a pixel-space network, conditional on a class where it has one."""
    device, dtype = model.device, model.dtype
    scheduler.set_timesteps(steps, device=device)
    shape = (len(generators), *model.sample_shape)
    x = randn_tensor(shape, generator=generators, device=device, dtype=dtype) * scheduler.init_noise_sigma
    labels = None if conditions is None else torch.as_tensor(list(conditions), device=device)
    for t in scheduler.timesteps:
        output = _guided(model, scheduler.scale_model_input(x, t), t, labels)
        if output.shape[1] == 2 * x.shape[1] and "learned" not in str(scheduler.config.get("variance_type")):
            output = output[:, : x.shape[1]]
        x = scheduler.step(output, t, x).prev_sample
    return (x.float() / 2 + 0.5).clamp(0, 1)


def _guided(model: Sampled, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
    """The prediction; with a guidance scale above 1, conditional and unconditional halves go in one batch."""
    if labels is None:
        return model.denoiser(x, t, return_dict=False)[0]
    if model.guidance_scale <= 1:
        return model.denoiser(x, t, class_labels=labels, return_dict=False)[0]
    nothing = torch.full_like(labels, model.null_class)
    both = model.denoiser(torch.cat([x, x]), t, class_labels=torch.cat([labels, nothing]), return_dict=False)[0]
    conditional, unconditional = both.chunk(2)
    return unconditional + model.guidance_scale * (conditional - unconditional)
