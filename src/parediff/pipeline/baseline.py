"""The uncompressed model under the same protocol: its outputs, its quality, its cost; computed once, kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from parediff.atomic import WriteError, tidy, write_atomically
from parediff.cost.base import Cost
from parediff.metrics.base import Metric
from parediff.pipeline.evaluate import evaluate
from parediff.pipeline.progress import Reporter
from parediff.provenance import fingerprint
from parediff.results.lease import lease
from parediff.sampling.batch import Batch
from parediff.sampling.blocks import Blocks
from parediff.tasks.base import Task

UNFINISHED = "unfinished"  # images of a baseline that is still being measured


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
    with lease(folder, wait=True):
        if not (folder / "baseline.json").exists():
            _measure(task, model, metrics, costs, folder, report)
        Blocks(folder / UNFINISHED).remove()
    content = json.loads((folder / "baseline.json").read_text())
    outputs = np.load(folder / "outputs.npy", mmap_mode="r")
    return Baseline(outputs, **content)


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
    blocks, drawn = Blocks(folder / UNFINISHED), folder / "outputs.npy"
    tidy(folder)
    try:
        with drawn.open("wb") as file:
            result = evaluate(task, model, metrics, costs, None, _writing(task, file, report), blocks)
            file.flush()
            os.fsync(file.fileno())
    except OSError as cause:
        raise WriteError(drawn, cause) from cause
    content = {key: getattr(result, key) for key in ("quality", "stderr", "left_out", "cost")}
    write_atomically(folder / "baseline.json", json.dumps(content, indent=2))


def _writing(task: Task, file: BinaryIO, report: Reporter) -> Callable[[Batch], None]:
    """Appends each batch's outputs to an .npy file of all of them; a full disk is an OSError, not a dead process."""

    def write(batch: Batch) -> None:
        rows = batch.outputs.numpy()
        if batch.rows.start == 0:
            header = {"descr": rows.dtype.str, "fortran_order": False, "shape": (task.count, *rows.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(rows.tobytes())
        report.advance(len(batch.rows))

    return write
