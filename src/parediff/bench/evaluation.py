"""What judging a model costs beside the model: the share of seconds that neither network nor extractor takes.

Images are drawn and judged as a run does it: seeds, sampler, rounding, metrics with their errors over seed blocks.
Seconds are the processor's own, of one thread; a part that works (a denoiser, the rest of its pipeline, an extractor)
is timed at its door. The network is a tiny one, beside which the line's own work shows most.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from parediff.bench.settings import settings_from, threads
from parediff.config.compose import Composer
from parediff.config.request import Request, build
from parediff.pipeline.evaluate import evaluate
from parediff.validation import Share, check_types, require

DIGITS = ("model=ddpm_digits", "metric=[fd_digits,kd_digits,psnr,ssim]")
PARTS = ("vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Of a pipeline beside its denoiser."""


@dataclass(frozen=True)
class Settings:
    """Images, steps of the sampler, and the share that is allowed."""

    count: int = 500
    steps: int = 50
    limit: Share = 0.05
    output: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(self.count >= 8, "count", self.count, "8 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")


@dataclass(frozen=True)
class Row:
    """Seconds of one case: all of them, the networks' and the extractors', and the share that is left."""

    case: str
    seconds: float
    networks_s: float
    extractors_s: float

    @property
    def share(self) -> float:
        return 1 - (self.networks_s + self.extractors_s) / self.seconds


def main(overrides: Sequence[str], console: Any) -> int:
    """Print a row; 1 where more than the limit is spent outside."""
    settings = settings_from(Settings, overrides)
    with threads(1):
        row = measured("digits", [*DIGITS, f"workload.count={settings.count}", f"sampler.steps={settings.steps}"])
    told = f"network {row.networks_s:.2f} s, extractors {row.extractors_s:.2f} s"
    console.print(f"{row.case:<10} {row.seconds:.2f} s, {told}: {row.share:.1%} outside (limit {settings.limit:.0%})")
    if settings.output:
        Path(settings.output).write_text(json.dumps([asdict(row) | {"share": row.share}], indent=2) + "\n")
    return 0 if row.share <= settings.limit else 1


def measured(case: str, overrides: Sequence[str]) -> Row:
    """One evaluation after a warm-up of a few images."""
    request = build(Composer("config").compose(["tracker=none", "cost=[]", *overrides]))
    model = request.model.load("cpu")
    reference = np.random.default_rng(0).integers(0, 256, (request.workload.count, *model.sample_shape), dtype=np.uint8)
    for metric in request.metrics.values():
        metric.check(request.workload.labels, model.sample_shape)  # reads weights and the reference set
    request.task.few(model, 2, as_reference=False)()
    networks, extractors = Clock(), Clock()
    with networks.on_networks(model), extractors.on_extractors(request):
        start = time.process_time()
        evaluate(request.task, model, request.metrics, {}, reference, lambda _: None)
        seconds = time.process_time() - start
    return Row(case, seconds, networks.seconds, extractors.seconds)


class Clock:
    """Processor seconds spent within what it is put on."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0

    @contextmanager
    def on_networks(self, model: Any) -> Iterator[None]:
        parts = [model.denoiser, *(getattr(model.pipeline, name, None) for name in PARTS)]
        with ExitStack() as stack:
            for part in parts:
                if isinstance(part, torch.nn.Module):
                    stack.callback(part.register_forward_pre_hook(self._begin).remove)
                    stack.callback(part.register_forward_hook(self._end).remove)
            yield

    @contextmanager
    def on_extractors(self, request: Request) -> Iterator[None]:
        found = {id(own): own for metric in request.metrics.values() if (own := getattr(metric, "extractor", None))}
        with ExitStack() as stack:
            for extractor in found.values():
                stack.enter_context(mock.patch.object(extractor, "features", self._timed(extractor.features)))
            yield

    def _begin(self, *_: Any) -> None:
        self._began = time.process_time()

    def _end(self, *_: Any) -> None:
        self.seconds += time.process_time() - self._began

    def _timed(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(images: Any) -> Any:
            self._begin()
            try:
                return work(images)
            finally:
                self._end()

        return timed
