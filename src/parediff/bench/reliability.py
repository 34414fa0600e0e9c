"""What a sweep survives, what a run costs besides its images, and how long help and a refusal take.

Runs of the digits model are killed (SIGKILL) in training, calibration, sampling, evaluation and while a file is half
written, and started again until the study is finished; its records are compared bit for bit with an unbroken study's.
Then processes write records into one study and are killed at random. Seconds are the processor's own.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parediff.bench.dashboard import Row
from parediff.bench.settings import settings_from
from parediff.bench.victims import PLACES, Strike, configs_of, killed_writers, run
from parediff.results import record as records
from parediff.results.record import Record
from parediff.validation import Positive, Seed, Several, Whole, check_types

STUDY = (
    "model=ddpm_digits",
    "metric=[psnr,ssim]",
    "cost=[macs,bops,nfe,size_bytes]",
    "tracker=none",
    "study=struck",
    "front.y=psnr",
    "workload.count=24",
    "workload.batch_size=4",
    "workload.blocks=2",
    "reference.steps=4",
    "sampler.steps=3",
    "calibration.count=4",
    "calibration.batch_size=2",
    "trainer.max_steps=8",
    "trainer.checkpoint_every=2",
    "trainer.validate_every=0",
    "trainer.progress=false",
    "trainer.accelerator=cpu",
    "device=cpu",
    "points=[['method=[]'],['method=[ptq]'],['method=[lsq]']]",
)
NUMBERS = ("quality", "fidelity", "stderr", "cost", "baseline", "protocol")
WRONG = ["run", "method=[lsq]", "methods.lsq.weight_bits=99"]
MOST_STARTS = 50  # of one study: a run that cannot get on is a finding


@dataclass(frozen=True)
class Settings:
    """Counts (0 leaves a part out) and limits."""

    kills: Whole = 100
    processes: Whole = 16
    records: Whole = 200  # of each process
    images: Whole = 16  # of the overhead
    repeats: Several = 4
    seed: Seed = 0
    overhead: Positive = 0.03
    help_s: Positive = 1.0
    refusal_s: Positive = 3.0

    def __post_init__(self) -> None:
        check_types(self)


@dataclass
class Toll:
    """What the kills of a study cost. `redone`: finished records that were written again."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    lost: int = 0
    redone: int = 0
    different: int = 0
    left_over: int = 0
    studies: int = 0


def main(overrides: Sequence[str], console: Any) -> int:
    """0 where every limit holds."""
    from rich.table import Table

    settings = settings_from(Settings, overrides)
    table = Table("", "measured", "limit", title="reliability", title_justify="left", box=None, padding=(0, 2))
    rows = list(measure(settings))
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g}"
        table.add_row(row.what, f"{row.value:.4g} {row.unit}".strip(), limit, style="" if row.holds else "red")
    console.print(table)
    return 0 if all(row.holds for row in rows) else 1


def measure(settings: Settings) -> Iterator[Row]:
    """Figures in the order in which they are measured."""
    with tempfile.TemporaryDirectory() as folder:
        if settings.kills:
            yield from _kills(Path(folder), settings)
        if settings.processes and settings.records:
            lost, kills = killed_writers(Path(folder) / "w", settings.processes, settings.records, settings.seed)
            written = settings.processes * settings.records
            yield Row(f"{written} records by {settings.processes} processes, {kills} kills: lost", lost, 0, "")
        if settings.images:
            yield Row("sampling of a run over the bare loop", _overhead(settings, Path(folder)), settings.overhead, "")
    for words, code, limit in ((["--help"], 0, settings.help_s), (WRONG, 2, settings.refusal_s)):
        processor, wall = _answer(words, code)
        yield Row(f"parediff {' '.join(words)}: processor", processor, limit, "s")
        yield Row(f"parediff {' '.join(words)}: wall clock", wall, None, "s")


def _kills(folder: Path, settings: Settings) -> Iterator[Row]:
    whole, draw, toll = folder / "whole", random.Random(settings.seed), Toll()
    if run(configs_of([*STUDY, f"runs_dir={whole}"]), None) != 0:
        raise RuntimeError("the unbroken study failed")
    wanted = _numbers(whole)
    while sum(toll.kills.values()) < settings.kills:
        _one_study(folder / f"struck{toll.studies}", wanted, settings.kills, draw, toll)
    for place, count in toll.kills.items():
        yield Row(f"killed in {place}", count, None, "")
    yield Row("studies finished", toll.studies, None, "")
    for what in ("lost", "redone", "different", "left_over"):
        yield Row(f"records or files {what.replace('_', ' ')}", getattr(toll, what), 0, "")


def _one_study(runs: Path, wanted: dict[str, Any], most: int, draw: random.Random, toll: Toll) -> None:
    """Start a study again and again, killed at places drawn in turn, until it is finished."""
    stamps: dict[str, int] = {}
    configs = configs_of([*STUDY, f"runs_dir={runs}"])
    for start in range(MOST_STARTS):
        done = sum(toll.kills.values())
        place = PLACES[done % len(PLACES)]
        strike = Strike(place, draw.randint(1, 6)) if done < most and start < MOST_STARTS - 1 else None
        code = run(configs, strike)
        if code == -9:
            toll.kills[place] += 1
        _compare(runs, stamps, toll)
        if code == 0:
            break
    toll.studies += 1
    found = _numbers(runs)
    toll.different += sum(found.get(name) != numbers for name, numbers in wanted.items())
    left = [*runs.rglob("*.tmp"), *runs.rglob("unfinished"), *runs.rglob("progress.json")]
    toll.left_over += len(left)


def _compare(runs: Path, stamps: dict[str, int], toll: Toll) -> None:
    """Whether what was finished stands as it was."""
    now = {path.parent.name: path.stat().st_mtime_ns for path in runs.rglob(records.NAME)} if runs.exists() else {}
    whole = {found.id for found in records.find([runs]).records} if now else set()
    toll.lost += sum(name not in whole for name in {**stamps, **now})
    toll.redone += sum(name in now and now[name] != stamp for name, stamp in stamps.items())
    stamps.update(now)


def _numbers(runs: Path) -> dict[str, Any]:
    def of(found: Record) -> dict[str, Any]:
        return {key: getattr(found, key) for key in NUMBERS}

    return {found.id: of(found) for found in records.find([runs]).records if found.status == "finished"}


def _overhead(settings: Settings, folder: Path) -> float:
    """Processor seconds of a run's sampling over diffusers' own pipeline, for the same images; 0.01 is a hundredth."""
    import torch

    from parediff.config.compose import Composer
    from parediff.config.construct import construct
    from parediff.cost.timing import paired_latency
    from parediff.models.diffusion.load import bare_ddim
    from parediff.models.diffusion.pipeline import DiffusionModel
    from parediff.models.diffusion.sampler import Sampler
    from parediff.sampling.blocks import Blocks
    from parediff.sampling.images import images
    from parediff.sampling.workload import Workload

    torch.set_num_threads(1)
    steps, at_once = 10, max(1, settings.images // 4)
    config = Composer("train").compose(["model=unet", "data=folder", f"data.path={folder}"])
    architecture = construct(config.model.architecture, "model.architecture")
    architecture.save(folder / "model", "random")
    model, bare = DiffusionModel(bare_ddim(folder / "model"), name="random"), bare_ddim(folder / "model")
    sampler = Sampler(name="ddim", scheduler="DDIMScheduler", steps=steps)
    workload = Workload(0, settings.images, at_once)

    def plain() -> None:
        for seeds, _ in workload.batches():
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            bare(batch_size=len(seeds), generator=generators, num_inference_steps=steps, output_type="np")

    def ours() -> None:
        blocks = Blocks(folder / "images")
        for _ in images(model, workload, sampler, blocks):
            pass
        blocks.remove()

    return paired_latency(plain, ours, settings.repeats, 1, time.process_time).ratio - 1


def _answer(words: Sequence[str], code: int) -> tuple[float, float]:
    """(processor, wall) seconds of a command that ends with `code`, the best of three."""
    found = []
    for _ in range(3):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "parediff", *words], check=False, capture_output=True)
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
        if done.returncode != code:
            raise RuntimeError(f"parediff {' '.join(words)} ended with {done.returncode}, not with {code}")
        found.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    return min(found)
