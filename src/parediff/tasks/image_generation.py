"""Images drawn from seeds and conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from parediff.calibration.base import LazyCalls
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.sampling.batch import Batch
from parediff.sampling.images import images
from parediff.tasks.base import Task


@dataclass(frozen=True)
class ImageGeneration(Task):
    """The reference is the uncompressed model with a sampler of its own and the same seeds."""

    judges: ClassVar[Literal["images", "classes"]] = "images"
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

    def calls(self, model: DiffusionModel) -> Iterable[Call]:
        return LazyCalls(self.calibration, model, self.sampler)

    def batches(self, model: DiffusionModel, *, as_reference: bool) -> Iterator[Batch]:
        return images(model, self.workload, self.reference if as_reference else self.sampler)

    def few(self, model: DiffusionModel, count: int, *, as_reference: bool) -> Callable[[], Any]:
        sampler = self.reference if as_reference else self.sampler
        seeds, given = next(self.workload.batches())
        conditions = given if given is not None else model.conditions_for(seeds)
        return lambda: model.generate(seeds[:count], conditions and conditions[:count], sampler)
