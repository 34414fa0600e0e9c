"""A model that an earlier run compressed and kept: loaded, sampled, judged and compressed further like any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf

from parediff.config.catalogue import targets, targets_in
from parediff.config.construct import construct
from parediff.config.request import model_from
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.classifiers.imported import is_known
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import load_state, restore
from parediff.provenance import file_fingerprint
from parediff.results.record import STATE
from parediff.validation import check_types

CONFIG = "config.yaml"


@dataclass(frozen=True)
class SavedRun:
    """The folder of a run with `save=true`; what it draws is bit for bit what that run drew.

    Raises RequestError where the folder holds no kept model, or asks for a class that is none of the package's.
    """

    name: Annotated[str, "what records call it"]
    path: Annotated[str, "the folder of a run with save=true: runs/<study>/<id>"]

    def __post_init__(self) -> None:
        check_types(self)
        if not (self.folder / CONFIG).is_file() or not (self.folder / STATE).is_file():
            raise RequestError("path", self.path, "the folder of a run with save=true: runs/<study>/<id>")
        for target in targets_in([self.config.get("model"), self.config.get("methods")]):
            if target not in targets():
                raise RequestError("path", self.path, f"a run of classes that ship; {target} is none")

        network = OmegaConf.select(self.config, "model.target", default=None)
        if network is not None and not is_known(str(network)):
            raise RequestError("path", self.path, f"a run of a library's network; {network} is none")

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    @cached_property
    def config(self) -> DictConfig:
        """As the run resolved it."""
        try:
            config = OmegaConf.load(self.folder / CONFIG)
        except (OSError, ValueError) as error:
            raise RequestError("path", self.folder / CONFIG, "a readable config") from error
        if not isinstance(config, DictConfig) or "model" not in config:
            raise RequestError("path", self.folder / CONFIG, "a run's config")
        return config

    @cached_property
    def uncompressed(self) -> Any:
        """Where the run's model came from."""
        return model_from(self.config.model)

    @cached_property
    def methods(self) -> Mapping[str, Method]:
        return {name: construct(node, f"methods.{name}") for name, node in (self.config.get("methods") or {}).items()}

    def image_shape(self) -> tuple[int, int, int] | None:
        return self.uncompressed.image_shape()

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise RequestError for a sampler that was not made for such a model."""
        if hasattr(self.uncompressed, "check_sampler"):
            self.uncompressed.check_sampler(sampler)

    def fingerprint(self) -> dict[str, Any]:
        """What decides its outputs: the model it was, the methods, and the tensors that were kept."""
        return {
            "uncompressed": self.uncompressed.fingerprint(),
            "methods": OmegaConf.to_container(self.config.get("methods") or OmegaConf.create({})),
            "state": file_fingerprint(self.folder / STATE),
        }

    def outline(self) -> Any:
        """The model with the structure that its methods gave it, and without weights."""
        model = self.uncompressed.outline()
        model.name = self.name
        for method in self.methods.values():
            method.prepare(model)
        return model

    def load(self, device: str) -> Any:
        """The compressed model on `device`."""
        model = self.uncompressed.load(device)
        model.name = self.name
        restore(model, self.methods, load_state(self.folder / STATE))
        model.denoiser.to(device)
        return model
