"""The line step by step, for notebooks: ordinary functions with plain arguments that build the request of a run.

What is not given follows the model, as in `parediff run`; what is wrong raises RequestError before a tensor is made.
Files lie where a run keeps them, below `runs_dir`: the reference's outputs, statistics of reference sets, records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from parediff.config.catalogue import options
from parediff.config.compose import Composer
from parediff.config.request import NOT_IDENTITY, Request, build
from parediff.config.rules import check_kind, check_together
from parediff.errors import RequestError, nearest
from parediff.methods.base import Method
from parediff.metrics.base import Metric
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.progress import Reporter
from parediff.pipeline.run import baseline_of, compress_model, measured, prepared
from parediff.pipeline.statement import method_code, protocol_of, write
from parediff.pipeline.unfinished import Unfinished
from parediff.provenance import fingerprint, plain, run_id, without
from parediff.results.front import Front, build_fronts
from parediff.results.record import Record
from parediff.sampling.batch import to_uint8

Settings = Mapping[str, Any]
Chosen = Sequence[str] | Mapping[str, Any]
"""Names, for options with their defaults; or name -> settings of that option, or an object of one's own."""
GROUPS = {"method": "methods", "metric": "metrics", "cost": "costs"}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory: `network` as the methods left it, `uncompressed` as it came, and what was asked so far."""

    network: DiffusionModel
    uncompressed: DiffusionModel
    asked: Mapping[str, Any] = field(repr=False)
    methods: Mapping[str, Method] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Scores:
    """What a model is worth and costs beside the uncompressed one; `pictures` are the first ones, uint8 NCHW."""

    record: Record = field(repr=False)
    pictures: Tensor = field(repr=False)
    request: Request = field(repr=False)

    @property
    def quality(self) -> Mapping[str, float | None]:
        return self.record.quality

    @property
    def fidelity(self) -> Mapping[str, float | None]:
        return self.record.fidelity

    @property
    def cost(self) -> Mapping[str, Any]:
        """Per image, over the whole sampling run as executed."""
        return self.record.cost


def load_model(name: str, *, device: str = "auto", runs_dir: str = "runs", **settings: Any) -> LoadedModel:
    """A diffusion model: an option of `parediff list models`, a diffusers folder, or a hub id.

    `settings` are those of its YAML, such as `dtype="float16"` or `guidance_scale=4.0`. Raises RequestError where
    nothing of the name is found or its weights are no safetensors.
    """
    known = options("model")
    if name not in known and "/" not in name and not Path(name).expanduser().is_dir():
        accepted = f"{', '.join(known)}, a diffusers folder or a hub id is accepted.{nearest(name, known)}"
        raise RequestError("name", name, accepted)
    chosen = {"model": name if name in known else "pipeline"}
    own = dict(settings) if name in known else {"name": Path(name).name, "path": name, **settings}
    asked = {"groups": chosen, "settings": {f"model.{key}": value for key, value in own.items()}}
    asked["settings"] |= {"device": device, "runs_dir": runs_dir, "study": "notebook"}
    request = _request(asked)
    network = request.model.load(request.device)
    return LoadedModel(network, network, asked)


def compress(model: LoadedModel, methods: Chosen, *, steps: int | None = None, **settings: Any) -> LoadedModel:
    """The model made cheaper by methods, in the order given; `model` stays as it is.

    `methods`: names (`["ptq"]`), settings by name (`{"ptq": {"weight_bits": 4}}`), or objects (`{"mine": Mine()}`).
    `steps`: of the sampler that it is calibrated for and sampled with. `settings` are keys of a run with `__` for
    dots, such as `calibration__count=16` or `trainer__max_steps=100`. Raises RequestError for methods that do not go
    together or do not fit the model.
    """
    if model.methods:
        raise RequestError("model", list(model.methods), "an uncompressed model is accepted; give all methods at once")
    further = {"sampler.steps": steps} if steps is not None else {}
    further |= {key.replace("__", "."): value for key, value in settings.items()}
    asked, own = _chosen(model.asked, "method", methods), _objects(methods)
    asked = asked | {"settings": asked["settings"] | further}
    request = _request(asked)
    request = _with_objects(request, {name: own.get(name) or request.methods[name] for name in methods})
    request.task.check(model.uncompressed)
    student, report = model.uncompressed.copy(), Reporter(request.folder)
    unfinished = Unfinished(request.folder, fingerprint(protocol_of(request) | {"methods": method_code(request)}))
    try:
        calibration = compress_model(request, student, model.uncompressed, report, unfinished, None)
        unfinished.remove(trainings=True)
    finally:
        report.close()
    return LoadedModel(student, model.uncompressed, asked, request.methods, calibration)


def sample(
    model: LoadedModel, seeds: Iterable[int], conditions: Sequence[Any] | None = None, *, steps: int | None = None
) -> Tensor:
    """Images, uint8 [B, C, H, W]: one a seed and condition, independent of the others in the batch.

    `conditions` are class labels or prompts; null for models without, or for all classes in turn.
    """
    request = _request(_in_steps(model.asked, steps))
    return to_uint8(model.network.generate(list(seeds), conditions, request.sampler))


def evaluate(
    model: LoadedModel,
    *,
    metrics: Chosen | None = None,
    costs: Chosen | None = None,
    count: int | None = None,
    steps: int | None = None,
    **settings: Any,
) -> Scores:
    """Quality and cost of `count` images, beside the uncompressed model's own of the same seeds and its own sampler.

    `metrics` and `costs`: as methods in `compress`. `settings` are keys of a run with `__` for dots, such as
    `workload__blocks=4`. Raises RuntimeError for a method that shows no effect, NotFinite where an image is none.
    """
    asked = _in_steps(model.asked, steps)
    given = {"metric": metrics, "cost": costs}
    for group, chosen in given.items():
        asked = asked if chosen is None else _chosen(asked, group, chosen)
    further = {key.replace("__", "."): value for key, value in settings.items()}
    further |= {} if count is None else {"workload.count": count}
    asked = asked | {"settings": asked["settings"] | further}
    request = _with_objects(_request(asked), model.methods, _objects(metrics))
    stages, report = prepared(request), Reporter(request.folder)
    try:
        protocol = protocol_of(request)
        reference = baseline_of(request, model.uncompressed, protocol, report)
        both = model.network, model.uncompressed
        unfinished = Unfinished(request.folder, fingerprint(protocol | {"methods": method_code(request)}))
        told = dict(model.calibration)
        record, pictures = measured(request, *both, protocol, reference, told, stages, report, unfinished)
        unfinished.remove(trainings=True)
    finally:
        report.close()
    return Scores(record, pictures, request)


def make_record(scores: Scores) -> Record:
    """The record, now on disk in a folder of its own: `parediff front`, `compare` and `dashboard` find it there."""
    write(scores.request, scores.record, scores.pictures)
    return replace(scores.record, folder=scores.request.folder)


def make_front(records: Sequence[Record], x: str | None = None, y: str | None = None) -> Front:
    """The front over records of one protocol: `x` a cost (bops where left out), `y` a metric (the first quality)."""
    fronts = build_fronts(list(records), x, y)
    if len(fronts) > 1:
        raise RequestError("records", f"{len(fronts)} protocols", "records measured with the same yardstick share one")
    return fronts[0]


def draw_front(records: Sequence[Record], x: str | None = None, y: str | None = None) -> Any:
    """The front as a plotly figure; a notebook shows it."""
    from parediff.report.figure import figure

    return figure(make_front(records, x, y))


def _request(asked: Mapping[str, Any]) -> Request:
    """The run that plain arguments describe."""
    composer = Composer("config")
    config = composer.compose(["tracker=none", *(f"{group}={name}" for group, name in asked["groups"].items())])
    OmegaConf.set_struct(config, True)
    for key, value in asked["settings"].items():
        try:
            OmegaConf.update(config, key, value)
        except OmegaConfBaseException as error:
            raise RequestError(key, value, f"no such key.{nearest(key, composer.known_keys(key))}") from error
    return build(config)


def _chosen(asked: Mapping[str, Any], group: str, chosen: Chosen) -> dict[str, Any]:
    """What was asked so far, with the options of one group and their settings."""
    names = [name for name in chosen if not isinstance(chosen, Mapping) or not _is_object(chosen[name])]
    given = {name: chosen[name] for name in names} if isinstance(chosen, Mapping) else {}
    settings = {f"{GROUPS[group]}.{name}.{key}": value for name in given for key, value in given[name].items()}
    return {
        "groups": {**asked["groups"], group: f"[{','.join(names)}]"},
        "settings": {**asked["settings"], **settings},
    }


def _is_object(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _objects(chosen: Chosen | None) -> dict[str, Any]:
    """The objects among what was chosen."""
    return {name: value for name, value in chosen.items() if _is_object(value)} if isinstance(chosen, Mapping) else {}


def _in_steps(asked: Mapping[str, Any], steps: int | None) -> dict[str, Any]:
    further = {} if steps is None else {"sampler.steps": steps}
    return {"groups": asked["groups"], "settings": {**asked["settings"], **further}}


def _with_objects(request: Request, methods: Mapping[str, Any], metrics: Mapping[str, Metric] | None = None) -> Request:
    """The request with all methods in order, and metrics of one's own; objects are on record as class and fields."""
    metrics = {**request.metrics, **(metrics or {})}
    if list(methods) == list(request.methods) and len(metrics) == len(request.metrics):
        return request
    classes = {name: type(own) for name, own in methods.items()}
    check_together(classes)
    judges = {name: type(own) for name, own in metrics.items()}
    check_kind(type(request.task), classes, judges, type(request.calibration))
    known = request.config
    described = {
        "methods": {name: (known.get("methods") or {}).get(name) or _described(own) for name, own in methods.items()},
        "metrics": {name: (known.get("metrics") or {}).get(name) or _described(own) for name, own in metrics.items()},
    }
    config = {**known, **described}
    name = run_id(without(config, NOT_IDENTITY), [request.workload.first_seed, request.workload.count])
    return replace(request, methods=dict(methods), metrics=metrics, config=config, id=name)


def _described(own: Any) -> dict[str, Any]:
    """An object as the YAML that would make it."""
    kind = type(own)
    return {
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        **{item.name: plain(getattr(own, item.name)) for item in fields(own)},
    }
