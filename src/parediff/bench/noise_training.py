"""noise training: what a step of NIPQ costs over a full-precision step, for either noise and in either phase."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parediff.bench.settings import settings_from, threads
from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.cost import paired_latency
from parediff.models.classifiers.build import build
from parediff.models.classifiers.model import ClassifierModel
from parediff.quantization.budget import AverageBits, Budget
from parediff.quantization.noise import quantizers
from parediff.training.objectives import Classify
from parediff.validation import check_types, require


@dataclass(frozen=True)
class Settings:
    """ResNet-`depth` of CIFAR, random weights and images, one thread; seconds are the processor's own."""

    depth: int = 20
    batch: int = 32
    repeats: int = 6
    output: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.repeats >= 2, "repeats", self.repeats, "2 or more")


@dataclass(frozen=True)
class Row:
    """One kind of step against the full-precision step beside it."""

    step: str
    full_s: float
    seconds: float
    ratio: float
    spread: float


def main(overrides: Sequence[str], console: Any) -> int:
    """Print one row for each kind of step; nothing is claimed, so nothing can fail."""
    settings = settings_from(Settings, overrides)
    with threads(1):
        rows = [_row(name, noise, rounds, settings) for name, noise, rounds in KINDS]
    for row in rows:
        console.print(f"{row.step:<18} {row.seconds:.3f} s, full precision {row.full_s:.3f} s: {row.ratio:.2f} times")
    if settings.output:
        Path(settings.output).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


KINDS = (("uniform noise", "uniform", False), ("histogram noise", "histogram", False), ("rounding", "uniform", True))


def _row(name: str, noise: str, rounds: bool, settings: Settings) -> Row:
    torch.manual_seed(0)
    model = ClassifierModel(build("CifarResNet", {"depth": settings.depth, "classes": 10}), name="resnet")
    images, labels = torch.rand(settings.batch, 3, 32, 32) * 2 - 1, torch.arange(settings.batch) % 10
    noisy, budget = _pseudo_quantised(model, images, noise, rounds=rounds)
    pair = paired_latency(
        _step(model.copy(), None, images, labels),
        _step(noisy, None if rounds else budget, images, labels),
        repeats=settings.repeats,
        warmup=1,
        clock=time.process_time,
    )
    return Row(name, pair.first_s, pair.second_s, pair.ratio, pair.ratio_spread)


def _pseudo_quantised(
    model: ClassifierModel, images: Tensor, noise: str, *, rounds: bool
) -> tuple[ClassifierModel, Budget]:
    student = model.copy()
    config = Composer("config").compose(["method=[nipq]", f"methods.nipq.noise={noise}"])
    nipq = construct(config.methods.nipq, "methods.nipq")
    nipq.prepare(student)
    nipq.calibrate(student, [student.call(images)])
    budget = AverageBits(student.denoiser, 4.0, strength=1.0, unit=None)
    for quantizer in quantizers(student.denoiser) if rounds else ():
        quantizer.freeze()
    return student, budget


def _step(model: ClassifierModel, budget: Budget | None, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward, backward and update of all parameters, without a teacher."""
    network = model.denoiser.train().requires_grad_(True)
    objective = Classify(torch.nn.Identity(), distillation=0.0, shift=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss = objective.loss(network, (images, labels), torch.Generator())
        (loss if budget is None else loss + budget.penalty().to(loss)).backward()
        optimizer.step()

    return step
