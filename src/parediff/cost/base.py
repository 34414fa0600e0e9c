"""What a cost is: a number of one image, its unit and direction, and what it looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from parediff.validation import Count, Several, Whole, check_types

PerImage = Callable[[int], float]


@dataclass(frozen=True)
class Cost(ABC):
    """One axis of cost. Fields are settings. `symbol` takes SI prefixes on an axis; without one, `meaning` says all."""

    symbol: ClassVar[str]
    meaning: ClassVar[str]
    better: ClassVar[Literal["lower", "higher"]] = "lower"

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class WatchedCost(Cost):
    """Observed while a model runs: on the first batch as it is executed, or where `alone`, on one image by itself."""

    alone: ClassVar[bool] = False

    @abstractmethod
    def watch(self, model: Any) -> AbstractContextManager[PerImage]:
        """Watches `model` while the block runs; afterwards what it gives tells the cost of each of so many images."""


@dataclass(frozen=True)
class PairedCost(Cost):
    """Means something only beside the uncompressed model in the same process, and nothing for simulated arithmetic."""

    images: Annotated[Count, "drawn at a time"]
    repeats: Annotated[Several, "pairs that are timed"]
    warmup: Annotated[Whole, "pairs that are not counted, before"]

    @abstractmethod
    def compare(
        self, reference: Callable[[], object], candidate: Callable[[], object], images: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """(of the reference, of the candidate), per image; each runs `images` images once. Keys as in the record."""


@dataclass(frozen=True)
class SpentCost(Cost):
    """What making the compressed model took, once; the uncompressed one took nothing."""

    @abstractmethod
    def of(self, calibration: Mapping[str, Any]) -> float:
        """From what the record says of the calibration; it is empty where there was none."""
