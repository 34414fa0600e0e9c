"""quantization: tables against static intervals, W8A8 against full precision, calibration against a plain pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from parediff.bench.settings import settings_from, threads
from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.cost import Latency, paired_latency
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.synthetic import cifar_model
from parediff.pipeline.compress import compress
from parediff.validation import check_types, require


def digits_model() -> DiffusionModel:
    """The model that ships."""
    return PretrainedPipeline(name="ddpm_digits", path="assets://ddpm_digits").load("cpu")


NETWORKS: dict[str, Callable[[], DiffusionModel]] = {"cifar": cifar_model, "digits": digits_model}
TABLE_LIMIT, SIMULATION_AIM = 1.02, 1.2
"""A table may cost 2 % of a forward; simulated quantisation is aimed at 20 %, and its ratio only reported."""
CALIBRATION_AIMS = {"ptq": 3.0, "tdq": 6.0}
"""Calibrating is aimed at so many times a plain pass through the same calls."""
CALIBRATION_STEPS = 25


@dataclass(frozen=True)
class Settings:
    """`repeats` alternating pairs of one forward of `batch` images; `output` is a JSON file.

    `compiled`: simulated against full precision once more, both by torch.compile, which takes minutes and a compiler.
    `calibration_images` trajectories of 25 calls are calibrated on, in two pairs; 0: calibration is not measured.
    """

    network: str = "cifar"
    batch: int = 1
    calibration_images: int = 0
    compiled: bool = False
    repeats: int = 20
    threads: int = 1
    output: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(self.network in NETWORKS, "network", self.network, " or ".join(NETWORKS))
        require(self.calibration_images >= 0, "calibration_images", self.calibration_images, "0 or more")
        for key in ("batch", "threads"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.repeats >= 2, "repeats", self.repeats, "2 or more")


@dataclass(frozen=True)
class Row:
    """Seconds of one forward of both sides of a pair."""

    pair: str
    limit: float
    held: bool
    latency: Latency


def main(overrides: list[str], console: Any) -> int:
    """Measure both pairs, print the table; 1 where the table costs more than its limit."""
    settings = settings_from(Settings, overrides)
    with threads(settings.threads):
        rows = list(measure(settings))
    console.print(_table(rows, settings))
    if settings.output:
        Path(settings.output).write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return 0 if all(row.latency.ratio <= row.limit for row in rows if row.held) else 1


def measure(settings: Settings) -> Iterator[Row]:
    """Pairs on the same network and input."""
    model = NETWORKS[settings.network]()
    calls = _calls(model, settings.batch, 2)
    common = {"weight_bits": 8, "activation_bits": 8, "activation_search": "minmax", "weight_search": "minmax"}
    static = _compressed(model, calls, "ptq", common)
    timed = _compressed(model, calls, "tdq", common | {"generator.iterations": 1, "sampler": "null"})
    for pair, first, second, limit, held in (
        ("tdq (tables) / static", static, timed, TABLE_LIMIT, True),
        ("ptq W8A8 / full precision", model, static, SIMULATION_AIM, False),
    ):
        latency = paired_latency(_forward(first, calls[0]), _forward(second, calls[0]), settings.repeats, 2)
        yield Row(pair, limit, held, latency)
    if settings.compiled:
        whole, rounded = (_forward(_compiled(one), calls[0]) for one in (model, static))
        latency = paired_latency(whole, rounded, settings.repeats, 2)
        yield Row("the same, both compiled", SIMULATION_AIM, False, latency)
    if settings.calibration_images:
        recorded = _calls(model, settings.calibration_images, CALIBRATION_STEPS)
        for name, limit in CALIBRATION_AIMS.items():
            latency = paired_latency(_pass(model, recorded), _calibration(model, recorded, name), 2, 0)
            yield Row(f"calibrating {name} / its calls", limit, False, latency)


def _calls(model: DiffusionModel, batch: int, steps: int) -> list[Call]:
    """Noise at some time steps: what is timed does not depend on what the intervals are."""
    x = torch.randn(batch, *model.sample_shape, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(900, 100, steps).long()
    return [Call(x, t.expand(batch), {}, step) for step, t in enumerate(times)]


def _pass(model: DiffusionModel, calls: list[Call]) -> Callable[[], object]:
    return lambda: [_forward(model, call)() for call in calls]


def _calibration(model: DiffusionModel, calls: list[Call], name: str) -> Callable[[], object]:
    method = _method(name, {"weight_bits": 8, "activation_bits": 8, "sampler": "null"})

    def calibrate() -> None:
        student = model.copy()
        method.prepare(student)
        method.calibrate(student, calls)

    return calibrate


def _compressed(model: DiffusionModel, calls: list[Call], name: str, changes: Mapping[str, Any]) -> DiffusionModel:
    student = model.copy()
    compress(student, model, {name: _method(name, changes)}, lambda _: calls, lambda *_: None)
    return student


def _compiled(model: DiffusionModel) -> DiffusionModel:
    student = model.copy()
    student.denoiser.compile()
    return student


def _method(name: str, changes: Mapping[str, Any]) -> Method:
    overrides = [f"methods.{name}.{key}={value}" for key, value in changes.items()]
    config = Composer("config").compose([f"method=[{name}]", *overrides])
    method: Method = construct(config.methods[name], f"methods.{name}")
    return method


def _forward(model: DiffusionModel, call: Call) -> Callable[[], object]:
    def forward() -> object:
        with torch.no_grad():
            return model.predict(call.x, call.t, call.cond)

    return forward


def _table(rows: list[Row], settings: Settings) -> Any:
    from rich.table import Table

    title = f"{settings.network}, batch {settings.batch}, {settings.threads} thread, {settings.repeats} pairs"
    table = Table(title=title)
    for heading in ("second / first", "first s", "second s", "ratio", "limit", "drift"):
        table.add_column(heading)
    for row in rows:
        times = row.latency
        ratio = f"{times.ratio:.3f} ± {times.ratio_spread / 2:.3f}"
        limit = f"{row.limit:.2f}" + ("" if row.held else " (aim)")
        table.add_row(row.pair, f"{times.first_s:.4f}", f"{times.second_s:.4f}", ratio, limit, f"{times.drift:.2f}")
    return table
