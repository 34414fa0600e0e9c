"""Weights & Biases: offline without an account, and never in the way of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from parediff.tracking.account import has_account, require_answer
from parediff.tracking.base import Tracker
from parediff.tracking.content import facts, fronts_of, proofs, scalars, table, wandb_id
from parediff.validation import Positive, check_types

MODES = ("auto", "online", "offline", "disabled")
STEP = "trainer/global_step"  # as Lightning's logger calls it
STEPPED = ("train", "held_out")
"""Sections of a training's numbers, which are drawn over its steps."""
UNSENT = ".unsent"
"""Suffix of the mark beside an online run's file while its upload is not known to be complete."""

logger = logging.getLogger(__name__)


@dataclass
class WandbTracker(Tracker):
    """One W&B run at a time below `dir`/wandb."""

    refused: ClassVar[bool] = False  # whether the last start online got as far as W&B and failed there
    unreachable: ClassVar[bool] = False  # found out once per process, not by every run of a study anew
    mode: Literal["auto", "online", "offline", "disabled"]
    project: Annotated[str, "at Weights & Biases"]
    entity: str | None
    dir: str
    init_timeout_s: Positive
    finish_timeout_s: Positive
    problems: list[str] = field(default_factory=list, init=False)
    _run: Any = field(default=None, init=False, repr=False)
    _front_of: str | None = field(default=None, init=False, repr=False)
    _exit_code: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        check_types(self)

    def start(self, config: Mapping[str, Any], study: str, stage: str, run_id: str) -> None:
        self.finish()
        wanted = self._wanted_mode()
        if wanted == "disabled":
            return
        with self._guarded("could not start"):
            import wandb

            Path(self.dir).mkdir(parents=True, exist_ok=True)
            named = {
                "id": wandb_id(run_id),
                "name": run_id,
                "resume": "allow",
            }  # a repeat goes on, it adds no second run
            options = self._options(wandb) | named | {"group": study, "job_type": stage, "config": dict(config)}
            if wanted != "offline" and not WandbTracker.unreachable:
                self._start_online(wandb, options, asked=wanted == "online")
                if self._run is None and WandbTracker.refused:
                    options["id"] = None  # W&B does not let go of the id of a start that it refused
            if self._run is None:
                self._run = wandb.init(mode="offline", **options)
            for section in STEPPED:
                self._run.define_metric(f"{section}/*", step_metric=STEP)

    def _wanted_mode(self) -> str:
        """`auto` leaves the word to W&B's own variable where it is set; its other names for offline mean offline."""
        mode = os.environ.get("WANDB_MODE", "auto") if self.mode == "auto" else self.mode
        return mode if mode in MODES else "offline"

    def _options(self, wandb: Any) -> dict[str, Any]:
        """A run that starts fast, says nothing, and collects neither console, machine nor source code."""
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=self.init_timeout_s,
            finish_timeout=self.finish_timeout_s,
            finish_timeout_raises=True,
        )
        own = {"project": self.project, "entity": self.entity, "dir": self.dir}
        return own | {"settings": settings, "reinit": "create_new"}

    def _start_online(self, wandb: Any, options: Mapping[str, Any], *, asked: bool) -> None:
        with self._guarded(f"no connection, going on offline; `parediff sync {self.dir}` uploads later"):
            WandbTracker.unreachable = True
            if has_account():
                require_answer(self.init_timeout_s)
                WandbTracker.refused = True
                self._run = wandb.init(mode="online", **options)
                WandbTracker.refused = False
                self._unsent(self._run).touch()
            elif asked:
                raise PermissionError("no account is configured, see `wandb login`")
            WandbTracker.unreachable = False

    def experiment(self) -> Any:
        return self._run

    def log_record(self, record: Mapping[str, Any], samples: Path | None) -> None:
        if self._run is None:
            return
        self._exit_code = int(record.get("status") == "failed")
        with self._guarded("could not log the record"):
            import wandb

            values = scalars(record)
            image = {"samples": wandb.Image(str(samples))} if samples is not None and samples.exists() else {}
            self._run.log(values | image)
            self._run.summary.update(values | facts(record) | proofs(record))

    def log_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        self.grow_front(front, figure, study)
        self.finish()

    def grow_front(self, front: Mapping[str, Any], figure: Any, study: str) -> None:
        about = {key: front[key] for key in ("x", "y") if key in front}
        if self._front_of != study:
            self.start(about, study, "pareto", f"{study}-pareto")
            self._front_of = study if self._run is not None else None
        if self._run is not None:
            with self._guarded("could not log the front"), self._staging():
                self._log_fronts(front, figure)

    def _log_fronts(self, front: Mapping[str, Any], figure: Any) -> None:
        """Each call is one more step of the run; every protocol has a section, and so a panel, of its own."""
        import wandb

        values: dict[str, Any] = {}
        for section, one in fronts_of(front).items():
            columns, rows = table(one["points"])
            values[f"{section}/table"] = wandb.Table(columns=columns, data=rows)
            numbers = {"hypervolume": one.get("hypervolume"), "points": len(rows)}
            values |= {f"{section}/{key}": number for key, number in numbers.items() if number is not None}
        if figure is not None:
            values["front/plot"] = wandb.Plotly(figure)
        self._run.log(values)
        self._run.summary.update({key: value for key, value in values.items() if isinstance(value, int | float)})

    def finish(self) -> None:
        run, code = self._run, self._exit_code
        self._run, self._exit_code, self._front_of = None, 0, None
        if run is not None:
            with self._guarded(f"the upload is not complete; `parediff sync {self.dir}` sends the rest"):
                run.finish(exit_code=code)
                self._unsent(run).unlink(missing_ok=True)

    def _unsent(self, run: Any) -> Path:
        return Path(run.dir).parent / f"run-{run.id}.wandb{UNSENT}"

    @contextmanager
    def _staging(self) -> Iterator[None]:
        """Keeps the files of a table that await their upload in the study's folder instead of the user's home."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = str(Path(self.dir).resolve() / "wandb" / "staging")
        try:
            yield
        finally:
            del os.environ["WANDB_DATA_DIR"]
            if before is not None:
                os.environ["WANDB_DATA_DIR"] = before

    @contextmanager
    def _guarded(self, consequence: str) -> Iterator[None]:
        """The one place that stops any error of W&B: the record comes first, and a run never fails for its tracker."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.problems.append(f"Weights & Biases: {consequence} ({reason})")
            logger.warning(self.problems[-1])
