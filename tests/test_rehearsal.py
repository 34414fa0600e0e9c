"""What a model or a method refuses costs one line and exit code 2, before a weight is read or an image drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

import pipelines
from parediff.cli import main
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.errors import RequestError
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline.rehearsal import rehearse
from parediff.resources import shipped

METHODS = sorted(path.stem for path in (shipped("conf") / "method").glob("*.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def source(name: str, root: Path) -> PretrainedPipeline:
    kind = pipelines.KINDS[name]
    options = {key: value for key, value in kind.options.items() if not key.endswith("image")}
    path = str(pipelines.folder(name, root))
    return PretrainedPipeline(name, path, guidance_scale=kind.guidance, null_class=kind.null_class, options=options)


@pytest.mark.parametrize("name", pipelines.params(["ddpm", "sd1", "dit", "sd3", "flux", "wan", "stable_cascade"]))
def test_an_outline_is_the_model_without_weights(name: str, root: Path) -> None:
    before = torch.get_rng_state()
    outline, model = source(name, root).outline(), pipelines.model(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.is_meta for value in outline.denoiser.parameters())
    assert _shapes(outline) == _shapes(model)
    for told in ("part", "conditioning", "guidance_scale", "prediction_type"):
        assert getattr(outline, told) == getattr(model, told), told
    assert type(outline.pipeline.scheduler) is type(model.pipeline.scheduler)


def _shapes(model: DiffusionModel) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.denoiser.state_dict().items()}


@pytest.fixture(scope="module")
def subjects() -> Callable[[Any], Any]:
    """The outline and the model of a source, loaded once."""
    known: dict[str, Any] = {}

    def of(source: Any) -> Any:
        if str(source) not in known:
            known[str(source)] = source.outline(), source.load("cpu")
        return known[str(source)]

    return of


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prepares_an_outline_as_it_does_the_model(
    method: str, subjects: Callable[[Any], Any], saved_model: Path
) -> None:
    asked = build(Composer("config").compose([*_fitting(method, saved_model), "tracker=none"]))
    outline, model = (subject.copy() for subject in subjects(asked.model))
    told = []
    for subject in (outline, model):
        try:
            for one in asked.methods.values():
                one.prepare(subject)
            told.append("")
        except RequestError as refused:
            told.append(str(refused))
    assert told[0] == told[1]
    assert _shapes(outline) == _shapes(model)


def _fitting(method: str, images: Path) -> list[str]:
    """A model that the method is for, and something to repair for one that repairs."""
    target = OmegaConf.select(OmegaConf.load(shipped("conf") / "method" / f"{method}.yaml"), "_target_")
    kind = None if target is None else get_class(target)
    asked = f"method=[{'ptq,' if kind is not None and kind.corrects else ''}{method}]"
    if kind is not None and "images" not in kind.serves:
        return ["model=classifier_digits", "calibration=noise", asked]
    return [asked, "model=pipeline", f"model.path={images}", "metric=[psnr]", "data=digits"]


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("dit", ["method=[deepcache]"], "DiTTransformer2DModel"),
        ("dit", ["method=[frdiff]", "methods.frdiff.attentions=false"], "residual branches"),
        ("ddpm", ["method=[first_block_cache]"], "UNet2DModel"),
        ("ddpm", ["method=[frdiff]", "methods.frdiff.blocks=whole"], "is no transformer"),
        ("ddpm", ["method=[frdiff]", "methods.frdiff.keyframes=[0,7]", "sampler.steps=4"], "below the 4 steps"),
        ("ddpm", ["method=[block_cache]", "methods.block_cache.steps=5", "sampler.steps=4"], "sampler.steps=4: 5"),
        ("ddpm", ["method=[deepcache]", "methods.deepcache.branch=9"], "branch=9"),
        ("sd1", ["method=[]"], "prompts are needed"),
        ("ddpm", ["workload.conditions=[1,2]"], "takes no conditions"),
        ("wan", ["model.options.num_frames=8", "workload.conditions=[a cat]"], "num_frames=8"),
        ("ddpm", ["method=[lsq]"], "data=null: images to learn from"),
        ("ddpm", ["method=[nipq]"], "data=null: images to learn from"),
        ("flux", ["method=[qncd,ptq]", "workload.conditions=[a cat]"], "adaLN-Zero"),
    ],
)
def test_what_a_model_cannot_have_is_one_line_and_starts_nothing(
    name: str,
    overrides: list[str],
    told: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    folder = pipelines.folder(name, root)
    capsys.readouterr()  # saving tells how far it is
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PretrainedPipeline, "load", _never)
    given = ["model=pipeline", f"model.path={folder}", "metric=[psnr]", "tracker=none", "workload.count=2"]
    assert main(["run", *given, "workload.blocks=1", *overrides]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert told in error
    assert not list(tmp_path.iterdir())


def _never(*_: Any) -> Any:
    raise AssertionError("no weight is read")


def test_one_refused_run_of_a_study_stops_all_before_any(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = pipelines.folder("dit", root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PretrainedPipeline, "load", _never)
    given = ["model=pipeline", f"model.path={folder}", "metric=[psnr]", "tracker=none", "workload.count=2"]
    assert main(["run", "-m", *given, "workload.blocks=1", "method=[],[frdiff],[deepcache]"]) == 2
    assert "DiTTransformer2DModel" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_each_model_is_outlined_once_and_each_list_of_methods_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer = Composer("config")
    made: list[str] = []
    plain = PretrainedPipeline.outline
    monkeypatch.setattr(PretrainedPipeline, "outline", lambda self: made.append(self.name) or plain(self))
    asked = [
        build(composer.compose(["tracker=none", f"runs_dir={tmp_path}", *overrides]))
        for overrides in (["method=[]"], ["method=[ptq]"], ["method=[frdiff]"], ["method=[frdiff]", "seed=1"])
    ]
    rehearse(asked)
    assert made == ["ddpm_digits"]


def test_a_method_that_reads_weights_is_left_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = build(Composer("config").compose(["method=[ptq]", "tracker=none", f"runs_dir={tmp_path}"]))

    def reads(_: Any, model: DiffusionModel) -> None:
        float(next(model.denoiser.parameters()).sum())

    monkeypatch.setattr(type(asked.methods["ptq"]), "prepare", reads)
    rehearse([asked])
