"""A composed config as objects, with everything checked that can be checked before a tensor is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

import parediff.config.resolvers  # noqa: F401 - a config may come from another process
from parediff.calibration.base import CalibrationSource
from parediff.config.construct import construct, within
from parediff.config.schema import checked
from parediff.config.settings import Settings
from parediff.cost.base import Cost
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.metrics.base import Metric
from parediff.models.diffusion.sampler import Sampler
from parediff.provenance import run_id
from parediff.sampling.workload import Workload, check_disjoint
from parediff.tasks.base import Task

SHARED = ("extractor", "reference", "data", "classifier")  # arguments whose objects metrics may have in common
NOT_IDENTITY = ("points", "fewer_steps", "seeds", "bits", "devices", "threads", "front", "hydra")


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
    values, settings = checked(config)
    methods, costs = (_all_of(config, key) for key in ("methods", "costs"))
    parts = Parts()
    metrics = metrics_of(config, parts)
    workload = _one_of(config, "workload")
    calibration = calibration_from(config.get("calibration"), lambda: data_of(config, parts))
    if methods:
        check_disjoint(workload.seeds, calibration.seeds)
    model = model_from(config.get("model"))
    samplers = {key: _one_of(config, key) for key in ("sampler", "reference")}
    for key, sampler in samplers.items():
        check_sampler(model, sampler, key)
    given = {
        "workload": workload,
        **samplers,
        "calibration": calibration,
        "data": lambda: data_of(config, parts),
    }
    task = _one_of(config, "task", **given)
    check_metrics(metrics, workload.labels, model.image_shape())
    check_training(config, methods, model.image_shape(), parts)
    identity = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    name = run_id(identity, [workload.first_seed, workload.count])
    return Request(
        model=model,
        methods=methods,
        metrics=metrics,
        costs=costs,
        task=task,
        **given,
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


class Parts:
    """Objects that several nodes describe alike, made once: data, reference sets, extractors and their networks."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def within(self, node: Any) -> dict[str, Any]:
        """The parts that a metric's node names, by the argument that takes each."""
        found = {name: node.get(name) for name in SHARED if isinstance(node.get(name), DictConfig)}
        return {name: self.one(inner, name) for name, inner in found.items()}

    def one(self, node: Any, key: str) -> Any:
        """The object of one node, which may itself name parts."""
        described = json.dumps(OmegaConf.to_container(node, resolve=True), sort_keys=True, default=str)
        if described not in self._made:
            inner = within(key, self.within, node)
            self._made[described] = construct(node, key, without=tuple(inner), **inner)
        return self._made[described]


def metrics_of(config: DictConfig, parts: Parts) -> dict[str, Metric]:
    """The metrics by the name that their numbers have on record."""
    made: dict[str, Metric] = {}
    for key in config.get("metrics") or {}:
        node = config.metrics[key]
        check_own_data(config, key, node)
        inner = within(f"metrics.{key}", parts.within, node)
        metric = construct(node, f"metrics.{key}", without=tuple(inner), **inner)
        metric.keep_in(Path(config.runs_dir) / ".statistics")
        made[metric.named(str(key))] = metric
    return made


def check_own_data(config: DictConfig, key: Any, node: Any) -> None:
    """Raise RequestError where a reference set is other data than the run's, unless it says that it is on purpose."""
    reference, own = OmegaConf.select(node, "reference.data"), config.get("data")
    if reference is None or own is None or OmegaConf.select(node, "reference.foreign"):
        return
    theirs, ours = ((data.get("_target_"), data.get("path")) for data in (reference, own))
    if theirs != ours:
        name, other = (" ".join(str(part) for part in pair if part) for pair in (theirs, ours))
        accepted = f"the run's own data ({other}) is accepted; for another set on purpose: foreign=true"
        raise RequestError(f"metrics.{key}.reference.data", name, accepted)


def check_training(
    config: DictConfig, methods: Mapping[str, Method], shape: tuple[int, int, int] | None, parts: Parts
) -> None:
    """Raise RequestError where a method would train a model on no images, or of another shape than it draws."""
    if not any(method.learns_from_data for method in methods.values()):
        return
    if shape is None and config.get("data") is not None:
        return  # opened when it is needed
    data = data_of(config, parts)
    if shape is not None and tuple(data.image_shape) != tuple(shape):
        drawn, real = ("x".join(map(str, one)) for one in (shape, data.image_shape))
        raise RequestError("data", data.name, f"images of {drawn} are accepted, as the model draws; these are {real}")


def data_of(config: DictConfig, parts: Parts) -> Any:
    """The data module; a model that names none of its own needs one from the user."""
    if config.get("data") is None:
        raise RequestError("data", "null", "images to learn from: data=folder data.path=…, data=datasets data.path=…")
    return parts.one(config.data, "data")


def calibration_from(node: Any, data: Callable[[], Any]) -> CalibrationSource:
    """The source of calibration data; one that takes the run's data opens it when it needs it, not before."""
    takes = "data" in {item.name for item in fields(get_class(str(node["_target_"])))}
    return construct(node, "calibration", data=data) if takes else construct(node, "calibration")


def check_metrics(metrics: Mapping[str, Metric], conditions: Any, shape: tuple[int, int, int] | None) -> None:
    """Raise RequestError for a metric that cannot judge images of this shape; one that is not known yet waits."""
    for name, metric in metrics.items():
        if shape is not None:
            within(f"metrics.{name}", metric.check, conditions, shape)
