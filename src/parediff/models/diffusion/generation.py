"""From noise to images: diffusers' own pipelines where they take any scheduler, one plain loop where they do not."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from parediff.errors import RequestError
from parediff.models.diffusion.conditioning import class_rows
from parediff.models.diffusion.door import Sampled


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


def images(model: Sampled, conditions: Sequence[Any] | None, scheduler: Any, generators: Any, steps: int) -> Any:
    """Images in [0, 1], NCHW, from the open door of `model`."""
    pipeline = model.pipeline
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" not in parameters and "class_labels" not in parameters and not hasattr(pipeline, "vqvae"):
        return _pixels(model, conditions, scheduler, generators, steps)
    arguments: dict[str, Any] = {"num_inference_steps": steps, "generator": generators, "output_type": "pt"}
    if "prompt" in parameters:
        arguments["prompt"] = list(conditions or [])
    elif "class_labels" in parameters:
        arguments["class_labels"] = list(conditions or [])
    else:
        arguments |= {"batch_size": len(generators), "output_type": "np"}
    if "guidance_scale" in parameters:
        arguments["guidance_scale"] = model.guidance_scale
    unknown = set(model.options) - set(parameters)
    if unknown:
        raise RequestError("model.options", sorted(unknown), f"arguments of {type(pipeline).__name__} are accepted")
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(**arguments, **model.options).images
    if isinstance(output, Tensor):
        return output
    return torch.as_tensor(output).permute(0, 3, 1, 2)


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
