"""What a pipeline's call takes beside steps and seeds, for every image of a batch: prompts, pictures, tensors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parediff.errors import RequestError, nearest

OURS = {
    "num_inference_steps": "sampler.steps",
    "generator": "workload.first_seed",
    "prompt": "workload.conditions",
    "class_labels": "workload.conditions",
    "guidance_scale": "model.guidance_scale",
    "eta": "sampler.eta",
    "batch_size": "workload.batch_size",
    "return_dict": "nothing",
}
"""Arguments of a pipeline that have a home of their own."""
PER_IMAGE_TEXT = re.compile(r"(negative_)?prompt(_\d)?")
TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
"""How diffusers' pipelines call the number of frames that share a latent one."""


def parameters_of(kind: Any) -> dict[str, inspect.Parameter]:
    """What the call of a pipeline class takes."""
    parameters = dict(inspect.signature(kind.__call__).parameters)
    return {name: p for name, p in parameters.items() if name != "self" and p.kind is not p.VAR_KEYWORD}


def check_options(kind: Any, options: Mapping[str, Any]) -> None:
    """Raise RequestError for the first option that the pipeline does not take, or a file that is not there."""
    known = parameters_of(kind)
    for name, value in options.items():
        key = f"options.{name}"
        if name in OURS and name in known:
            raise RequestError(key, value, f"it is {OURS[name]} that says so")
        if name not in known:
            accepted = ", ".join(other for other in known if other not in OURS)
            raise RequestError(key, value, f"{kind.__name__} takes {accepted}.{nearest(name, known)}")
        for file in _files(known[name], value):
            if not Path(file).expanduser().is_file():
                raise RequestError(key, file, "no such file")
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if needed and name not in options and name not in (*OURS, "output_type"):
            raise RequestError(f"options.{name}", None, f"{kind.__name__} cannot do without it")


def files_of(kind: Any, options: Mapping[str, Any]) -> list[Path]:
    """Every picture or tensor file that the options name."""
    known = parameters_of(kind)
    return [Path(file).expanduser() for name, value in options.items() for file in _files(known[name], value)]


def _files(parameter: inspect.Parameter, value: Any) -> list[str]:
    if not (_is_picture(parameter) or _is_tensor(parameter)):
        return []
    return [entry for entry in (value if isinstance(value, list | tuple) else [value]) if isinstance(entry, str)]


def _is_picture(parameter: inspect.Parameter) -> bool:
    return "Image" in str(parameter.annotation)


def _is_tensor(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)
    return "Tensor" in annotation and "str" not in annotation


def check_frames(pipeline: Any, options: Mapping[str, Any]) -> None:
    """Raise RequestError where a video cannot have so many frames: 1 and some for each further latent one."""
    factor = next((getattr(pipeline, name) for name in TEMPORAL if hasattr(pipeline, name)), None)
    frames = options.get("num_frames")
    if factor is None or frames is None:
        return
    if not isinstance(frames, int) or frames < 1 or (frames - 1) % factor:
        raise RequestError("model.options.num_frames", frames, f"{factor} k + 1 is accepted: 1, {factor + 1}, …")


def arguments_of(kind: Any, options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The options as the pipeline wants them for `count` images."""
    known = parameters_of(kind)
    return {name: _for_batch(known[name], value, count) for name, value in options.items()}


def _for_batch(parameter: inspect.Parameter, value: Any, count: int) -> Any:
    if PER_IMAGE_TEXT.fullmatch(parameter.name) and isinstance(value, str):
        return [value] * count
    if _is_picture(parameter) and not isinstance(value, Tensor) and value is not None:
        given = value if isinstance(value, list | tuple) else [value]
        return _spread([_picture(entry) for entry in given], parameter.name, count)
    if _is_tensor(parameter) and isinstance(value, str):
        value = _tensor(parameter.name, value)
    if _is_tensor(parameter) and isinstance(value, Tensor):
        return torch.cat(_spread(list(value.split(1)), parameter.name, count))
    return value


def _spread(values: Sequence[Any], name: str, count: int) -> list[Any]:
    """One for each image: the same for all, or as many as there are images in a batch."""
    if len(values) not in (1, count):
        raise RequestError(f"model.options.{name}", len(values), f"1 or {count}, the images of a batch, is accepted")
    return list(values) * (count // len(values))


def _picture(entry: Any) -> Any:
    from PIL import Image

    if not isinstance(entry, str):
        return entry
    with Image.open(Path(entry).expanduser()) as picture:
        return picture.convert("L" if picture.mode == "L" else "RGB")


def _tensor(name: str, path: str) -> Tensor:
    """The one tensor in a weights file."""
    from parediff.models.weights import load_weights

    held = load_weights(path, f"model.options.{name}")
    if len(held) != 1:
        raise RequestError(f"model.options.{name}", path, "a file of one tensor is accepted")
    return next(iter(held.values()))
