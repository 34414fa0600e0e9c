"""Held-out images named by a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from parediff.calibration.images import Fit, ImageSource, MadeImages, Studio
from parediff.calibration.real_data import RealData
from parediff.data.synthetic import SyntheticImages
from parediff.models.classifiers.model import ClassifierModel
from parediff.models.diffusion.door import Call
from parediff.provenance import fingerprint
from parediff.sampling.batch import Batch, to_uint8
from parediff.sampling.blocks import Blocks
from parediff.tasks.base import Calibrated, Task

SHOWN = 64
LOOKED_AT = 64  # images whose mean and labels stand for the data set in the protocol


class CalibrationImages(Calibrated):
    """Images of the run's source; methods that train learn from them too, unless they are real ones.

    Then they learn from all training images.
    """

    remade: ClassVar[bool] = True

    def __init__(self, made: MadeImages, data: Callable[[], Any]) -> None:
        self._made, self._data = made, data

    @property
    def seconds(self) -> float:
        return self._made.seconds

    @property
    def samples(self) -> int:
        return self._made.count

    def calls(self, model: ClassifierModel) -> Iterable[Call]:
        return self._made.calls(model)

    def learned_from(self) -> Any:
        if isinstance(self._made.source, RealData):
            return self._data()
        own = self._data()
        images, labels = self._made.all()
        return SyntheticImages(
            images, labels, own.classes, batch_size=own.batch_size, seed=own.seed, maker=self._made.maker
        )

    def pictures(self) -> Tensor | None:
        if not self._made.count:
            return None
        images, _ = self._made.all()
        return to_uint8((images[:SHOWN] + 1) / 2)


@dataclass(frozen=True)
class Classification(Task):
    """`workload.count` held-out images, evenly spaced; blocks of them give the standard errors."""

    judges: ClassVar[Literal["images", "classes"]] = "classes"
    accepts: ClassVar[type[Any]] = ImageSource
    measured_by: ClassVar[tuple[str, ...]] = (__name__, "parediff.pipeline.evaluate")

    @property
    def count(self) -> int:
        return min(len(self.data().held_out), self.workload.count)

    @property
    def at_once(self) -> int:
        return min(self.workload.batch_size, self.count)

    def protocol(self) -> dict[str, Any]:
        images, labels = next(iter(DataLoader(self.data().held_out, batch_size=LOOKED_AT)))
        sample = fingerprint([round(float(images.double().mean()), 9), labels.tolist()])
        return {"data": {"name": self.data().name, "held_out": self.count, "sample": sample}}

    def stated(self) -> dict[str, Any]:
        return {"sampler": {"name": "none"}, "workload": {"first_seed": 0, "count": self.workload.count}}

    def check(self, model: ClassifierModel) -> None:
        assert isinstance(self.calibration, ImageSource)
        self.calibration.check(model)

    def calibrated(self, teacher: ClassifierModel, fit: Fit, folder: Path | None = None) -> Calibrated:
        assert isinstance(self.calibration, ImageSource)
        made = MadeImages(self.calibration, lambda fit: Studio.of(teacher, self.data, fit), fit)
        return CalibrationImages(made, self.data)

    def batches(self, model: ClassifierModel, *, as_reference: bool, blocks: Blocks | None = None) -> Iterator[Batch]:
        held_out = self.data().held_out
        chosen, start = evenly_spaced(len(held_out), self.workload.count), 0
        for block, part in enumerate(blocks_of(len(chosen), self.workload.blocks)):
            subset = Subset(held_out, [chosen[index] for index in part])
            for images, labels in DataLoader(subset, batch_size=self.workload.batch_size):
                with torch.no_grad():
                    classes = model.predict(images.to(model.device), torch.zeros(len(images)), {}).argmax(1)
                yield Batch(
                    rows=range(start, start + len(images)),
                    outputs=classes.cpu(),
                    wanted=tuple(labels.tolist()),
                    block=block,
                    pictures=to_uint8((images + 1) / 2),
                    inputs=images,
                    network=model.denoiser,
                )
                start += len(images)

    def few(self, model: ClassifierModel, count: int, *, as_reference: bool) -> Callable[[], Any]:
        images, _ = next(iter(DataLoader(self.data().held_out, batch_size=count)))
        images = images.to(model.device)

        @torch.no_grad()
        def name_them() -> Any:
            return model.predict(images, torch.zeros(len(images)), {})

        return name_them


def blocks_of(count: int, number: int) -> list[range]:
    """`number` contiguous ranges that cover range(count), as even as can be."""
    ends = [count * index // number for index in range(number + 1)]
    return [range(start, stop) for start, stop in pairwise(ends) if stop > start]


def evenly_spaced(total: int, wanted: int) -> list[int]:
    """`wanted` of range(total), evenly spaced; all of it where it holds fewer."""
    taken = min(total, wanted)
    return [index * total // taken for index in range(taken)]
