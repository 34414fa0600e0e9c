"""A composed config as objects, with everything checked that can be checked before a tensor is allocated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.calibration.base import CalibrationSource
from parediff.cost.base import Cost
from parediff.errors import RequestError, nearest
from parediff.methods.base import Method
from parediff.metrics.base import Metric
from parediff.models.diffusion.sampler import Sampler
from parediff.provenance import run_id
from parediff.resources import shipped
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
    "latency",
    "front",
)
NOT_IDENTITY = ("points", "threads", "front", "hydra")


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
    folder: Path
    device: str

    @property
    def is_baseline(self) -> bool:
        """Nothing compressed, sampled as the reference is."""
        return not self.methods and self.sampler == self.reference


def build(config: DictConfig) -> Request:
    """The objects of a run. Raises RequestError for the first thing that is wrong."""
    values = resolved(config)
    methods = {name: construct(config.methods[name], f"methods.{name}") for name in config.get("methods") or {}}
    metrics = {name: construct(config.metrics[name], f"metrics.{name}") for name in config.get("metrics") or {}}
    costs = {name: construct(config.costs[name], f"costs.{name}") for name in config.get("costs") or {}}
    workload = construct(config.workload, "workload")
    calibration = construct(config.calibration, "calibration")
    if methods:
        check_disjoint(workload.seeds, calibration.seeds)
    model = model_from(config.model)
    _check_plain(values)
    parts = {
        "workload": workload,
        "sampler": construct(config.sampler, "sampler"),
        "reference": construct(config.reference, "reference"),
        "calibration": calibration,
        "data": functools.cache(lambda: data_of(config)),
    }
    task = construct(config.task, "task", **parts)
    check_kind(task, methods, calibration)
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
        trainer=construct(config.trainer, "trainer"),
        tracker=construct(config.tracker, "tracker"),
        config=values,
        id=name,
        folder=Path(values["runs_dir"]) / values["study"] / name,
        device=device_of(values["device"]),
    )


def model_from(node: Any) -> Any:
    """Where the model of a run comes from; what its node says for trainings and for composing is left out."""
    return construct(node, "model", without=("architecture", "inherits"))


def data_of(config: DictConfig) -> Any:
    """The data module; a model that names none of its own needs one from the user."""
    if config.get("data") is None:
        raise RequestError("data", "null", "images to learn from: data=folder data.path=…, data=datasets data.path=…")
    return construct(config.data, "data")


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
    files = {path.stem: OmegaConf.load(path) for path in sorted((shipped("conf") / "calibration").glob("*.yaml"))}
    return {name: get_class(str(OmegaConf.select(node, "_target_"))) for name, node in files.items()}


def check_metrics(
    metrics: Mapping[str, Metric], judged: str, conditions: Any, shape: tuple[int, int, int] | None
) -> None:
    """Raise RequestError for a metric that cannot judge such outputs; a shape that is not known yet waits."""
    for name, metric in metrics.items():
        if metric.judges != judged:
            raise RequestError("metric", name, f"a metric of {judged} is accepted, this one judges {metric.judges}")
        if shape is not None:
            _within(f"metrics.{name}", metric.check, conditions, shape)


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values; a value that must be given and is not, or a key nobody reads, raises."""
    unknown = [key for key in config if key not in (*KEYS, "hydra")]
    if unknown:
        key = str(unknown[0])
        raise RequestError(key, config[key], f"no such key.{nearest(key, KEYS)}")
    missing = sorted(OmegaConf.missing_keys(config))
    missing = [key for key in missing if not key.startswith("hydra")]
    if missing:
        raise RequestError(missing[0], "???", "a value has to be given")
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        return OmegaConf.to_container(plain, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise RequestError("config", "", " ".join(str(error).split())) from error


def construct(node: Any, key: str, without: tuple[str, ...] = (), **further: Any) -> Any:
    """The object a config node (and `further` arguments) describes; lists become tuples, a complaint names its key."""
    if node is None or "_target_" not in node:
        raise RequestError(key, node, "an entry with a _target_ is accepted")
    plain: Any = OmegaConf.to_container(node, resolve=True)
    wanted = {name: value for name, value in plain.items() if name not in without}

    def make() -> Any:
        factory = instantiate(wanted, _partial_=True, _convert_="all")
        keywords = {name: _frozen(value) for name, value in factory.keywords.items()}
        return factory.func(*factory.args, **keywords, **further)

    return _within(key, make)


def _within(key: str, act: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return act(*arguments)
    except RequestError as error:
        raise error.within(key) from error
    except (TypeError, ValueError, ImportError) as error:
        raise RequestError(key, type(error).__name__, " ".join(str(error).split())[:300]) from error
    except Exception as error:
        if isinstance(error.__cause__, RequestError):
            raise error.__cause__.within(key) from error
        if type(error).__module__.startswith("hydra"):
            raise RequestError(key, "", " ".join(str(error).split())[:300]) from error
        raise


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def device_of(name: str) -> str:
    """'cuda' where there is one, else 'cpu', for 'auto'."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise RequestError("device", name, "auto, cpu, cuda or cuda:<index> is accepted") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise RequestError("device", name, "no CUDA device is present; auto or cpu is accepted")
    return name


def _check_plain(values: Mapping[str, Any]) -> None:
    """Types and ranges of the top level's own keys."""
    for key in ("resume", "save"):
        if not isinstance(values[key], bool):
            raise RequestError(key, values[key], "true or false is accepted")
    study = values["study"]
    if not isinstance(study, str) or not study or study.startswith(("/", ".")):
        raise RequestError("study", study, "a name is accepted")
    threads = values["threads"]
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise RequestError("threads", threads, "a whole number of at least 1, or null, is accepted")
