"""What every distance to a set of real images shares: an extractor, a reference set, and a name made of both."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from parediff.metrics.base import Metric, Statistic
from parediff.metrics.extractors import Extractor, check_within
from parediff.metrics.reference import Reference


@dataclass(eq=False)
class Distance(Metric[Statistic], ABC):
    """Under the config key `generic` it is called after its extractor and reference: fd_<extractor>_<data>."""

    section: ClassVar[Literal["quality", "fidelity"]] = "quality"
    generic: ClassVar[str] = ""

    extractor: Extractor
    reference: Reference

    def named(self, key: str) -> str:
        return f"{key}_{self.extractor.name}_{self.reference.label}" if key == self.generic else key

    def keep_in(self, folder: Path) -> None:
        self.reference.folder = folder

    def check(self, conditions: Sequence[Any] | None, image_shape: tuple[int, int, int]) -> None:
        self.reference.check(self.extractor, image_shape)
        check_within(self.extractor, image_shape)

    def compared(self) -> dict[str, Any]:
        """The part of the fingerprint that extractor and reference make."""
        return {"extractor": self.extractor.fingerprint(), "reference": self.reference.fingerprint()}
