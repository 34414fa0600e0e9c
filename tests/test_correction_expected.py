"""The estimator by expected means: its sign is right under a known bias, which the published one's is not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import parediff
from composing import QUICK, method_of
from parediff.bench.quantization import digits_model
from parediff.correction.affine import PairSums
from parediff.correction.expected import ExpectedMean, table_of
from parediff.errors import RequestError
from parediff.models.diffusion.door import Call, Condition, Predict, Run, Wrapper, recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler

STEPS = 10
SAMPLER = Sampler("ddim", "DDIMScheduler", STEPS)
SEEDS, OTHERS = range(1_000, 1_096), range(64)
PLAIN = {"smoothing": False, "estimate_every": 1, "granularity": "scalar", "gate": 0.0}


@cache
def trajectories() -> tuple[Call, ...]:
    """The uncompressed model's own."""
    model = digits_model()
    with recording(model) as calls:
        model.generate(list(SEEDS), None, SAMPLER)
    return tuple(calls)


class Biased:
    """A model whose predictions are all off by `bias`, counting its calls."""

    def __init__(self, bias: float, **changes: object) -> None:
        self.model, self.calls = digits_model(), 0
        self.bias = bias
        self.model.wrap(self._shifting)
        self.method = method_of("qncd", PLAIN | changes)
        self.method.prepare(self.model)
        self.method.calibrate(self.model, trajectories())
        self.method.finalize(self.model)

    def _shifting(self, run: Run) -> Wrapper:
        def wrapper(network: Predict, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            self.calls += 1
            return network(x, t, cond) + self.bias

        return wrapper

    def images(self) -> Tensor:
        return self.model.generate(list(OTHERS), None, SAMPLER)

    def readings(self) -> Sequence[float]:
        """The mean estimate at every step."""
        self.images()
        return self.method.fired(self.model)["estimates"]["mean"]


@cache
def clean() -> Tensor:
    return digits_model().generate(list(OTHERS), None, SAMPLER)


@pytest.mark.parametrize("bias", [0.05, -0.05])
def test_the_sign_is_right_at_every_step_and_the_bias_is_taken_out(bias: float) -> None:
    biased = Biased(bias, estimator="expected")
    readings = torch.tensor(biased.readings()) / bias
    assert len(readings) == STEPS
    assert readings.min() > 0.5
    assert readings.max() < 2
    harm = (Biased(bias, estimator="expected", start=0.99).images() - clean()).square().mean()
    left = (biased.images() - clean()).square().mean()
    assert left < 0.02 * harm


def test_the_published_estimate_reads_a_known_bias_wrong() -> None:
    readings = torch.tensor(Biased(0.05, estimator="renoised").readings())
    assert ((readings < 0) | (readings > 0.1)).any()


def test_it_costs_no_call_and_leaves_a_model_without_bias_nearly_alone() -> None:
    exact = Biased(0.0, estimator="expected")
    assert (exact.images() - clean()).square().mean() < 1e-4
    assert exact.calls == STEPS


def test_nothing_is_subtracted_outside_its_part_of_the_steps() -> None:
    early = Biased(0.05, estimator="expected", end=0.3)
    assert early.method.fired(early.model)["estimates"]["steps"] == []
    early.images()
    assert early.method.fired(early.model)["estimates"]["steps"] == [0, 1, 2]
    never = Biased(0.05, estimator="expected", end=0.0).images()
    assert torch.equal(never, Biased(0.05, estimator="expected", start=1.0).images())


def test_the_regression_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 4, 4, generator=generator)
    noise = 0.7 * x.mean((2, 3), keepdim=True) + 0.2 + 0.1 * torch.randn(40, 1, 1, 1, generator=generator)
    table, t = ExpectedMean(1000, 1), torch.full((40,), 500)
    sums = PairSums()
    sums.add(x.mean((2, 3), keepdim=True), noise)
    table.take({500.0: sums})
    means = torch.stack([x.mean((1, 2, 3)), torch.ones(40)], dim=1).double()
    solved = torch.linalg.lstsq(means, noise.flatten().double()[:, None])
    left = noise.flatten().double() - means @ solved.solution[:, 0]
    excess, spread = table.excess(noise.expand(40, 1, 4, 4), x, t)
    assert torch.allclose((excess * spread).flatten().double(), left, atol=1e-6)
    assert float(spread[0]) == pytest.approx(float(left.square().mean().sqrt()), rel=1e-4)


def test_two_images_are_too_few_to_learn_what_is_expected() -> None:
    model: DiffusionModel = digits_model()
    method = method_of("qncd", PLAIN | {"estimator": "expected"})
    method.prepare(model)
    few = [Call(call.x[:2], call.t[:2], {}, call.step) for call in trajectories()]
    with pytest.raises(RequestError, match="three images of every time step"):
        method.calibrate(model, few)
    assert len(table_of(model).clock.known) == 0


def test_behind_a_quantised_network_it_learns_from_the_trajectories_of_that(tmp_path: Path) -> None:
    model = parediff.load_model("ddpm_digits", runs_dir=str(tmp_path))
    coarse = {"weight_bits": 4, "activation_bits": 4, **QUICK}
    methods = {"ptq": coarse, "qncd": PLAIN | {"estimator": "expected"}}
    settings = {"calibration__count": 8, "calibration__batch_size": 8, "calibration__steps": 5}
    corrected = parediff.compress(model, methods, steps=5, **settings)
    plain = parediff.compress(model, {"ptq": coarse}, steps=5, **settings)
    own, other = (parediff.sample(one, range(8)) for one in (corrected, plain))
    assert not torch.equal(own, other)
    assert (own.float() - other.float()).abs().mean() < 20
