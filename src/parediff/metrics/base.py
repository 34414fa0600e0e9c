"""What a metric is: statistics of batches that merge, one number made of them, and its standard error."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from parediff.results.jackknife import jackknife_error
from parediff.sampling.batch import Batch, frames
from parediff.validation import check_types


class Mergeable(Protocol):
    """Statistics of some images; two of them make the statistics of all their images."""

    def merge(self, other: Self) -> Self: ...


Statistic = TypeVar("Statistic", bound=Mergeable)


@dataclass(eq=False)
class Metric(ABC, Generic[Statistic]):
    """One number about a stream of outputs; its fields are hyper-parameters, what streams lives in blocks of seeds.

    `judges` are drawn images, or the classes that a classifier names; `meaning` is the number in a reader's words.
    """

    section: ClassVar[Literal["quality", "fidelity"]]
    better: ClassVar[Literal["lower", "higher"]]
    judges: ClassVar[Literal["images", "classes"]] = "images"
    meaning: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_types(self)
        self.reset()

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        """Raise RequestError where images C,H,W made under such conditions cannot be judged, before any is made."""
        return

    @abstractmethod
    def measure(self, batch: Tensor, reference: Tensor | None, conditions: Sequence[Any] | None) -> Statistic:
        """Statistics of one batch of outputs; `reference` holds the same rows of the model it came from."""

    @abstractmethod
    def value(self, statistic: Statistic) -> float | None:
        """The number; None where it is not defined (identical images have no PSNR)."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What else decides the number: extractor, reference set, window. Equal fingerprints can be compared."""

    def named(self, key: str) -> str:
        """What the number is called on record, where it stands under `key` in the config."""
        return key

    def keep_in(self, folder: Path) -> None:
        """What is worth keeping between runs, such as statistics of a reference set, may be kept below the folder."""
        return

    def remarks(self) -> list[str]:
        """What a reader should know of the images taken so far, such as that they are too few."""
        return []

    def reset(self) -> None:
        """Forget all images."""
        self._blocks: list[Statistic] = []
        self._open = False

    def update(self, batch: Tensor, reference: Tensor | None = None, conditions: Sequence[Any] | None = None) -> None:
        """Take images (uint8 NCHW), or classes [B], into the present block."""
        for outputs in (batch, reference):
            if outputs is not None and self.judges == "images" and (outputs.dtype != torch.uint8 or outputs.ndim != 4):
                raise TypeError(f"images are uint8 NCHW, not {outputs.dtype} of shape {tuple(outputs.shape)}")
        self._take(self.measure(batch, reference, conditions))

    def take(self, batch: Batch, reference: Tensor | None) -> None:
        """A batch of outputs and the same rows of the uncompressed model, into the present block; videos by frame."""
        outputs = frames(batch.outputs)
        each = len(outputs) // max(1, len(batch.rows))
        wanted = batch.wanted and tuple(entry for entry in batch.wanted for _ in range(each))
        self.update(outputs, None if reference is None else frames(reference), wanted)

    def _take(self, statistic: Statistic) -> None:
        """Into the present block."""
        if self._open:
            self._blocks[-1] = self._blocks[-1].merge(statistic)
        else:
            self._blocks.append(statistic)
        self._open = True

    def next_block(self) -> None:
        """What follows belongs to another block of seeds."""
        self._open = False

    def compute(self) -> float | None:
        """The number over all blocks."""
        return self._value(self._blocks) if self._blocks else None

    def left_out(self) -> list[float] | None:
        """The number without each block of seeds in turn; None below two blocks, or where one of them has none."""
        return left_out(self._blocks, self._value)

    def stderr(self) -> float | None:
        """Its standard error, by leaving out one block of seeds at a time; None below two blocks."""
        return jackknife(self._blocks, self._value)

    def total(self) -> Statistic | None:
        """Statistics of all images; None before the first."""
        return _merged(self._blocks) if self._blocks else None

    def _value(self, blocks: Sequence[Statistic]) -> float | None:
        return self.value(_merged(blocks))


def _merged(blocks: Sequence[Statistic]) -> Statistic:
    return functools.reduce(lambda left, right: left.merge(right), blocks)


Block = TypeVar("Block")


def left_out(blocks: Sequence[Block], value: Callable[[Sequence[Block]], float | None]) -> list[float] | None:
    """The value without each block; None below two blocks, or where one of the values is not defined."""
    if len(blocks) < 2:
        return None
    values = [value([*blocks[:index], *blocks[index + 1 :]]) for index in range(len(blocks))]
    known = [entry for entry in values if entry is not None]
    return known if len(known) == len(blocks) else None


def jackknife(blocks: Sequence[Block], value: Callable[[Sequence[Block]], float | None]) -> float | None:
    """The standard error of the value over all blocks."""
    values = left_out(blocks, value)
    return None if values is None else jackknife_error(values)
