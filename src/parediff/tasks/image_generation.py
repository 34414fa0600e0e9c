"""Images drawn from seeds and conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from parediff.calibration.base import CallSource, LazyCalls
from parediff.calibration.images import Fit
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.sampling.batch import Batch
from parediff.sampling.blocks import Blocks
from parediff.sampling.images import images
from parediff.tasks.base import Calibrated, Task


class RecordedCalls(Calibrated):
    """Calls of the model that asks for them; methods that train learn from the run's own data."""

    def __init__(
        self, source: CallSource, sampler: Sampler, data: Callable[[], Any], folder: Path | None, fit: Fit
    ) -> None:
        self._told: dict[str, Any] = {}
        self._source, self._sampler = source.begun(fit, self._told.update), sampler
        self._data, self._folder = data, folder
        self._recorded: list[LazyCalls] = []

    @property
    def seconds(self) -> float:
        return sum(calls.seconds for calls in self._recorded)

    @property
    def samples(self) -> int:
        return sum(calls.rows for calls in self._recorded)

    def told(self) -> dict[str, Any]:
        return self._told

    def calls(self, model: DiffusionModel) -> Iterable[Call]:
        self._recorded.append(LazyCalls(self._source, model, self._sampler, self._folder))
        return self._recorded[-1]

    def learned_from(self) -> Any:
        return self._data()

    def pictures(self) -> Tensor | None:
        return None


@dataclass(frozen=True)
class ImageGeneration(Task):
    """The reference is the uncompressed model with a sampler of its own and the same seeds."""

    judges: ClassVar[Literal["images", "classes"]] = "images"
    accepts: ClassVar[type[Any]] = CallSource
    measured_by: ClassVar[tuple[str, ...]] = ("parediff.sampling.images", "parediff.pipeline.evaluate")

    @property
    def count(self) -> int:
        return self.workload.count

    @property
    def at_once(self) -> int:
        return len(next(self.workload.batches())[0])

    def protocol(self) -> dict[str, Any]:
        return {
            "workload": {"count": self.workload.count, "conditions": self.workload.labels},
            "reference": asdict(self.reference),
        }

    def stated(self) -> dict[str, Any]:
        workload, sampler = self.workload, self.sampler
        return {
            "sampler": {"name": sampler.name, "steps": sampler.steps, "eta": sampler.eta},
            "workload": {
                "first_seed": workload.first_seed,
                "count": workload.count,
                "conditions": workload.conditions,
            },
        }

    def check_asked(self, model: DiffusionModel) -> None:
        model.check_conditions(self.workload.labels)
        model.check_options()

    def calibrated(self, teacher: DiffusionModel, fit: Fit, folder: Path | None = None) -> Calibrated:
        assert isinstance(self.calibration, CallSource)
        return RecordedCalls(self.calibration, self.sampler, self.data, folder, fit)

    def batches(self, model: DiffusionModel, *, as_reference: bool, blocks: Blocks | None = None) -> Iterator[Batch]:
        return images(model, self.workload, self.reference if as_reference else self.sampler, blocks)

    def few(self, model: DiffusionModel, count: int, *, as_reference: bool) -> Callable[[], Any]:
        sampler = self.reference if as_reference else self.sampler
        seeds, given = next(self.workload.batches())
        conditions = given if given is not None else model.conditions_for(seeds)
        return lambda: model.generate(seeds[:count], conditions and conditions[:count], sampler)
