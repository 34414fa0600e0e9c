"""CSV files, TensorBoard or MLflow, through Lightning's own loggers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from parediff.tracking.base import Tracker
from parediff.tracking.content import fronts_of, scalars
from parediff.training.loggers import check_logger, lightning_logger
from parediff.validation import check_types

logger = logging.getLogger(__name__)


@dataclass
class LightningTracker(Tracker):
    """Numbers of one run at a time, below `dir`; these loggers take no pictures and no tables."""

    kind: Annotated[Literal["csv", "tensorboard", "mlflow"], "which of Lightning's loggers"]
    dir: Annotated[str, "the folder that it writes in"]
    problems: list[str] = field(default_factory=list, init=False)
    _logger: Any = field(default=None, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        check_logger(self.kind)

    def start(self, config: Mapping[str, Any], study: str, stage: str, run_id: str) -> None:
        self.finish()
        with self._guarded("could not start"):
            self._logger = lightning_logger(self.kind, Path(self.dir), study, run_id)
            self._logger.log_hyperparams({"study": study, "stage": stage, **config})

    def log_record(self, record: Mapping[str, Any], samples: Path | None) -> None:
        self._log(scalars(record), None)

    def log_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        self.grow_front(front, figure, study)
        self.finish()

    def grow_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        if self._logger is None:
            self.start({key: front.get(key) for key in ("x", "y")}, study, "pareto", f"{study}-pareto")
        sizes = {section: one for section, one in fronts_of(front).items() if one.get("hypervolume") is not None}
        numbers = {f"{section}/hypervolume": float(one["hypervolume"]) for section, one in sizes.items()}
        numbers |= {f"{section}/points": float(len(one["points"])) for section, one in sizes.items()}
        self._log(numbers, self._step)
        self._step += 1

    def _log(self, values: Mapping[str, float], step: int | None) -> None:
        if self._logger is not None:
            with self._guarded("could not log"):
                self._logger.log_metrics(dict(values), step=step)

    def experiment(self) -> Any:
        return self._logger

    def finish(self) -> None:
        last, self._logger = self._logger, None
        if last is not None:
            with self._guarded("could not finish"):
                last.finalize("success")

    @contextmanager
    def _guarded(self, consequence: str) -> Iterator[None]:
        """The record comes first: a run never fails for its tracker."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.problems.append(f"{self.kind}: {consequence} ({reason})")
            logger.warning(self.problems[-1])
