"""The uncompressed model under the same protocol: its images, its quality, its cost; computed once, kept on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from parediff.atomic import WriteError, write_atomically
from parediff.metrics.base import Metric
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.evaluate import evaluate, peak_of
from parediff.pipeline.progress import Reporter
from parediff.provenance import fingerprint
from parediff.sampling.images import Batch
from parediff.sampling.workload import Workload


@dataclass(frozen=True)
class Baseline:
    """Images (uint8 NCHW, memory-mapped, row i is seed first_seed + i), quality, standard errors and cost."""

    images: np.ndarray
    quality: dict[str, float | None]
    stderr: dict[str, float | None]
    cost: dict[str, Any]


def baseline(
    model: DiffusionModel,
    workload: Workload,
    sampler: Sampler,
    metrics: Mapping[str, Metric],
    details: Mapping[str, Any],
    cache: Path,
    report: Reporter,
) -> Baseline:
    """The baseline from the cache, or measured now. `details` is all that decides it; other processes wait for it."""
    folder = cache / fingerprint(details)
    report.stage("baseline")
    with _locked(folder):
        if not (folder / "baseline.json").exists():
            _measure(model, workload, sampler, metrics, folder, report)
    content = json.loads((folder / "baseline.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r")
    return Baseline(images, content["quality"], content["stderr"], content["cost"])


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock ends with its holder, also when it is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    except OSError as cause:
        raise WriteError(folder, cause) from cause
    try:
        yield
    finally:
        lock.release()


def _measure(
    model: DiffusionModel,
    workload: Workload,
    sampler: Sampler,
    metrics: Mapping[str, Metric],
    folder: Path,
    report: Reporter,
) -> None:
    """Sample, judge, write the images and then the numbers; the numbers' file is what makes it complete."""
    report.stage("baseline images", workload.count)
    images: np.memmap | None = None

    def keep(batch: Batch) -> None:
        nonlocal images
        if images is None:
            shape = (workload.count, *batch.images.shape[1:])
            images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        first = batch.seeds[0] - workload.first_seed
        images[first : first + len(batch.seeds)] = batch.images.numpy()
        report.advance(len(batch.seeds))

    try:
        result = evaluate(model, workload, sampler, metrics, None, keep)
        if images is not None:
            images.flush()
    except OSError as cause:
        raise WriteError(folder / "images.npy", cause) from cause
    cost = result.cost | {"peak_memory_bytes": peak_of(model, workload, sampler)}
    content = {"quality": result.quality, "stderr": result.stderr, "cost": cost}
    write_atomically(folder / "baseline.json", json.dumps(content, indent=2))
