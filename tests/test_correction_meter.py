"""The instrument: right numbers, before and after correction, and no trace in the images."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import tiny
from composing import QUICK_PTQ
from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.correction.meter import Meter, StepError, decibels
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.methods.qncd import Qncd
from parediff.methods.snr import Snr
from parediff.models.diffusion.door import Call, Condition, Predict, Run
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress
from parediff.quantization.layers import layers_of
from parediff.sampling import images as sampling
from parediff.sampling.workload import Workload

STEPS = Sampler("ddim", "DDIMScheduler", 8)


class Lazy:
    """Calls recorded while they are asked for."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model

    def __iter__(self):  # type: ignore[no-untyped-def]
        return sampling.calls(self.model, Workload(100, 2, 2), STEPS)


class Shift(Method):
    """A network whose prediction is off by a constant."""

    def prepare(self, model: DiffusionModel) -> None:
        model.denoiser.conv_out.bias.data += 0.25  # type: ignore[union-attr, operator]


class Unshift(Method):
    """A correction that takes four fifths of it back."""

    def prepare(self, model: DiffusionModel) -> None:
        def factory(run: Run) -> object:
            def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
                return network(x, t, cond) - 0.2

            return wrapper

        model.wrap(factory)  # type: ignore[arg-type]


def compressed(*methods: Method) -> DiffusionModel:
    teacher = tiny.unconditional_model()
    student = teacher.copy()
    compress(student, teacher, {str(i): method for i, method in enumerate(methods)}, Lazy, lambda _, __: None)  # type: ignore[arg-type]
    return student


def test_a_known_error_is_read_at_every_step() -> None:
    student = compressed(Shift(), Unshift(), Snr(modules=False))
    table = Snr(modules=False).fired(student)
    assert table["step"] == list(range(8))
    assert table["t"][0] > table["t"][-1]
    assert table["bias_before"] == pytest.approx([0.25] * 8, abs=1e-4)
    assert table["bias_after"] == pytest.approx([0.05] * 8, abs=1e-4)
    gains = [after - before for before, after in zip(table["snr_before_db"], table["snr_after_db"], strict=True)]
    assert gains == pytest.approx([decibels(25.0, 1.0)] * 8, abs=0.01)
    json.dumps(table, allow_nan=False)


def test_the_ratio_is_of_sums_of_squares() -> None:
    error = StepError(t=10.0)
    exact = torch.tensor([3.0, 4.0])
    error.add(exact + 0.5, exact, exact)
    assert decibels(error.signal, error.raw_squared) == pytest.approx(10 * torch.log10(torch.tensor(50.0)).item())
    assert decibels(error.signal, error.corrected_squared) is None


def test_the_instrument_changes_no_image_and_adds_no_call() -> None:
    plain, metered = compressed(Shift()), compressed(Shift(), Snr(modules=False))
    assert torch.equal(plain.generate([1], None, STEPS), metered.generate([1], None, STEPS))


def test_calls_that_come_from_no_run_are_read_too() -> None:
    teacher = tiny.unconditional_model()
    student = teacher.copy()
    calls = [Call(torch.randn(2, 1, 8, 8), torch.tensor([500, 500]), {}, 3)]
    compress(student, teacher, {"shift": Shift(), "snr": Snr(modules=False)}, lambda _: calls, lambda _, __: None)
    table = Snr(modules=False).fired(student)
    assert table["step"] == [3]
    assert table["bias_before"] == table["bias_after"] == pytest.approx([0.25], abs=1e-5)
    (meter,) = (factory for factory in student.wrapper_factories if isinstance(factory, Meter))
    assert not meter.readings, "tensors of every call would stay"


def test_probes_are_not_readings() -> None:
    estimation = Qncd(
        smoothing=False,
        smoothing_strength=1.0,
        estimate_every=4,
        start=0.0,
        granularity="sample",
        gate=0.0,
        shrink=False,
    )
    student = compressed(estimation, Shift(), Snr(modules=False))
    table = Snr(modules=False).fired(student)
    assert table["bias_before"] == pytest.approx([0.25] * 8, abs=1e-4)
    assert table["bias_after"] == pytest.approx([0.25] * 8, abs=1e-4)


def test_modules_are_told_apart_where_they_are_asked_for() -> None:
    composed = Composer("config").compose(["method=[ptq]", "methods.ptq.weight_bits=4", *QUICK_PTQ])
    ptq = construct(composed.methods.ptq, "methods.ptq")
    teacher = tiny.unconditional_model()
    student = teacher.copy()
    calls = Lazy(student)
    snr = Snr(modules=True)
    compress(student, teacher, {"ptq": ptq, "snr": snr}, lambda _: calls, lambda _, __: None)
    told = snr.fired(student)["modules"]
    paths = {path for path in layers_of(student.denoiser) if not path.endswith((".qk", ".pv"))}
    assert paths
    assert set(told) == paths | {"output"}
    assert all(0 < told[path]["own"] <= 200 for path in paths)
    assert told["output"]["arriving"] > 5
    json.dumps(told, allow_nan=False)


def test_modules_of_a_model_without_quantised_layers_are_refused() -> None:
    with pytest.raises(RequestError, match="modules"):
        compressed(Shift(), Snr(modules=True))
