"""What each task tells the line: its protocol, its baseline, its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import tiny
from parediff.calibration.uniform import Uniform
from parediff.cost.macs import Macs
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.metrics.psnr import PeakSignalToNoise
from parediff.pipeline.baseline import baseline
from parediff.pipeline.compress import restore
from parediff.pipeline.evaluate import evaluate
from parediff.pipeline.progress import Reporter
from parediff.sampling.workload import Workload
from parediff.tasks.classification import evenly_spaced
from parediff.tasks.image_generation import ImageGeneration

CALIBRATION = Uniform(first_seed=10**9, count=2, batch_size=2, steps=2)
TASK = ImageGeneration(
    workload=Workload(first_seed=0, count=6, batch_size=4, blocks=2),
    sampler=replace(tiny.DDIM, steps=2),
    reference=tiny.DDIM,
    calibration=CALIBRATION,
    data=lambda: None,
)


def measured(folder: Path, task: ImageGeneration = TASK) -> Any:
    costs = {"macs": Macs()}
    return baseline(task, tiny.unconditional_model(), {}, costs, {"of": "this"}, folder, Reporter(folder))


def test_the_protocol_holds_count_conditions_and_the_reference_sampler() -> None:
    protocol = TASK.protocol()
    assert protocol["workload"] == {"count": 6, "conditions": None}
    assert protocol["reference"]["steps"] == tiny.DDIM.steps
    assert TASK.protocol() != replace(TASK, workload=replace(TASK.workload, count=8)).protocol()
    moved = replace(TASK, workload=replace(TASK.workload, first_seed=100))
    assert TASK.protocol() == moved.protocol(), "seeds may differ: their points are averaged"


def test_rows_cover_the_workload_in_order_and_blocks_do_not_mix() -> None:
    batches = list(TASK.batches(tiny.unconditional_model(), as_reference=False))
    assert [row for batch in batches for row in batch.rows] == list(range(6))
    assert [batch.block for batch in batches] == [0, 1]


def test_fidelity_compares_equal_seeds_in_every_batch(tmp_path: Path) -> None:
    model, metrics = tiny.unconditional_model(), {"psnr": PeakSignalToNoise()}
    same = replace(TASK, sampler=TASK.reference)
    result = evaluate(same, model, metrics, {}, measured(tmp_path).outputs, lambda _: None)
    assert result.fidelity["psnr"] is None, "the same images row by row"


def test_costs_of_the_first_batch_are_per_image(tmp_path: Path) -> None:
    by_batch = replace(TASK, workload=Workload(first_seed=0, count=6, batch_size=1, blocks=1))
    costs = {"macs": Macs()}
    results = [evaluate(task, tiny.unconditional_model(), {}, costs, None, lambda _: None) for task in (TASK, by_batch)]
    assert results[0].cost == results[1].cost


def test_a_baseline_that_was_killed_before_its_numbers_is_measured_anew(tmp_path: Path) -> None:
    whole = measured(tmp_path)
    (file,) = tmp_path.glob("*/baseline.json")
    file.unlink()
    np.save(file.parent / "outputs.npy", np.zeros_like(whole.outputs))
    again = measured(tmp_path)
    assert np.array_equal(again.outputs, whole.outputs)
    assert again.cost == whole.cost


def test_a_baseline_is_measured_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    held: list[bool] = []

    def seen(*_: Any) -> None:
        other = FileLock(next(tmp_path.glob("*/.lease")), timeout=0)
        try:
            other.acquire()
            other.release()
            held.append(False)
        except TimeoutError:
            held.append(True)
        raise ArithmeticError("far enough")

    monkeypatch.setattr("parediff.pipeline.baseline._measure", seen)
    with pytest.raises(ArithmeticError):
        measured(tmp_path)
    assert held == [True]


class Nothing(Method):
    emulated: ClassVar[bool] = False


def test_a_state_of_another_model_is_refused() -> None:
    model = tiny.unconditional_model()
    state = dict(model.denoiser.state_dict())
    restore(model, {"nothing": Nothing()}, state)
    with pytest.raises(RequestError, match="1 unknown"):
        restore(model, {}, state | {"more": torch.zeros(1)})


def test_held_out_images_are_evenly_spaced() -> None:
    assert evenly_spaced(10, 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 5) == [0, 1, 2]
