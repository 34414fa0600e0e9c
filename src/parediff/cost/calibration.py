"""What calibration data cost to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from parediff.cost.base import SpentCost


@dataclass(frozen=True)
class CalibrationSeconds(SpentCost):
    """Wall-clock of making it: synthesis, a generator's training, recorded trajectories; loading for real images."""

    symbol: ClassVar[str] = "s"
    meaning: ClassVar[str] = "time to make the calibration data"

    def of(self, calibration: Mapping[str, Any]) -> float:
        return float(calibration.get("seconds", 0.0))


@dataclass(frozen=True)
class CalibrationSamples(SpentCost):
    """Images, or rows of recorded calls."""

    symbol: ClassVar[str] = ""
    meaning: ClassVar[str] = "calibration samples"

    def of(self, calibration: Mapping[str, Any]) -> float:
        return float(calibration.get("samples", 0))
