"""Finished images, judged as they lie in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from parediff.calibration.base import CalibrationSource
from parediff.calibration.images import Fit
from parediff.errors import RequestError
from parediff.models.images import StoredImages
from parediff.sampling.batch import Batch
from parediff.sampling.blocks import Blocks
from parediff.tasks.base import Calibrated, Task


@dataclass(frozen=True)
class ImageScoring(Task):
    """Every image of a folder, in the order of their names; `workload.conditions` are what each was asked to show."""

    judges: ClassVar[Literal["images", "classes"]] = "images"
    accepts: ClassVar[type[Any]] = CalibrationSource  # any: none is made
    measured_by: ClassVar[tuple[str, ...]] = (__name__, "parediff.models.images", "parediff.pipeline.evaluate")

    @property
    def count(self) -> int:
        return self.workload.count

    @property
    def at_once(self) -> int:
        return min(self.workload.batch_size, self.count)

    def protocol(self) -> dict[str, Any]:
        return {"workload": {"count": self.count, "conditions": self.workload.labels}}

    def stated(self) -> dict[str, Any]:
        return {"sampler": {"name": "none"}, "workload": {"count": self.count}}

    def check(self, model: Any) -> None:
        """As many images as are asked for."""
        if self.count > len(model):
            raise RequestError("workload.count", self.count, f"at most the {len(model)} images of the folder")

    def calibrated(self, teacher: Any, fit: Fit, folder: Path | None = None) -> Calibrated:
        raise RequestError("method", teacher.name, "no method is accepted: finished images have no network")

    def batches(self, model: StoredImages, *, as_reference: bool, blocks: Blocks | None = None) -> Iterator[Batch]:
        self.check(model)
        for seeds, given in self.workload.batches():
            rows = range(seeds[0] - self.workload.first_seed, seeds[-1] + 1 - self.workload.first_seed)
            images = model.rows(rows)
            yield Batch(rows, images, given, self.workload.block_of(seeds[0]), images)

    def few(self, model: Any, count: int, *, as_reference: bool) -> Callable[[], Any]:
        return lambda: model.rows(range(count))
