"""What a tracker is asked to do; the record on disk never depends on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracker(ABC):
    """Logs one run at a time. No method raises: what goes wrong is said once, in one line, and kept in `problems`."""

    problems: list[str]

    @abstractmethod
    def start(self, config: Mapping[str, Any], study: str, stage: str, run_id: str) -> None:
        """Opens a run: group = study, job type = stage (run, train, pareto)."""

    @abstractmethod
    def log_record(self, record: Mapping[str, Any], samples: Path | None) -> None:
        """The numbers of record.json and, where there is one, the picture of samples."""

    @abstractmethod
    def log_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        """A `pareto` run of its own: front.json as a table, the plotly figure (or None), the hypervolume."""

    def grow_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        """The front as it stands now, one more step of the study's `pareto` run, which stays open."""
        return

    @abstractmethod
    def experiment(self) -> Any:
        """The open W&B run, for whoever logs to it directly; None where there is none."""

    @abstractmethod
    def finish(self) -> None:
        """Closes the open run; nothing happens where none is open."""


class NoTracker(Tracker):
    """Tracks nothing."""

    def __init__(self) -> None:
        self.problems = []

    def start(self, config: Mapping[str, Any], study: str, stage: str, run_id: str) -> None:
        return None

    def log_record(self, record: Mapping[str, Any], samples: Path | None) -> None:
        return None

    def log_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        return None

    def experiment(self) -> None:
        return None

    def finish(self) -> None:
        return None
