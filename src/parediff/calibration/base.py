"""Calibration data: calls recorded at the denoiser's door, and nothing else."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parediff.atomic import write_atomically
from parediff.calibration.store import CallStore
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, Visit, observing
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.results.interruption import safe_point
from parediff.validation import check_types

OWN = "a source that follows the model's own trajectories, as uniform, is accepted"


@dataclass(frozen=True)
class CalibrationSource(ABC):
    """Where calibration data comes from. Final ones are `CallSource`s, for denoisers, or `ImageSource`s, or both."""

    def __post_init__(self) -> None:
        check_types(self)

    @property
    @abstractmethod
    def seeds(self) -> range:
        """The seeds it uses; evaluation may use none of them."""


@dataclass(frozen=True)
class CallSource(CalibrationSource):
    """Calls of a denoiser, part by part, so that no more than one batch of trajectories is in memory."""

    def begun(self, fit: Callable[[str, Any, int], None], tell: Callable[[Mapping[str, Any]], None]) -> CallSource:
        """The source with a way to train what it needs, and to tell the record what it finds; most need neither."""
        return self

    @abstractmethod
    def parts(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Callable[[], Iterable[Call]]]:
        """What records each batch, none of which depends on another: of `model` as it runs when it is called."""

    def walk(self, model: DiffusionModel, sampler: Sampler, visit: Visit) -> int:
        """Draw all images at once; at every step `visit` fits what it fits, and only then it goes on. The rows met.

        Whatever the pipeline does around its denoiser (guidance, scaling, noise of its own) is done as in any run.
        """
        raise RequestError("calibration", type(self).__name__, OWN)

    def drawn(self, model: DiffusionModel, sampler: Sampler, images: int) -> Tensor:
        """The first `images` of its images, as `model` draws them now: [B, C, H, W] or [B, F, C, H, W] in [0, 1]."""
        raise RequestError("calibration", type(self).__name__, OWN)

    def record(self, model: DiffusionModel, sampler: Sampler) -> Iterator[Call]:
        """Calls of `model` as it runs now; lazy."""
        for part in self.parts(model, sampler):
            yield from part()


def walk(calls: Iterable[Call], model: DiffusionModel, sampler: Sampler, visit: Visit) -> None:
    """Fit along the model's own trajectories: each step sees what the steps before it did."""
    _drawing(calls).walk(model, sampler, visit)


def drawn(calls: Iterable[Call], model: DiffusionModel, sampler: Sampler, images: int) -> Tensor:
    """The first `images` that the calibration's seeds give, as `model` draws them now."""
    return _drawing(calls).drawn(model, sampler, images)


def _drawing(calls: Iterable[Call]) -> LazyCalls:
    if not isinstance(calls, LazyCalls):
        raise RequestError("calibration", type(calls).__name__, "calls of a source that can draw anew are accepted")
    return calls


class LazyCalls:
    """Calls that are recorded when first asked for, and stay the same after: in a file, not in memory.

    `seconds` the recording took, and `rows` it gave; 0 before. Below `folder` lie the file and the parts that are
    recorded, for a process that goes on; without one nothing outlives the object.
    """

    def __init__(self, source: CallSource, model: DiffusionModel, sampler: Sampler, folder: Path | None = None) -> None:
        self._source, self._model, self._sampler, self._folder = source, model, sampler, folder
        self._calls: CallStore | None = None
        self.seconds, self.rows = 0.0, 0

    def __iter__(self) -> Iterator[Call]:
        if self._calls is None:
            start, calls = time.perf_counter(), CallStore(self._folder)
            for place, part in enumerate(self._source.parts(self._model, self._sampler)):
                for call in self._part(place, part):
                    calls.append(call)
                    self.rows += len(call.x)
            self._calls, self.seconds = calls, time.perf_counter() - start
        return iter(self._calls)

    def walk(self, model: DiffusionModel, sampler: Sampler, visit: Visit) -> None:
        """The source's own walk, of `model`, counted."""
        self.rows += self._source.walk(model, sampler, visit)

    def drawn(self, model: DiffusionModel, sampler: Sampler, images: int) -> Tensor:
        """The source's own images; every row that reaches the network is counted, in both branches of guidance."""

        def count(call: Call, _: Tensor) -> None:
            self.rows += len(call.x)

        with observing(model, count):
            return self._source.drawn(model, sampler, images)

    def _part(self, place: int, record: Callable[[], Iterable[Call]]) -> Iterable[Call]:
        """The calls of one part, from disk where an earlier process recorded it."""
        if self._folder is None:
            return record()
        path = self._folder / f"part_{place}.pt"
        if path.is_file():
            return [Call(*fields) for fields in torch.load(path, weights_only=True)]
        calls, content = list(record()), io.BytesIO()
        torch.save([(call.x, call.t, dict(call.cond), call.step) for call in calls], content)
        write_atomically(path, content.getvalue())
        safe_point()
        return calls
