"""QNCD among other methods: orders that make sense, restores, costs and configs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from composing import QUICK_PTQ
from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.correction.smoothing import smoothing_factors
from parediff.cost import CallCounter, counting
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, observing
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress, restore
from parediff.sampling import images as sampling
from parediff.sampling.workload import Workload

STEPS = Sampler("ddim", "DDIMScheduler", 8)


class Lazy:
    """Calls recorded while they are asked for."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model

    def __iter__(self) -> Iterator[Call]:
        return sampling.calls(self.model, Workload(100, 2, 2), STEPS)


def methods_of(names: str, *overrides: str) -> dict[str, Any]:
    """The methods as a command line composes them, in this order."""
    bits = ["methods.ptq.weight_bits=4", "methods.ptq.activation_bits=4", *QUICK_PTQ] if "ptq" in names else []
    config = Composer("config").compose([f"method=[{names}]", "sampler.steps=8", *bits, *overrides])
    return {name: construct(config.methods[name], name) for name in config.methods}


@cache
def compressed(names: str, *overrides: str, **options: Any) -> tuple[DiffusionModel, dict[str, Any], dict[str, Any]]:
    """The student, its methods and its state; no test changes them."""
    teacher = tiny.unconditional_model(**options)
    student, methods = teacher.copy(), methods_of(names, *overrides)
    state = compress(student, teacher, methods, Lazy, lambda _, __: None)
    return student, methods, state


SMOOTH = ("methods.qncd.smoothing=true", "methods.qncd.estimate_every=0")
ESTIMATE = ("methods.qncd.smoothing=false", "methods.qncd.estimate_every=4", "methods.qncd.gate=0")
BOTH = ("methods.qncd.smoothing=true", "methods.qncd.estimate_every=4", "methods.qncd.gate=0")


@pytest.mark.parametrize(
    ("names", "overrides"),
    [
        pytest.param("qncd,ptq", SMOOTH, marks=pytest.mark.slow),
        ("qncd,ptq", BOTH),
        ("ptq,qncd", ESTIMATE),
        pytest.param("frdiff,qncd,tdq", BOTH, marks=pytest.mark.slow),
        pytest.param("qncd,tdq", SMOOTH, marks=pytest.mark.slow),
        pytest.param("qncd,tdq", BOTH, marks=pytest.mark.slow),
        pytest.param("tdq,qncd", ESTIMATE, marks=pytest.mark.slow),
        ("frdiff,qncd,ptq", BOTH),
        pytest.param("qncd,ptq,snr", BOTH, marks=pytest.mark.slow),
    ],
)
def test_it_composes_and_restores(names: str, overrides: tuple[str, ...]) -> None:
    student, methods, state = compressed(names, *overrides)
    images = student.generate([1, 2], None, STEPS)
    rebuilt = tiny.unconditional_model()
    restore(rebuilt, methods, state)
    assert torch.equal(rebuilt.generate([1, 2], None, STEPS), images)


def test_smoothing_is_calibrated_on_the_full_precision_network() -> None:
    alone, _, _ = compressed("qncd", *SMOOTH)
    quantised, _, _ = compressed("qncd,ptq", *BOTH)
    pairs = zip(smoothing_factors(alone.denoiser), smoothing_factors(quantised.denoiser), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_smoothing_behind_the_quantiser_is_refused() -> None:
    with pytest.raises(RequestError, match="before every method that quantises"):
        compressed("ptq,qncd", *SMOOTH)


def test_scale_shift_blocks_are_smoothed_and_quantised() -> None:
    student, methods, _ = compressed("qncd,ptq", *SMOOTH, resnet_time_scale_shift="scale_shift")
    proof = methods["qncd"].fired(student)
    assert proof["largest_factor"] > 1
    assert torch.isfinite(student.generate([1], None, STEPS)).all()


def test_estimates_are_paid_for() -> None:
    plain, _, _ = compressed("ptq")
    corrected, methods, _ = compressed("ptq,qncd", *ESTIMATE)
    costs = []
    for model in (plain, corrected):
        calls = CallCounter()
        with counting(model.denoiser) as counter, observing(model, calls):
            model.generate([1, 2], None, STEPS)
        costs.append((calls.per_image(2), counter.macs, counter.bops))
    before, after = costs
    assert (before[0], after[0]) == (8, 10)
    assert after[1] * 8 == before[1] * 10
    assert after[2] * 8 == pytest.approx(before[2] * 10)
    assert methods["qncd"].fired(corrected)["estimates"]["steps"] == [3, 7]


def test_while_nothing_is_quantised_calibration_runs_pass() -> None:
    model = tiny.unconditional_model()
    plain = model.generate([1, 2], None, STEPS)
    methods_of("qncd", *ESTIMATE)["qncd"].prepare(model)
    calls = CallCounter()
    with observing(model, calls):
        assert torch.equal(model.generate([1, 2], None, STEPS), plain)
    assert calls.entries == 8 * 2


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    folder = Path(__file__).parent.parent / "notebooks"
    book = nbformat.read(folder / "noise_along_the_trajectory.ipynb", as_version=4)
    (tmp_path / "notebooks").mkdir()
    NotebookClient(book, timeout=900, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
