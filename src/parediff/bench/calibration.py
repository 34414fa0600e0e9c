"""calibration: seconds and memory of calibrating a network, against how many images it is calibrated on.

The network has the architecture of its config and random weights: neither seconds nor memory depend on what it learned.
Trajectories are recorded as a run records them, batch by batch into a file, and the method calibrates on them. Memory
is what all tensors hold at one moment, parameters included; seconds include the book that is kept of it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parediff.bench.settings import settings_from, threads
from parediff.calibration.base import LazyCalls
from parediff.calibration.trajectories import Trajectories
from parediff.config.compose import Composer
from parediff.config.request import Request, build, construct
from parediff.cost import peak_memory
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.validation import check_types, require

NETWORKS = ("ddpm_digits", "unet_cifar10", "dit_cifar10")
MEMORY_LIMIT = 1.25
"""The peak with the most images over the peak with the fewest, which do not fill all reservoirs yet."""


@dataclass(frozen=True)
class Settings:
    """So many `images`, the fewest first, drawn in `steps` steps whose calls are all kept; `output` is a JSON file."""

    network: str = "unet_cifar10"
    method: str = "ptq"
    images: tuple[int, ...] = (64, 256, 1024)
    steps: int = 25
    output: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(self.network in NETWORKS, "network", self.network, " or ".join(NETWORKS))
        ascending = list(self.images) == sorted(set(self.images)) and min(self.images, default=0) >= 1
        require(ascending, "images", self.images, "one number or more, the fewest first, each 1 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")


@dataclass(frozen=True)
class Row:
    """Seconds, and the most memory that tensors held at one moment."""

    images: int
    recording_s: float
    calibrating_s: float
    peak_mb: float


def main(overrides: list[str], console: Any) -> int:
    """Print a row for each number of images; 1 where memory grows with them."""
    settings = settings_from(Settings, overrides)
    with threads(1):
        rows = list(measure(settings))
    console.print(_table(rows, settings))
    if settings.output:
        Path(settings.output).write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return 0 if rows[-1].peak_mb <= MEMORY_LIMIT * rows[0].peak_mb else 1


def measure(settings: Settings) -> Iterator[Row]:
    """The numbers of images in turn, on one model."""
    with tempfile.TemporaryDirectory(prefix="parediff-bench-") as folder:
        request = _request(settings, folder)
        model: DiffusionModel = request.model.load("cpu")
    for images in settings.images:
        yield _measured(request, model, settings.method, images)


def _request(settings: Settings, folder: str) -> Request:
    """A run of the method on the network, which lies in the folder then."""
    chosen = [f"model={settings.network}", f"model.path={folder}", f"method=[{settings.method}]", "metric=[psnr]"]
    drawn = [f"sampler.steps={settings.steps}", f"calibration.steps={settings.steps}", "calibration.batch_size=64"]
    config = Composer("config").compose(["tracker=none", "cost=[]", *chosen, *drawn])
    construct(config.model.architecture, "model.architecture").save(Path(folder), "none")
    return build(config)


def _measured(request: Request, model: DiffusionModel, name: str, images: int) -> Row:
    method = request.methods[name]
    assert isinstance(request.calibration, Trajectories)
    calls = LazyCalls(replace(request.calibration, count=images), model, request.sampler)
    student = model.copy()
    with peak_memory(model.device, model.denoiser, student.denoiser) as peak:
        next(iter(calls))  # records them all before the first comes
        start = time.perf_counter()
        method.prepare(student)
        method.calibrate(student, calls)
    return Row(images, calls.seconds, time.perf_counter() - start, peak.bytes / 2**20)


def _table(rows: list[Row], settings: Settings) -> Any:
    from rich.table import Table

    table = Table(title=f"{settings.method}, {settings.network}, {settings.steps} steps, 1 thread")
    for heading in ("images", "recording s", "calibrating s", "calibrating / recording", "peak MB", "over the first"):
        table.add_column(heading)
    for row in rows:
        seconds = f"{row.recording_s:.1f}", f"{row.calibrating_s:.1f}", f"{row.calibrating_s / row.recording_s:.2f}"
        table.add_row(str(row.images), *seconds, f"{row.peak_mb:.0f}", f"{row.peak_mb / rows[0].peak_mb:.2f}")
    return table
