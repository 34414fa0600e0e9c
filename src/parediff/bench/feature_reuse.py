"""feature reuse: measured speed-up of FRDiff and its rivals over the full model, and how much of the MACs' it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from parediff.bench.settings import settings_from, threads
from parediff.cost import Latency, counting, paired_latency
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.methods.deepcache import DeepCache
from parediff.methods.diffusers_cache import DiffusersCache
from parediff.methods.frdiff import FRDiff
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler, generators_for
from parediff.models.diffusion.synthetic import cifar_model, dit_model, flux_model, latent_model
from parediff.reuse.engine import Reuse
from parediff.reuse.share import left_out, time_ratio, timing
from parediff.validation import check_types, require

NETWORKS: dict[str, Callable[[], DiffusionModel]] = {
    "cifar": cifar_model,
    "sd": latent_model,
    "dit": dit_model,
    "flux": flux_model,
}
KEPT = {"cifar": 0.9, "sd": 0.9, "dit": 0.95, "flux": 0.95}
"""The share of the saving that must arrive: of that in MACs, or in seconds of what is skipped, where that is less."""


@dataclass(frozen=True)
class Settings:
    """`repeats` alternating pairs of a run of `steps` steps; `output` is a JSON file; `rivals` are measured beside."""

    networks: tuple[str, ...] = ("cifar", "sd", "dit", "flux")
    intervals: tuple[int, ...] = (2, 3, 5)
    steps: int = 10
    batch: int = 1
    repeats: int = 4
    threads: int = 1
    rivals: bool = True
    output: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for network in self.networks:
            require(network in NETWORKS, "networks", network, " or ".join(NETWORKS))
        for key in ("steps", "batch", "threads"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")
        require(self.repeats >= 2, "repeats", self.repeats, "2 or more")


@dataclass(frozen=True)
class Row:
    """One candidate against the full model; `ours` are held to `KEPT`.

    `time_ratio` is the speed-up if what our own methods skip cost nothing and all else what it costs in the full model.
    It is less than the MACs' where what stays alive, such as adaLN, norms and gates, takes seconds without MACs.
    """

    network: str
    candidate: str
    ours: bool
    mac_ratio: float
    speed_up: float
    full_s: float
    seconds: float
    spread: float
    drift: float
    time_ratio: float | None = None

    @property
    def kept(self) -> float:
        """Measured speed-up over the ratio of MACs."""
        return self.speed_up / self.mac_ratio

    @property
    def kept_of_time(self) -> float | None:
        """Measured speed-up over the ratio of seconds that what is skipped allows."""
        return None if self.time_ratio is None else self.speed_up / self.time_ratio

    @property
    def enough(self) -> bool:
        return max(self.kept, self.kept_of_time or 0.0) >= KEPT[self.network]


@dataclass(frozen=True)
class Candidate:
    """Something that draws, and the network in which its work is counted."""

    name: str
    ours: bool
    denoiser: nn.Module
    draw: Callable[[], object]
    reuse: Reuse | None = None


def main(overrides: list[str], console: Any) -> int:
    """Measure every candidate, print the table, write the JSON; 1 where one of ours loses too much."""
    settings = settings_from(Settings, overrides)
    with threads(settings.threads):
        rows = []
        for row in (row for network in settings.networks for row in measure(network, settings)):
            rows.append(row)
            console.print(f"{row.network}, {row.candidate}: {row.speed_up:.2f} of {row.mac_ratio:.2f}")
            if settings.output:  # also what was measured before somebody ended it
                Path(settings.output).write_text(json.dumps([_told(row) for row in rows], indent=2))
    console.print(_table(rows, settings))
    if find_spec("DeepCache") is None:
        console.print("the package DeepCache is not installed; with it (pip install DeepCache) it is measured beside")
    return 0 if all(row.enough for row in rows if row.ours) else 1


def _told(row: Row) -> dict[str, Any]:
    return asdict(row) | {"kept": row.kept, "kept_of_time": row.kept_of_time}


def measure(network: str, settings: Settings) -> Iterator[Row]:
    """One row per candidate, each in alternating pairs with the full model."""
    model = NETWORKS[network]()
    full = _through_the_door(model, settings)
    with counting(model.denoiser) as plain:
        full()
    shares: dict[frozenset[nn.Module], tuple[float, float]] = {}
    for candidate in (*_own(model, settings), *(_rivals(model, settings) if settings.rivals else ())):
        with counting(candidate.denoiser) as reused:
            candidate.draw()
        latency = paired_latency(full, candidate.draw, settings.repeats, 1)
        allowed = None
        if candidate.reuse is not None:
            parts = left_out(candidate.reuse.find(model.denoiser))
            if frozenset(parts) not in shares:
                shares[frozenset(parts)] = _shares(model, full, parts, settings.repeats)
            allowed = time_ratio(candidate.reuse.tally, *shares[frozenset(parts)])
        yield _row(network, candidate, plain.macs / reused.macs, latency, allowed)


def _shares(
    model: DiffusionModel, full: Callable[[], object], parts: dict[nn.Module, float], repeats: int
) -> tuple[float, float]:
    """(share of a call of the full model that goes to `parts`, share of a run that goes to calls)."""
    before = time.perf_counter()
    with timing(model.denoiser, parts) as shares:
        for _ in range(repeats):
            full()
    return shares.of_a_call, sum(shares.calls) / (time.perf_counter() - before)


def _sampler(settings: Settings) -> Sampler:
    return Sampler(name="own", scheduler=None, steps=settings.steps)


def _through_the_door(model: DiffusionModel, settings: Settings) -> Callable[[], object]:
    prompts = ("a",) * settings.batch if model.conditioning == "text" else None
    return lambda: model.generate(range(settings.batch), prompts, _sampler(settings))


def _past_the_door(
    model: DiffusionModel, settings: Settings, inside: Callable[[], AbstractContextManager[Any]]
) -> Callable[[], object]:
    """Rivals patch the network's forward themselves, so they get the pipeline alone."""

    def draw() -> object:
        model.pipeline.scheduler = _sampler(settings).scheduler_for(model.pipeline)
        generators = generators_for(range(settings.batch))
        with inside():
            return model.pipeline(["a"] * settings.batch, settings.steps, generators, "pt")

    return draw


def _row(network: str, candidate: Candidate, mac_ratio: float, latency: Latency, allowed: float | None) -> Row:
    return Row(
        network,
        candidate.name,
        candidate.ours,
        mac_ratio,
        1 / latency.ratio,
        latency.first_s,
        latency.second_s,
        latency.ratio_spread / latency.ratio**2,
        latency.drift,
        allowed,
    )


def _own(model: DiffusionModel, settings: Settings) -> Iterator[Candidate]:
    for interval in settings.intervals:
        yield _candidate(model, settings, f"frdiff M={interval}", _frdiff(interval, "hard"))
        yield _candidate(model, settings, f"frdiff M={interval}, no mixing", _frdiff(interval, "off"))
    for interval in settings.intervals if model.part != "unet" else ():
        yield _candidate(model, settings, f"frdiff M={interval}, no mixing, stacks", _frdiff(interval, "off", "stack"))
    for interval in settings.intervals if model.part == "unet" else ():
        yield _candidate(model, settings, f"deepcache N={interval}", _deepcache(interval))


def _candidate(model: DiffusionModel, settings: Settings, name: str, method: Method) -> Candidate:
    student = model.copy()
    method.prepare(student)
    reuse = next(factory for factory in student.wrapper_factories if isinstance(factory, Reuse))
    return Candidate(name, True, student.denoiser, _through_the_door(student, settings), reuse)


def _rivals(model: DiffusionModel, settings: Settings) -> Iterator[Candidate]:
    """diffusers' own loop without a door, its caches where they can be hooked, and the package DeepCache for UNets."""
    if model.conditioning != "text":
        return
    bare = model.copy()
    yield Candidate("bare diffusers loop", False, bare.denoiser, _past_the_door(bare, settings, nullcontext))
    for name, cache in _caches(settings).items():
        student = model.copy()
        try:
            cache.prepare(student)
        except RequestError:  # diffusers cannot hook it to this network
            continue
        yield Candidate(name, False, student.denoiser, _through_the_door(student, settings))
    if model.part != "unet":
        return
    for interval in settings.intervals:
        if find_spec("DeepCache") is not None:
            rival = model.copy()
            draw = _past_the_door(rival, settings, partial(_package, rival, interval))
            yield Candidate(f"DeepCache package N={interval}", False, rival.denoiser, draw)


def _caches(settings: Settings) -> dict[str, DiffusersCache]:
    """At settings under which each of them skips about every other step of a random network."""
    always = [-1, 1001]
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "PAB 2": (
            "PyramidAttentionBroadcastConfig",
            {
                "spatial_attention_block_skip_range": 2,
                "cross_attention_block_skip_range": 2,
                "spatial_attention_timestep_skip_range": always,
                "cross_attention_timestep_skip_range": always,
            },
        ),
        "TaylorSeer 2": (
            "TaylorSeerCacheConfig",
            {"cache_interval": 2, "disable_cache_before_step": 1, "cache_identifiers": None},
        ),
        "First Block Cache": ("FirstBlockCacheConfig", {"threshold": 0.1}),
        "MagCache": ("MagCacheConfig", {"max_skip_steps": 1, "retention_ratio": 0.1}),
        "FasterCache": ("FasterCacheConfig", {"spatial_attention_timestep_skip_range": always}),
    }
    return {
        f"diffusers {name}": DiffusersCache(name="rival", config=config, steps=settings.steps, settings=chosen)
        for name, (config, chosen) in asked.items()
    }


def _frdiff(interval: int, mixing: Any, blocks: Any = "parts") -> FRDiff:
    return FRDiff(
        interval=interval,
        keyframes="uniform",
        center=0,
        power=1.0,
        first_full=1,
        last_full=0,
        mixing=mixing,
        temperature=30,
        bias=0.5,
        resnets=True,
        attentions=True,
        mlps=True,
        blocks=blocks,
    )


def _deepcache(interval: int) -> DeepCache:
    return DeepCache(interval=interval, keyframes="uniform", center=0, power=1.0, first_full=1, last_full=0, branch=1)


@contextmanager
def _package(model: DiffusionModel, interval: int) -> Iterator[None]:
    """The PyPI package around one drawing; it is switched off again because it keeps its tensors otherwise."""
    from DeepCache import DeepCacheSDHelper  # type: ignore[import-not-found,unused-ignore]

    helper = DeepCacheSDHelper(pipe=model.pipeline)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield
    finally:
        helper.disable()


def _table(rows: Sequence[Row], settings: Settings) -> Any:
    from rich.table import Table

    title = f"{settings.steps} steps, batch {settings.batch}, {settings.threads} thread, {settings.repeats} pairs"
    table = Table(title=title)
    for heading in (
        "network",
        "candidate",
        "full s",
        "s",
        "speed-up",
        "MAC ratio",
        "kept",
        "time ratio",
        "kept",
        "drift",
    ):
        table.add_column(heading)
    for row in rows:
        speed = f"{row.speed_up:.2f} ± {row.spread / 2:.2f}"
        cells = (row.network, row.candidate, f"{row.full_s:.3f}", f"{row.seconds:.3f}", speed)
        table.add_row(*cells, f"{row.mac_ratio:.2f}", f"{row.kept:.2f}", *_of_time(row), f"{row.drift:.2f}")
    return table


def _of_time(row: Row) -> tuple[str, str]:
    return ("", "") if row.time_ratio is None else (f"{row.time_ratio:.2f}", f"{row.kept_of_time:.2f}")
