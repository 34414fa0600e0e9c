"""Where a diffusion model comes from: a local diffusers folder, the hub, or the package's own assets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open

from parediff.errors import RequestError
from parediff.models.diffusion.inputs import check_options, files_of
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.models.diffusion.text import PromptStore
from parediff.models.weights import DTYPES
from parediff.provenance import file_fingerprint, fingerprint
from parediff.resources import ASSETS, folder_of
from parediff.validation import Dtype, NonNegative, Whole, check_types

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


@dataclass(frozen=True)
class PretrainedPipeline:
    """A diffusers folder or hub id; constructing it checks what can be checked without loading.

    `guidance_scale` null leaves it to the pipeline; `options` are further arguments of its call, pictures and tensors
    by their files. Encoded prompts are kept below `text_cache`, for every run that draws from the same ones.
    """

    name: Annotated[str, "what records call it"]
    path: Annotated[str, "a diffusers folder, or a name on the hub"]
    dtype: Annotated[Dtype, "of the weights"] = "float32"
    guidance_scale: Annotated[NonNegative, "of classifier-free guidance; 1 is none"] | None = 1.0
    null_class: Annotated[Whole, "the label that means no class, for guidance"] | None = None
    options: Annotated[Mapping[str, Any], "further arguments of the pipeline's call"] = field(default_factory=dict)
    revision: Annotated[str, "of the hub's repository"] | None = None
    text_cache: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.is_local:
            check_folder(self.folder)
            check_options(self._pipeline_class(), self.options)

    def _pipeline_class(self) -> Any:
        """The pipeline's class, as a local folder names it."""
        return getattr(diffusers, json.loads((self.folder / "model_index.json").read_text())["_class_name"])

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise RequestError for a sampler of another family than the model's, where a local folder tells."""
        file = self.folder / "scheduler" / "scheduler_config.json"
        if self.is_local and file.is_file():
            config = json.loads(file.read_text())
            sampler.check(getattr(diffusers, config["_class_name"]), config)

    @property
    def folder(self) -> Path:
        return folder_of(self.path)

    @property
    def is_local(self) -> bool:
        """A hub id has the form owner/name and no such folder stands here."""
        looks_like_hub = self.path.count("/") == 1 and not self.path.startswith((".", "/", "~", ASSETS))
        return self.folder.exists() or not looks_like_hub

    def image_shape(self) -> tuple[int, int, int] | None:
        """C, H, W of its images where a local folder tells; None where only loading can."""
        if not self.is_local:
            return None
        height, width = self.options.get("height"), self.options.get("width")
        asked = isinstance(height, int) and isinstance(width, int)
        return (3, height, width) if asked else shape_of_images(self.folder)  # type: ignore[return-value]

    def fingerprint(self) -> dict[str, Any]:
        """What decides its images: where it came from, the weights themselves, precision and guidance."""
        asked = {
            "path": self.path,
            "revision": self.revision,
            "dtype": self.dtype,
            "guidance_scale": self.guidance_scale,
        }
        weights = sorted(self.folder.rglob("*.safetensors")) if self.is_local else []
        files = {str(file.relative_to(self.folder)): file_fingerprint(file) for file in weights}
        inputs = files_of(self._pipeline_class(), self.options) if self.is_local else []
        return {
            "name": self.name,
            **asked,
            "null_class": self.null_class,
            "options": dict(self.options),
            "weights": files,
        } | ({"inputs": {str(file): file_fingerprint(file) for file in inputs}} if inputs else {})

    def load(self, device: str) -> DiffusionModel:
        """The pipeline on `device`. Only safetensors are read; nothing is ever unpickled."""
        diffusers.utils.logging.disable_progress_bar()
        source = str(self.folder) if self.is_local else self.path
        try:
            with any_denoiser_expected():
                pipeline = DiffusionPipeline.from_pretrained(
                    source,
                    dtype=DTYPES[self.dtype],
                    use_safetensors=True,
                    local_files_only=self.is_local,
                    revision=self.revision,
                )
        except (OSError, ValueError, SafetensorError) as error:
            raise RequestError("model.path", self.path, f"could not be loaded: {_first_line(error)}") from error
        return self._model(pipeline, self._prompts()).to(device)

    def outline(self) -> DiffusionModel:
        """The model by its configurations alone: networks without weights, no text encoders. It cannot draw."""
        where = {"local_files_only": self.is_local, "revision": self.revision}
        return self._model(pipeline_outline(str(self.folder) if self.is_local else self.path, where), PromptStore())

    def _model(self, pipeline: Any, prompts: PromptStore) -> DiffusionModel:
        return DiffusionModel(
            pipeline,
            name=self.name,
            guidance_scale=self.guidance_scale,
            null_class=self.null_class,
            options=self.options,
            prompts=prompts,
        )

    def _prompts(self) -> PromptStore:
        """Where encoded prompts are kept: below `text_cache`, apart for every set of encoders."""
        folders = [part for part in self.folder.glob("t*") if part.is_dir()] if self.is_local else []
        files = sorted(file for part in folders if not part.name.startswith("transformer") for file in part.rglob("*"))
        weights = {str(file.relative_to(self.folder)): file_fingerprint(file) for file in files if file.is_file()}
        origin = fingerprint({"path": self.path, "revision": self.revision, "dtype": self.dtype, "encoders": weights})
        return PromptStore(None if self.text_cache is None else Path(self.text_cache), origin)


def pipeline_outline(source: str, where: Mapping[str, Any]) -> Any:
    """A pipeline whose networks of diffusers hold meta tensors; what comes from other libraries is None."""
    index = DiffusionPipeline.load_config(source, **where)
    parts: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), init_empty_weights():
        for name, entry in index.items():
            if isinstance(entry, list):
                parts[name] = _described(str(entry[-1]), source, {"subfolder": name, **where})
    settings = {name: value for name, value in index.items() if name not in parts and not name.startswith("_")}
    with any_denoiser_expected():
        return getattr(diffusers, index["_class_name"])(**parts, **settings)


def _described(name: str, source: str, where: Mapping[str, Any]) -> Any:
    """A network or a scheduler of diffusers as its configuration has it; None for anything else."""
    kind: Any = getattr(diffusers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, ModelMixin | SchedulerMixin):
        return None
    return kind.from_config(kind.load_config(source, **where))  # type: ignore[attr-defined]


@contextmanager
def any_denoiser_expected() -> Iterator[None]:
    """diffusers' plain pipeline warns where its `unet` is a transformer; what we read takes any denoiser."""
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")

    def passes(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Expected types for unet")

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_folder(folder: Path) -> None:
    """Raise unless `folder` is a diffusers pipeline whose weights are whole safetensors."""
    index = folder / "model_index.json"
    if not index.is_file():
        why = "has no model_index.json" if folder.is_dir() else "does not exist"
        raise RequestError("path", folder, f"a diffusers pipeline folder is accepted, this {why}")
    try:
        components = json.loads(index.read_text())
    except json.JSONDecodeError as error:
        raise RequestError("path", index, f"model_index.json is not JSON ({error})") from error
    if not hasattr(diffusers, str(components.get("_class_name"))):
        known = "the name of a diffusers pipeline"
        raise RequestError("path", index, f"_class_name is {components.get('_class_name')!r}; {known} is accepted")
    for part in ("unet", "transformer"):
        if part in components:
            check_weights(folder / part)
    for file in sorted(folder.rglob("*.safetensors")):
        check_safetensors(file)


def check_weights(folder: Path) -> None:
    """Raise unless the component's weights are safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = [file.name for file in sorted(folder.glob("*")) if file.suffix in PICKLES]
    why = f"holds only {pickles[0]}, a pickle, which is never loaded" if pickles else "holds no weights"
    raise RequestError("path", folder, f"safetensors weights are accepted; this {why}")


def check_safetensors(file: Path) -> None:
    """Raise unless the header and the length of a safetensors file agree."""
    try:
        with safe_open(file, framework="pt") as content:
            content.keys()
    except (SafetensorError, OSError) as error:
        raise RequestError("path", file, f"is not a whole safetensors file ({_first_line(error)})") from error


def shape_of_images(folder: Path) -> tuple[int, int, int] | None:
    """C, H, W from the configurations in a diffusers folder."""
    configs = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/config.json")}
    denoiser = configs.get("unet") or configs.get("transformer") or {}
    size, channels = denoiser.get("sample_size"), denoiser.get("in_channels")
    if size is None or channels is None:
        return None
    decoder = configs.get("vae") or configs.get("vqvae")
    height, width = (size, size) if isinstance(size, int) else size
    if decoder is None:
        return channels, height, width
    factor = 2 ** (len(decoder.get("block_out_channels", [1])) - 1)
    return decoder.get("out_channels", 3), height * factor, width * factor


def bare_ddim(folder: Path) -> Any:
    """diffusers' own DDIM pipeline over a saved pixel model, silent: what a run's sampling is compared with."""
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
