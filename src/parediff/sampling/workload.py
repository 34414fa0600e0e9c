"""Which images: seeds, conditions, and the blocks that error bars are computed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from parediff.errors import RequestError
from parediff.validation import Count, FirstSeed, check_types, require


@dataclass(frozen=True)
class Workload:
    """`count` images from `first_seed` on, in batches; image i has seed `first_seed + i` and condition `i mod n`.

    `conditions` are class labels or prompts, or the path of a text file with one prompt a line; null where the model
    takes none, and for classes it means all of them in turn. `blocks` seed blocks give the standard errors.
    """

    first_seed: FirstSeed
    count: Annotated[Count, "images"]
    batch_size: Annotated[Count, "images drawn at a time"]
    blocks: Annotated[Count, "seed blocks, over which standard errors are taken"] = 1
    conditions: tuple[int | str, ...] | str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        require(self.blocks <= self.count, "blocks", self.blocks, f"1 to workload.count ({self.count})")
        if isinstance(self.conditions, str) and not Path(self.conditions).expanduser().is_file():
            raise RequestError(
                "conditions", self.conditions, "a list, or a text file with one prompt a line, is accepted"
            )
        require(self.conditions is None or len(self.labels or ()) > 0, "conditions", self.conditions, "at least one")

    @property
    def labels(self) -> tuple[int | str, ...] | None:
        """The conditions themselves."""
        if isinstance(self.conditions, str):
            lines = Path(self.conditions).expanduser().read_text(encoding="utf-8").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
        return self.conditions

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)

    def block_of(self, seed: int) -> int:
        """Which seed block a seed belongs to."""
        return (seed - self.first_seed) * self.blocks // self.count

    def batches(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...] | None]]:
        """(seeds, conditions) of every batch; a batch lies in one block."""
        labels = self.labels
        batch: list[int] = []
        for seed in self.seeds:
            if batch and (len(batch) == self.batch_size or self.block_of(seed) != self.block_of(batch[0])):
                yield tuple(batch), self._conditions(batch, labels)
                batch = []
            batch.append(seed)
        yield tuple(batch), self._conditions(batch, labels)

    def _conditions(self, seeds: list[int], labels: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if labels is None:
            return None
        return tuple(labels[(seed - self.first_seed) % len(labels)] for seed in seeds)


def check_disjoint(evaluation: range, calibration: range) -> None:
    """Raise where a calibration seed is also an evaluation seed: scores would be of images already seen."""
    if max(evaluation.start, calibration.start) < min(evaluation.stop, calibration.stop):
        raise RequestError(
            "calibration.first_seed",
            calibration.start,
            f"seeds outside the evaluated {evaluation.start}..{evaluation.stop - 1} are accepted",
        )
