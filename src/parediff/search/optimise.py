"""Ask for a point, run it, tell what it came to: until the search has as many as it is to have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState, create_trial

from parediff.config.compose import Composer
from parediff.config.request import Request, build
from parediff.errors import RequestError, nearest
from parediff.pipeline.attempt import awaited
from parediff.pipeline.statement import protocol_of
from parediff.provenance import fingerprint
from parediff.results.axes import resolve
from parediff.results.record import Record, RecordError, find, read
from parediff.search.journal import BOUNDS, Direction, begun, known_points, opened, repeat_lost
from parediff.search.settings import Asked, SearchSettings
from parediff.search.space import Params, overrides_of

ID, FEW = "id", "few"
"""Attributes of a trial: its run, and its worth on few images (values and standard errors)."""
IN_A_ROW = 5  # points that fail one after the other: what makes them fail will not pass


@dataclass
class Search:
    """A search on its way. `say` takes one line for whoever watches."""

    asked: Asked
    composer: Composer
    say: Callable[[str], None]
    _any: Request = field(init=False)

    def __post_init__(self) -> None:
        """Everything that can be wrong is: every list of methods and both ends of every key are composed."""
        requests = [build(self.config(params)) for params in self.settings.space.corners()]
        self._any = requests[0]
        self.directions = directions(self.settings.objectives, self._any)
        for request in requests:
            directions(self.settings.objectives, request)

    @property
    def settings(self) -> SearchSettings:
        return self.asked.settings

    @property
    def folder(self) -> Path:
        """Of the study that the runs of the search make."""
        return self._any.settings.study_folder

    @property
    def front_axes(self) -> tuple[str, str]:
        """The first cost and the first worth among the objectives."""
        costs = [key for key in self.settings.objectives if _short(key) in self._any.costs]
        worths = [key for key in self.settings.objectives if key not in costs]
        first, last = self.settings.objectives[0], self.settings.objectives[-1]
        return (costs or [first])[0], (worths or [last])[0]

    def config(self, params: Params, *further: str) -> DictConfig:
        """The run of a point; a point that is no single run raises RequestError."""
        jobs = self.composer.jobs([*self.asked.overrides, *overrides_of(params), *further])
        if len(jobs) != 1:
            raise RequestError("search", len(jobs), "one run for each point: no points, seeds or fewer_steps")
        return self.composer.compose(jobs[0])

    def run(self) -> int:
        """How many points this process ran."""
        done = failures = 0
        with opened(self.folder, self.settings, self.directions, self._identity()) as (study, worker):
            if lost := repeat_lost(study, self.folder):
                self.say(f"{lost} points of processes that are gone are asked for again")
            self._begin(study)
            while (trial := begun(study, self.folder, worker, self.settings.trials)) is not None:
                failures = 0 if self._one(study, trial) else failures + 1
                done += 1
                if failures == IN_A_ROW:
                    self.say(f"{failures} points in a row failed: the search ends here, and goes on when asked again")
                    break
        return done

    def _identity(self) -> str:
        space = {choice.key: str(choice.distribution) for choice in self.settings.space.choices}
        constraints, protocol = dict(self.settings.constraints), protocol_of(self._any)
        return fingerprint([list(self.settings.objectives), space, constraints, self.settings.few, protocol])

    def _begin(self, study: optuna.Study) -> None:
        """What is known already, then what is to be first; a search that goes on has both."""
        known = known_points(study)
        for record, params in self._finished():
            if params not in known and (values := self._values(record)) is not None:
                study.add_trial(self._told(record, params, values))
                known.append(params)
                self.say(f"known: {_named(params)} from {record.folder}")
        for params in self.settings.first:
            if params not in known:
                study.enqueue_trial(params)

    def _finished(self) -> Iterator[tuple[Record, Params]]:
        """Records of the warm start and of the search's own folder that are exactly a point of the space."""
        paths: list[str | Path] = [*self.settings.warm_start, *([self.folder] if self.folder.is_dir() else [])]
        protocol = fingerprint(protocol_of(self._any))
        for record in find(paths).records:
            if record.status != "finished" or record.protocol != protocol:
                continue
            for params in self.settings.space.found_in(record.config, record.methods):
                try:
                    same = build(self.config(params)).id == record.id
                except RequestError:  # not every combination of what it may have been is a run
                    continue
                if same:
                    yield record, params
                    break

    def _told(self, record: Record, params: Params, values: Sequence[float]) -> FrozenTrial:
        over = self._over(record)
        return create_trial(
            params=params,
            distributions=self.settings.space.distributions(params),
            values=list(values),
            user_attrs={ID: record.id, BOUNDS: over},
            system_attrs={"constraints": over} if over else {},
        )

    def _one(self, study: optuna.Study, trial: optuna.trial.Trial) -> bool:
        """Whether the point was measured, or known not to be worth it."""
        params = self.settings.space.drawn(trial)
        told = f"{trial.number}: {_named(params)}"
        beaten = self._beaten(study, trial, params) if self.settings.few else None
        if beaten is not None:
            study.tell(trial, state=TrialState.PRUNED)
            self.say(f"{told}: {beaten}")
            return True
        record = self._ran(self.config(params))
        values = None if isinstance(record, str) else self._values(record)
        if isinstance(record, str) or values is None:
            study.tell(trial, state=TrialState.FAIL)
            self.say(f"{told}: {record if isinstance(record, str) else 'has no value for an objective'}")
            return False
        trial.set_user_attr(ID, record.id)
        trial.set_user_attr(BOUNDS, self._over(record))
        study.tell(trial, list(values))
        self.say(f"{told}: {self._in_words(values)}{' (over a constraint)' * any(v > 0 for v in self._over(record))}")
        return True

    def _ran(self, config: DictConfig) -> Record | str:
        """The record of a run, made now where there is none; one line where it failed."""
        outcome = awaited(config)
        if outcome.status != "finished" or outcome.path is None:
            return outcome.error or outcome.note or outcome.status
        try:
            return read(outcome.path)
        except RecordError as error:
            return str(error)

    def _beaten(self, study: optuna.Study, trial: optuna.trial.Trial, params: Params) -> str | None:
        """Why a point is not worth all of its images, from a few of them; None where it may be."""
        few = self.settings.few
        assert few is not None
        blocks = min(self._any.workload.blocks, few)
        study_name = f"study={self._any.config['study']}_few"
        own = self.config(params, f"workload.count={few}", f"workload.blocks={blocks}", study_name)
        record = self._ran(own)
        if isinstance(record, str) or (values := self._values(record)) is None:
            return None  # the whole run will say what is wrong
        over = self._over(record)
        trial.set_user_attr(BOUNDS, over)
        if any(value > 0 for value in over):
            return f"over a constraint on {few} images"
        errors = [record.stderr.get(_short(key)) or 0.0 for key in self.settings.objectives]
        others = [other.user_attrs[FEW] for other in study.get_trials(deepcopy=False) if FEW in other.user_attrs]
        trial.set_user_attr(FEW, {"values": list(values), "errors": errors})
        if any(self._is_behind(values, errors, other["values"], other["errors"]) for other in others):
            return f"beaten on {few} images"
        return None

    def _is_behind(
        self, values: Sequence[float], errors: Sequence[float], others: Sequence[float], theirs: Sequence[float]
    ) -> bool:
        """Whether another point is better in every objective, by more than the margin where there are errors."""
        gains = [
            (value - other) if direction == "minimize" else (other - value)
            for value, other, direction in zip(values, others, self.directions, strict=True)
        ]
        margins = [self.settings.margin * math.hypot(a, b) for a, b in zip(errors, theirs, strict=True)]
        return all(gain >= margin for gain, margin in zip(gains, margins, strict=True)) and any(
            gain > margin for gain, margin in zip(gains, margins, strict=True)
        )

    def _values(self, record: Record) -> tuple[float, ...] | None:
        found = [_number(record, key) for key in self.settings.objectives]
        return None if None in found else tuple(value for value in found if value is not None)

    def _over(self, record: Record) -> list[float]:
        """By how much the record is over each constraint; what has no number does not keep it."""
        found = [(_number(record, key), most) for key, most in self.settings.constraints.items()]
        return [1.0 if value is None else value / most - 1 if most > 0 else value - most for value, most in found]

    def _in_words(self, values: Sequence[float]) -> str:
        pairs = zip(self.settings.objectives, values, strict=True)
        return ", ".join(f"{_short(key)} {value:.4g}" for key, value in pairs)


def directions(objectives: Sequence[str], request: Request) -> list[Direction]:
    """minimize or maximize for each objective, as the metrics and costs of the run say; an unknown one is named."""
    judges: Mapping[str, Any] = {**request.costs, **request.metrics}
    found: list[Direction] = []
    for key in objectives:
        if _short(key) not in judges:
            accepted = f"a cost or metric of the runs: {', '.join(judges)}.{nearest(_short(key), judges)}"
            raise RequestError("search.objectives", key, accepted)
        found.append("maximize" if judges[_short(key)].better == "higher" else "minimize")
    return found


def _number(record: Record, key: str) -> float | None:
    """A number of the record by a key of an axis; None where it has none."""
    try:
        return resolve("search", key, [record]).value(record)
    except RequestError:
        return None


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _named(params: Mapping[str, Any]) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in params.items())
