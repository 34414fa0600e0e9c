"""The settings that belong to no group: where a run is kept, what is random, what it runs on, what makes a study."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from parediff.errors import RequestError
from parediff.validation import LARGEST_SEED, WIDTHS, Count, Dtype, Form, Seed, check_types, fits

NAME = re.compile(r"[^\s./\\\0][^/\\\0]*")
"""A folder of a study's name: no separators, no leading dot or blank."""
DEVICE = Form(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<index>")
PACKAGE_NAME = Form(r"[A-Za-z_]\w*", "the name of a package")


def check_seed(seed: Any) -> None:
    """Raise RequestError for what is no seed; other settings are computed from it."""
    if not fits(seed, Seed):
        raise RequestError("seed", seed, f"a whole number from 0 to {LARGEST_SEED} is accepted")


@dataclass(frozen=True)
class Kept:
    """Where something is kept and what it runs on. Checked as it is constructed; RequestError names the first wrong."""

    study: Annotated[str, "a name; folders in it are separated by /"]
    runs_dir: Annotated[str, "the folder in which studies lie"]
    seed: Seed
    threads: Count | None
    allow: tuple[Annotated[str, PACKAGE_NAME], ...]

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_types(self)
        if not all(NAME.fullmatch(part) for part in self.study.split("/")):
            raise RequestError("study", self.study, "a name such as bits or tdq/ptq is accepted")
        self._check_folder()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a resolved config."""
        own: dict[str, Any] = {field.name: values[field.name] for field in fields(cls)}
        own |= {key: tuple(value) for key, value in own.items() if isinstance(value, list)}
        return cls(**own)

    @property
    def study_folder(self) -> Path:
        return Path(self.runs_dir) / self.study

    def _check_folder(self) -> None:
        """That the study's folder is there or can be made."""
        nearest = self.study_folder.expanduser().absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise RequestError("runs_dir", self.runs_dir, f"a folder that can be written to; {nearest} cannot")


@dataclass(frozen=True)
class Settings(Kept):
    """Of runs and studies."""

    resume: Annotated[bool | Literal["failed"], "skip what is finished; failed: and repeat only what failed"]
    save: bool
    device: Annotated[str, DEVICE]
    devices: Annotated[Count, "so many of them draw the images"]
    seeds: Count
    points: tuple[Any, ...] | None
    fewer_steps: Mapping[str, Any] | None
    bits: Annotated[str, WIDTHS] | None
    latency: Mapping[str, Any]
    front: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_front()
        self._check_device()

    @property
    def present_device(self) -> str:
        """'cuda' where there is one, else 'cpu', for auto."""
        if self.device != "auto":
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def _check_front(self) -> None:
        for key, value in self.front.items():
            if key not in ("x", "y"):
                raise RequestError(f"front.{key}", value, "no such key; x and y are accepted")
            if not fits(value, str | None):
                raise RequestError(f"front.{key}", value, "the name of a cost or a metric, or null, is accepted")

    def _check_device(self) -> None:
        if self.devices > 1:
            self._check_devices()
        if not self.device.startswith("cuda"):
            return
        import torch

        count = torch.cuda.device_count()
        if int(self.device.partition(":")[2] or 0) >= count:
            raise RequestError("device", self.device, f"{count} CUDA devices are present; auto or cpu is accepted")

    def _check_devices(self) -> None:
        import torch

        present = torch.cuda.device_count() if self.present_device.startswith("cuda") else self.devices
        if self.devices > present or ":" in self.device:
            raise RequestError("devices", self.devices, f"1 to {present} is accepted; the run takes the first")


@dataclass(frozen=True)
class TrainSettings(Kept):
    """Of trainings."""

    output: Annotated[str, "the folder of the training"]
    ckpt_path: Annotated[str, "a checkpoint, or last"] | None
    saved_dtype: Annotated[Dtype, "of the weights in the folder"]
