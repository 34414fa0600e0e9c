"""Feature reuse together with other methods, and under torch.compile."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from composing import QUICK_PTQ
from parediff.calibration.base import LazyCalls
from parediff.config.compose import Composer
from parediff.config.request import Request, build
from parediff.cost import Counter, counting
from parediff.models.diffusion.door import recording
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.pipeline.compress import compress, restore
from parediff.reuse.engine import installed
from reusing import frdiff, with_method


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.unconditional_model().pipeline.save_pretrained(path)
    return path


def request_for(methods: str, folder: Path) -> Request:
    overrides = [
        "model=pipeline",
        f"model.path={folder}",
        "sampler.steps=6",
        "calibration.count=2",
        "calibration.batch_size=2",
        "tracker=none",
        "metric=[psnr]",
        f"method=[{methods}]",
        *(QUICK_PTQ if "ptq" in methods else ()),
    ]
    return build(Composer("config").compose(overrides))


def compressed(asked: Request) -> tuple[DiffusionModel, dict[str, Tensor]]:
    teacher = asked.model.load("cpu")
    student = teacher.copy()

    def calls_of(model: DiffusionModel) -> LazyCalls:
        return LazyCalls(asked.calibration, model, asked.sampler)

    return student, compress(student, teacher, asked.methods, calls_of, lambda *_: None)


@cache
def cost_alone(method: str, folder: Path) -> Counter:
    """Of two images under one method."""
    asked = request_for(method, folder)
    model, _ = compressed(asked)
    with counting(model.denoiser) as counter:
        model.generate([1, 2], None, asked.sampler)
    return counter


@pytest.mark.parametrize(
    "methods",
    [
        "ptq,frdiff",
        "block_cache,ptq",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("frdiff,ptq", "ptq,deepcache")),
    ],
)
def test_caching_and_quantisation_go_together_in_either_order(methods: str, folder: Path) -> None:
    asked = request_for(methods, folder)
    student, state = compressed(asked)
    with counting(student.denoiser) as both:
        images = student.generate([1, 2], None, asked.sampler)
    reusing_method = next(name for name in methods.split(",") if name != "ptq")
    cached = cost_alone(reusing_method, folder)
    assert both.bops < cached.bops
    if reusing_method != "block_cache":  # whose schedule is measured on the quantised network
        assert both.macs == cached.macs
    rebuilt = asked.model.load("cpu")
    restore(rebuilt, asked.methods, state)
    assert torch.equal(rebuilt.generate([1, 2], None, asked.sampler), images)


def test_the_calls_recorded_for_calibration_are_those_that_will_be_made(folder: Path) -> None:
    asked = request_for("frdiff,ptq", folder)
    model = asked.model.load("cpu")
    asked.methods["frdiff"].prepare(model)
    with recording(model) as calls:
        model.generate([1], None, asked.sampler)
    jumps = installed(model, "frdiff").tally.jump
    assert jumps > 0
    assert [call.step for call in calls] == [0, 2, 3, 4, 5]
    assert len(calls) == 6 - jumps


@pytest.mark.slow
def test_a_compiled_network_has_two_graphs_and_is_never_compiled_again() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    sampler = Sampler(name="ddim", scheduler="DDIMScheduler", steps=6)
    expected = with_method(tiny.unconditional_model(), frdiff(mixing="off")).generate([1], None, sampler)
    model = with_method(tiny.unconditional_model(), frdiff(mixing="off"))
    compiled: Any = torch.compile(type(model.denoiser).forward, backend="aot_eager", fullgraph=True)

    def network(_: Any, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return compiled(model.denoiser, x, t, **cond, return_dict=False)[0]

    model.wrapper_factories.insert(0, lambda run: network)
    for _ in range(4):
        assert torch.allclose(model.generate([1], None, sampler), expected, atol=1e-4)
        assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
