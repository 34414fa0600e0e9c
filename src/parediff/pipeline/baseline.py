"""The uncompressed model under the same protocol: its outputs, its quality, its cost; computed once, kept on disk."""

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
from parediff.cost.base import Cost
from parediff.metrics.base import Metric
from parediff.pipeline.evaluate import evaluate
from parediff.pipeline.progress import Reporter
from parediff.provenance import fingerprint
from parediff.sampling.batch import Batch
from parediff.tasks.base import Task


@dataclass(frozen=True)
class Baseline:
    """Outputs (memory-mapped, row by row of the workload), quality, standard errors and what they rest on, cost."""

    outputs: np.ndarray
    quality: dict[str, float | None]
    stderr: dict[str, float]
    left_out: dict[str, list[float]]
    cost: dict[str, Any]


def baseline(
    task: Task,
    model: Any,
    metrics: Mapping[str, Metric],
    costs: Mapping[str, Cost],
    details: Mapping[str, Any],
    cache: Path,
    report: Reporter,
) -> Baseline:
    """The baseline from the cache, or measured now. `details` is all that decides it; other processes wait for it."""
    folder = cache / fingerprint(details)
    report.stage("baseline")
    with _locked(folder):
        if not (folder / "baseline.json").exists():
            _measure(task, model, metrics, costs, folder, report)
    content = json.loads((folder / "baseline.json").read_text())
    outputs = np.load(folder / "outputs.npy", mmap_mode="r")
    return Baseline(outputs, **content)


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
    task: Task,
    model: Any,
    metrics: Mapping[str, Metric],
    costs: Mapping[str, Cost],
    folder: Path,
    report: Reporter,
) -> None:
    """Run, judge, write the outputs and then the numbers; the numbers' file is what makes it complete."""
    report.stage("baseline outputs", task.count)
    outputs: np.memmap | None = None

    def keep(batch: Batch) -> None:
        nonlocal outputs
        rows = batch.outputs.numpy()
        if outputs is None:
            shape = (task.count, *rows.shape[1:])
            outputs = np.lib.format.open_memmap(folder / "outputs.npy", mode="w+", dtype=rows.dtype, shape=shape)
        outputs[batch.rows.start : batch.rows.stop] = rows
        report.advance(len(batch.rows))

    try:
        result = evaluate(task, model, metrics, costs, None, keep)
        if outputs is not None:
            outputs.flush()
    except OSError as cause:
        raise WriteError(folder / "outputs.npy", cause) from cause
    content = {key: getattr(result, key) for key in ("quality", "stderr", "left_out", "cost")}
    write_atomically(folder / "baseline.json", json.dumps(content, indent=2))
