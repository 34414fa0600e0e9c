"""A composed config as objects, with everything checked that can be checked before a tensor is allocated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from parediff.calibration.base import CalibrationSource
from parediff.errors import RequestError, nearest
from parediff.methods.base import Method
from parediff.metrics.base import Metric
from parediff.models.diffusion.sampler import Sampler
from parediff.provenance import run_id
from parediff.sampling.workload import Workload, check_disjoint

KEYS = (
    "model",
    "method",
    "methods",
    "sampler",
    "reference",
    "workload",
    "calibration",
    "metrics",
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
    workload = construct(config.workload, "workload")
    calibration = construct(config.calibration, "calibration")
    if methods:
        check_disjoint(workload.seeds, calibration.seeds)
    model = construct(config.model, "model", without=("architecture",))
    check_metrics(metrics, workload.labels, model.image_shape())
    _check_plain(values)
    identity = {key: value for key, value in values.items() if key not in NOT_IDENTITY}
    name = run_id(identity, [workload.first_seed, workload.count])
    return Request(
        model=model,
        methods=methods,
        sampler=construct(config.sampler, "sampler"),
        reference=construct(config.reference, "reference"),
        workload=workload,
        calibration=calibration,
        metrics=metrics,
        data=functools.cache(lambda: construct(config.data, "data")),
        trainer=construct(config.trainer, "trainer"),
        tracker=construct(config.tracker, "tracker"),
        config=values,
        id=name,
        folder=Path(values["runs_dir"]) / values["study"] / name,
        device=device_of(values["device"]),
    )


def check_metrics(metrics: Mapping[str, Metric], conditions: Any, shape: tuple[int, int, int] | None) -> None:
    """Raise RequestError for a metric that cannot judge such images; a shape that is not known yet waits."""
    for name, metric in metrics.items():
        if shape is not None:
            _within(f"metrics.{name}", metric.check, conditions, shape)


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
    for key, least in (("images", 1), ("repeats", 2), ("warmup", 0)):
        value = values["latency"].get(key)
        if not isinstance(value, int) or value < least:
            raise RequestError(f"latency.{key}", value, f"a whole number of at least {least} is accepted")
