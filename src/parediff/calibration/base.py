"""Calibration data: calls recorded at the denoiser's door, and nothing else."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from parediff.calibration.store import CallStore
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.validation import check_types


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
    """Calls of a denoiser. `record` is lazy, so that no more than one batch of trajectories is in memory."""

    @abstractmethod
    def record(self, model: DiffusionModel, sampler: Sampler) -> Iterable[Call]:
        """Calls of `model` as it runs now."""


class LazyCalls:
    """Calls that are recorded when first asked for, and stay the same after: in a file, not in memory.

    `seconds` the recording took, and `rows` it gave; 0 before. The file lies below `folder`.
    """

    def __init__(self, source: CallSource, model: DiffusionModel, sampler: Sampler, folder: Path | None = None) -> None:
        self._source, self._model, self._sampler, self._folder = source, model, sampler, folder
        self._calls: CallStore | None = None
        self.seconds, self.rows = 0.0, 0

    def __iter__(self) -> Iterator[Call]:
        if self._calls is None:
            start, calls = time.perf_counter(), CallStore(self._folder)
            for call in self._source.record(self._model, self._sampler):
                calls.append(call)
                self.rows += len(call.x)
            self._calls, self.seconds = calls, time.perf_counter() - start
        return iter(self._calls)
