"""Held-out images named by a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch.utils.data import DataLoader, Subset

from parediff.models.classifiers.model import ClassifierModel
from parediff.models.diffusion.door import Call
from parediff.provenance import fingerprint
from parediff.sampling.batch import Batch, to_uint8
from parediff.tasks.base import Task

LOOKED_AT = 64  # images whose mean and labels stand for the data set in the protocol


@dataclass(frozen=True)
class Classification(Task):
    """`workload.count` held-out images, evenly spaced; blocks of them give the standard errors.

    Calibration sees as many training images as its source would draw trajectories, evenly spaced too.
    """

    judges: ClassVar[Literal["images", "classes"]] = "classes"
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

    def calls(self, model: ClassifierModel) -> Iterable[Call]:
        train = self.data().train
        chosen = Subset(train, evenly_spaced(len(train), len(self.calibration.seeds)))
        batches = DataLoader(chosen, batch_size=self.workload.batch_size)
        return [model.call(images.to(model.device)) for images, _ in batches]

    def batches(self, model: ClassifierModel, *, as_reference: bool) -> Iterator[Batch]:
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
