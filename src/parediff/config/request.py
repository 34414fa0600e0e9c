"""A composed config as objects, with everything checked that can be checked before a tensor is allocated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.calibration.base import CalibrationSource
from parediff.config.construct import construct, within
from parediff.config.settings import Settings
from parediff.cost.base import Cost
from parediff.errors import RequestError, nearest
from parediff.methods.base import Method
from parediff.metrics.base import Metric
from parediff.models.diffusion.sampler import Sampler
from parediff.provenance import run_id
from parediff.sampling.workload import Workload, check_disjoint
from parediff.tasks.base import Task

KEYS = (
    "model",
    "method",
    "methods",
    "sampler",
    "reference",
    "workload",
    "task",
    "calibration",
    "metrics",
    "costs",
    "data",
    "trainer",
    "tracker",
    "study",
    "runs_dir",
    "resume",
    "save",
    "seed",
    "device",
    "threads",
    "points",
    "fewer_steps",
    "seeds",
    "bits",
    "latency",
    "front",
)
NOT_IDENTITY = ("points", "fewer_steps", "seeds", "bits", "threads", "front", "hydra")


@dataclass(frozen=True)
class Request:
    """One run, as asked."""

    model: Any
    methods: Mapping[str, Method]
    sampler: Sampler
    reference: Sampler
    workload: Workload
    calibration: CalibrationSource
    metrics: Mapping[str, Metric]
    costs: Mapping[str, Cost]
    task: Task
    data: Callable[[], Any]
    trainer: Any
    tracker: Any
    config: Mapping[str, Any]
    id: str
    settings: Settings

    @property
    def device(self) -> str:
        return self.settings.present_device

    @property
    def folder(self) -> Path:
        """Of this run."""
        return self.settings.study_folder / self.id

    @property
    def is_baseline(self) -> bool:
        """Nothing compressed, sampled as the reference is."""
        return not self.methods and self.sampler == self.reference


def build(config: DictConfig) -> Request:
    """The objects of a run. Raises RequestError for the first thing that is wrong."""
    values = resolved(config)
    settings = Settings.of(values)
    methods, metrics, costs = (_all_of(config, key) for key in ("methods", "metrics", "costs"))
    workload, calibration = _one_of(config, "workload"), _one_of(config, "calibration")
    if methods:
        check_disjoint(workload.seeds, calibration.seeds)
    model = model_from(config.get("model"))
    samplers = {key: _one_of(config, key) for key in ("sampler", "reference")}
    for key, sampler in samplers.items():
        check_sampler(model, sampler, key)
    parts = {
        "workload": workload,
        **samplers,
        "calibration": calibration,
        "data": functools.cache(lambda: data_of(config)),
    }
    task = _one_of(config, "task", **parts)
    check_metrics(metrics, task.judges, workload.labels, model.image_shape())
    identity = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    name = run_id(identity, [workload.first_seed, workload.count])
    return Request(
        model=model,
        methods=methods,
        metrics=metrics,
        costs=costs,
        task=task,
        **parts,
        trainer=_one_of(config, "trainer"),
        tracker=_one_of(config, "tracker"),
        config=values,
        id=name,
        settings=settings,
    )


def check_sampler(model: Any, sampler: Sampler, key: str) -> None:
    """Raise RequestError for a sampler that was not made for such a model, where that is known before loading."""
    if hasattr(model, "check_sampler"):
        try:
            model.check_sampler(sampler)
        except RequestError as error:
            raise RequestError(error.key.replace("sampler", key, 1), error.value, error.accepted) from error


def _all_of(config: DictConfig, key: str) -> dict[str, Any]:
    """Every entry of a group of which several can be chosen."""
    return {name: construct(node, f"{key}.{name}") for name, node in (config.get(key) or {}).items()}


def _one_of(config: DictConfig, key: str, **further: Any) -> Any:
    return construct(config.get(key), key, **further)


def model_from(node: Any) -> Any:
    """Where the model of a run comes from; what its node says for trainings and for composing is left out."""
    return construct(node, "model", without=("architecture", "inherits"))


def data_of(config: DictConfig) -> Any:
    """The data module; a model that names none of its own needs one from the user."""
    if config.get("data") is None:
        raise RequestError("data", "null", "images to learn from: data=folder data.path=…, data=datasets data.path=…")
    return construct(config.data, "data")


def check_metrics(
    metrics: Mapping[str, Metric], judged: str, conditions: Any, shape: tuple[int, int, int] | None
) -> None:
    """Raise RequestError for a metric that cannot judge such outputs; a shape that is not known yet waits."""
    for name, metric in metrics.items():
        if metric.judges != judged:
            raise RequestError("metric", name, f"a metric of {judged} is accepted, this one judges {metric.judges}")
        if shape is not None:
            within(f"metrics.{name}", metric.check, conditions, shape)


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values; a value that must be given and is not, or a key nobody reads, raises."""
    unknown = [key for key in config if key not in (*KEYS, "hydra")]
    if unknown:
        key = str(unknown[0])
        raise RequestError(key, config[key], f"no such key.{nearest(key, KEYS)}")
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        missing = [key for key in missing if not key.startswith("hydra")]
        if missing:
            raise RequestError(missing[0], "???", "a value has to be given")
        plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return OmegaConf.to_container(plain, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise RequestError("config", "", " ".join(str(error).split())) from error
