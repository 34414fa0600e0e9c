"""The settings of a run that belong to no group: where it is kept, what is random, what it runs on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from parediff.errors import RequestError
from parediff.validation import check_types, require

LARGEST_SEED = 2**31 - 1
NAME = re.compile(r"[^\s./\\\0][^/\\\0]*")
"""A folder of a study's name: no separators, no leading dot or blank."""


def check_seed(seed: Any) -> None:
    """Raise RequestError for what is no seed; other settings are computed from it."""
    fits = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= LARGEST_SEED
    require(fits, "seed", seed, f"a whole number from 0 to {LARGEST_SEED}")


@dataclass(frozen=True)
class Settings:
    """Checked as they are constructed; RequestError names the first that is wrong."""

    study: str  # a name; folders in it are separated by /
    runs_dir: str  # where studies lie
    resume: bool | Literal["failed"]  # skip what is finished; failed: and repeat only what failed
    save: bool  # keep the compressed model
    seed: int  # of whatever is trained
    device: str  # auto, cpu, cuda or cuda:<index>
    threads: int | None  # CPU threads; null leaves it to torch

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_types(self)
        if not all(NAME.fullmatch(part) for part in self.study.split("/")):
            raise RequestError("study", self.study, "a name such as bits or tdq/ptq is accepted")
        require(
            self.threads is None or self.threads >= 1, "threads", self.threads, "a whole number of at least 1, or null,"
        )
        self._check_folder()
        self._check_device()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """From a resolved config."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    @property
    def present_device(self) -> str:
        """'cuda' where there is one, else 'cpu', for auto."""
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

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

    def _check_device(self) -> None:
        if self.device == "auto":
            return
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise RequestError("device", self.device, "auto, cpu, cuda or cuda:<index> is accepted") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise RequestError("device", self.device, f"{count} CUDA devices are present; auto or cpu is accepted")
