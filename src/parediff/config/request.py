"""A composed config as objects, with everything checked that can be checked before a tensor is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import parediff.config.resolvers  # noqa: F401 - a config may come from another process
from parediff.calibration.base import CalibrationSource
from parediff.config.catalogue import files
from parediff.config.construct import construct, within
from parediff.config.settings import Settings, check_seed
from parediff.cost.base import Cost
from parediff.errors import RequestError, nearest
from parediff.methods.base import Method, check_together
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
SHARED = ("extractor", "reference", "data", "classifier")  # arguments whose objects metrics may have in common
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
    check_seed(config.get("seed"))
    values = resolved(config)
    settings = Settings.of(values)
    methods, costs = (_all_of(config, key) for key in ("methods", "costs"))
    parts = Parts()
    metrics = metrics_of(config, parts)
    workload = _one_of(config, "workload")
    calibration = calibration_from(config.get("calibration"), lambda: data_of(config, parts))
    check_together(methods)
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
    check_kind(task, methods, calibration)
    check_metrics(metrics, task.judges, workload.labels, model.image_shape())
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
    """Raise RequestError where a method would train a model on images of another shape than it draws."""
    training = [name for name, method in methods.items() if type(method).training is not Method.training]
    if not training or shape is None or config.get("data") is None:
        return
    data = data_of(config, parts)
    if tuple(data.image_shape) != tuple(shape):
        drawn, real = ("x".join(map(str, one)) for one in (shape, data.image_shape))
        raise RequestError("data", data.name, f"images of {drawn} are accepted, as the model draws; these are {real}")


def data_of(config: DictConfig, parts: Parts) -> Any:
    """The data module; a model that names none of its own needs one from the user."""
    if config.get("data") is None:
        raise RequestError("data", "null", "images to learn from: data=folder data.path=…, data=datasets data.path=…")
    return parts.one(config.data, "data")


def calibration_from(node: Any, data: Callable[[], Any]) -> CalibrationSource:
    """The source of calibration data; one that takes the run's data opens it when it needs it, not before."""
    target = OmegaConf.select(node, "_target_") if OmegaConf.is_config(node) else None
    takes = target is not None and "data" in {item.name for item in fields(get_class(str(target)))}
    return construct(node, "calibration", data=data) if takes else construct(node, "calibration")


def check_kind(task: Task, methods: Mapping[str, Method], calibration: CalibrationSource) -> None:
    """Raise RequestError for calibration data, or a method, of the other kind of model; the alternatives are named."""
    if not isinstance(calibration, task.accepts):
        named = [name for name, kind in calibration_sources().items() if issubclass(kind, task.accepts)]
        asked = type(calibration).__module__.rpartition(".")[2]
        kind = "images from a sampler" if task.judges == "images" else "classes"
        raise RequestError("calibration", asked, f"for a model that gives {kind}, {', '.join(named)} are accepted")
    for name, method in methods.items():
        if task.judges not in method.serves:
            served = "denoisers" if "images" in method.serves else "classifiers"
            raise RequestError("method", name, f"a method for this kind of model is accepted, this one is for {served}")


def calibration_sources() -> dict[str, type[CalibrationSource]]:
    """Every option of the group by name."""
    nodes = {name: OmegaConf.load(path) for name, path in files("calibration").items()}
    return {name: get_class(str(OmegaConf.select(node, "_target_"))) for name, node in nodes.items()}


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
