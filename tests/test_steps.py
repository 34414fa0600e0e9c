"""The line step by step, as a notebook takes it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import parediff
from composing import QUICK, QUICK_PTQ
from parediff.cli import main
from parediff.models.tree import replace
from parediff.pipeline.steps import LoadedModel
from parediff.results import record as records

FEW = {"workload__batch_size": 8, "workload__blocks": 2, "reference__steps": 3}
FAST = {f"methods__ptq__{key}": value for key, value in QUICK.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook") / "runs"


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return parediff.load_model("ddpm_digits", runs_dir=str(folder))


@pytest.fixture(scope="module")
def scored(model: LoadedModel) -> parediff.Record:
    few = {"calibration__count": 4, **FAST}
    small = parediff.compress(model, {"ptq": {"weight_bits": 4}}, steps=2, **few)
    scores = parediff.evaluate(small, count=8, metrics=["fd_digits", "psnr"], costs=["bops", "size_bytes"], **FEW)
    assert scores.pictures.shape == (8, 1, 8, 8)
    return parediff.make_record(scores)


class Rounded(nn.Module):
    """A layer whose weights stand on a grid of tenths."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        layer.weight.data.mul_(10).round_().div_(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Tenths(parediff.Method):
    """A method that has no YAML."""

    def prepare(self, model: parediff.DiffusionModel) -> None:
        replace(model.denoiser, nn.Linear, Rounded)

    def fired(self, model: parediff.DiffusionModel) -> dict[str, Any]:
        return {"layers": sum(isinstance(module, Rounded) for module in model.denoiser.modules())}


def test_the_package_shows_about_a_dozen_names_and_imports_nothing_heavy_for_them() -> None:
    assert 10 <= len(parediff.__all__) <= 16
    assert set(parediff.__all__) <= set(dir(parediff))
    assert all(getattr(parediff, name).__doc__ for name in parediff.__all__)
    code = "import parediff, sys; dir(parediff); assert not {'torch', 'hydra', 'diffusers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nonsense"):
        parediff.nonsense  # noqa: B018 - asking is the test


def test_a_notebooks_record_equals_the_one_that_a_run_writes(scored: parediff.Record, folder: Path) -> None:
    words = ["method=[ptq]", "methods.ptq.weight_bits=4", "sampler.steps=2", "calibration.count=4", "workload.count=8"]
    words += QUICK_PTQ
    words += ["metric=[fd_digits,psnr]", "cost=[bops,size_bytes]", "tracker=none", f"runs_dir={folder}", "study=run"]
    words += [f"{key.replace('__', '.')}={value}" for key, value in FEW.items()]
    assert main(["run", *words]) == 0
    ran = records.read(folder / "run" / scored.id)
    for part in ("protocol", "quality", "fidelity", "stderr", "cost", "baseline", "fired"):
        assert getattr(scored, part) == getattr(ran, part), part


def test_the_record_is_on_disk_where_commands_find_it(scored: parediff.Record, folder: Path) -> None:
    assert scored.folder == folder / "notebook" / scored.id
    assert [found.id for found in parediff.find_records([folder / "notebook"]).records] == [scored.id]


def test_fewer_steps_and_a_method_share_a_front_that_can_be_drawn(model: LoadedModel, scored: parediff.Record) -> None:
    scores = parediff.evaluate(
        model, steps=1, count=8, metrics=["fd_digits", "psnr"], costs=["bops", "size_bytes"], **FEW
    )
    line = parediff.make_record(scores)
    front = parediff.make_front([scored, line], x="bops", y="psnr")
    assert {point.methods for point in front.points} == {("ptq",), ()} or len(front.points) == 2
    assert parediff.draw_front([scored, line]).data


def test_images_come_as_bytes_and_follow_their_seed(model: LoadedModel) -> None:
    images = parediff.sample(model, seeds=[3, 7], steps=2)
    assert images.shape == (2, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert torch.equal(parediff.sample(model, seeds=[7], steps=2)[0], images[1])


def test_an_object_without_a_yaml_is_compressed_with_and_put_on_record(model: LoadedModel) -> None:
    own = parediff.compress(model, {"tenths": Tenths()}, steps=2)
    scores = parediff.evaluate(own, count=4, workload__blocks=1, reference__steps=3, metrics=["psnr"], costs=["macs"])
    assert scores.record.methods == ["tenths"]
    assert scores.record.fired["tenths"]["layers"] > 0
    assert scores.record.config["methods"]["tenths"] == {"_target_": f"{__name__}.Tenths"}


def test_methods_apply_in_the_order_given_whether_they_have_a_yaml_or_not(model: LoadedModel) -> None:
    few = {"calibration__count": 2, "calibration__batch_size": 2, **FAST}
    mixed = parediff.compress(model, {"tenths": Tenths(), "ptq": {"weight_bits": 8}}, steps=2, **few)
    assert list(mixed.methods) == ["tenths", "ptq"]


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda model: parediff.load_model("ddpm_digts"), "Did you mean ddpm_digits?"),
        (lambda model: parediff.load_model("ddpm_digits", dtyp="float16"), "model.dtyp"),
        (lambda model: parediff.compress(model, ["ptqq"]), "Did you mean ptq?"),
        (lambda model: parediff.compress(model, {"ptq": {"wieght_bits": 3}}), "methods.ptq.weight_bits"),
        (lambda model: parediff.compress(model, ["ptq", "tdq"]), "one method of quantisation"),
        (lambda model: parediff.evaluate(model, count=0), "workload.count=0"),
        (lambda model: parediff.evaluate(model, nonsense=1), "nonsense=1"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(model: LoadedModel, act: Any, told: str) -> None:
    with pytest.raises(parediff.RequestError, match=told.replace("?", r"\?")) as caught:
        act(model)
    assert "\n" not in str(caught.value)


def test_a_compressed_model_is_not_compressed_again(model: LoadedModel) -> None:
    once = parediff.compress(model, {"tenths": Tenths()}, steps=2)
    with pytest.raises(parediff.RequestError, match="all methods at once"):
        parediff.compress(once, {"tenths": Tenths()})
