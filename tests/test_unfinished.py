"""A run that is cut off anywhere goes on where it was, and ends bit for bit as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from composing import QUICK_PTQ
from parediff.calibration.base import LazyCalls
from parediff.calibration.uniform import Uniform
from parediff.cli import main
from parediff.methods.base import Method
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.pipeline import statement
from parediff.pipeline.compress import compress
from parediff.pipeline.unfinished import Unfinished
from parediff.results import record
from parediff.sampling.blocks import Blocks


class Cut(BaseException):
    """The process is gone: nothing catches this."""


@pytest.fixture
def line(shallow_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`parediff run` of eight images, two at a time."""
    monkeypatch.chdir(tmp_path)
    fixed = [
        "model=pipeline",
        f"model.path={shallow_model}",
        "metric=[psnr,ssim]",
        "tracker=none",
        "cost=[macs,bops,nfe]",
    ]
    fixed += ["workload.count=8", "workload.batch_size=2", "workload.blocks=2", "sampler.steps=2", "reference.steps=3"]
    fixed += ["calibration.count=2"]
    return lambda *overrides: main(["run", *fixed, *overrides])


def counted(monkeypatch: pytest.MonkeyPatch, cut_at: int | None) -> list[tuple[int, ...]]:
    """Seeds of every batch that is drawn; the process is gone when the batch with that index would be."""
    plain = DiffusionModel.generate
    drawn: list[tuple[int, ...]] = []

    def generate(self: DiffusionModel, seeds: Any, conditions: Any, sampler: Any) -> Any:
        if len(drawn) == cut_at:
            raise Cut
        drawn.append(tuple(seeds))
        return plain(self, seeds, conditions, sampler)

    monkeypatch.setattr(DiffusionModel, "generate", generate)
    return drawn


def numbers(path: Path) -> dict[str, Any]:
    (found,) = record.find([path]).records
    return {section: getattr(found, section) for section in ("quality", "fidelity", "stderr", "cost", "baseline")}


@pytest.mark.parametrize(
    "cut_at", [pytest.param(2, id="baseline", marks=pytest.mark.slow), pytest.param(7, id="images")]
)
def test_images_that_are_drawn_are_not_drawn_again(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    assert line("runs_dir=whole") == 0
    with monkeypatch.context() as patched:
        counted(patched, cut_at)
        with pytest.raises(Cut):
            line("runs_dir=cut")
    with monkeypatch.context() as patched:
        drawn = counted(patched, None)
        assert line("runs_dir=cut") == 0
    first_again = 1  # the first batch tells what an image costs, here and now
    assert len(drawn) == 8 - cut_at + first_again
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
    run, whole = (next((tmp_path / name).rglob("record.json")).parent for name in ("cut", "whole"))
    assert (run / "samples.png").read_bytes() == (whole / "samples.png").read_bytes()
    assert set(os.listdir(run)) == set(os.listdir(whole))
    assert not list(tmp_path.rglob("unfinished"))


def test_images_of_other_code_are_not_taken_over(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        counted(patched, 7)
        with pytest.raises(Cut):
            line()
    plain = statement.source_digest
    other = lambda names: "other" if "parediff.sampling.images" in names else plain(names)  # noqa: E731
    monkeypatch.setattr(statement, "source_digest", other)
    drawn = counted(monkeypatch, None)
    assert line() == 0
    assert len(drawn) == 8


def test_blocks_of_another_machine_are_dropped(tmp_path: Path) -> None:
    blocks, images = Blocks(tmp_path / "images"), torch.arange(48, dtype=torch.uint8).reshape(4, 1, 3, 4)
    blocks.keep(range(2), images[:2])
    blocks.keep(range(2, 4), images[2:])
    again = Blocks(tmp_path / "images")
    again.keep(range(2), images[:2])
    found = again.kept(range(2, 4))
    assert found is not None
    assert torch.equal(found, images[2:])
    again.keep(range(2), images[:2] + 1)
    assert again.kept(range(2, 4)) is None


@pytest.mark.parametrize(
    "methods",
    [
        "frdiff,lsq",
        pytest.param("ptq,ptqd", marks=pytest.mark.slow),
        pytest.param("qncd,ptq", marks=pytest.mark.slow),
    ],
)
def test_methods_that_are_through_are_not_calibrated_again(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str
) -> None:
    asked = [f"method=[{methods}]", "workload.count=4", "save=true"]
    asked += [f"methods.{name}.activation_search=minmax" for name in methods.split(",") if name in ("ptq", "lsq")]
    if "lsq" in methods:
        asked += ["data=digits", "data.batch_size=8", "trainer.max_steps=2"]
        asked += ["trainer.progress=false", "trainer.accelerator=cpu"]
    assert line("runs_dir=whole", *asked) == 0
    settle = Unfinished.settle

    def settle_and_cut(self: Unfinished, place: int, state: Any, told: Any) -> None:
        settle(self, place, state, told)
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "settle", settle_and_cut)
        for _ in methods.split(","):
            with pytest.raises(Cut):
                line("runs_dir=cut", *asked)
    assert line("runs_dir=cut", *asked) == 0
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
    kept, whole = (next((tmp_path / name).rglob("denoiser.safetensors")) for name in ("cut", "whole"))
    assert kept.read_bytes() == whole.read_bytes()
    (one,), (other,) = (record.find([tmp_path / name]).records for name in ("cut", "whole"))
    assert one.calibration["samples"] == other.calibration["samples"]


def test_trajectories_that_are_recorded_are_not_recorded_again(
    line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["method=[ptq]", *QUICK_PTQ, "save=true"]
    asked += ["workload.count=4", "calibration.count=6", "calibration.batch_size=2"]
    assert line("runs_dir=whole", *asked) == 0
    with monkeypatch.context() as patched:
        counted(patched, 4)  # two batches of the baseline, two of three trajectories
        with pytest.raises(Cut):
            line("runs_dir=cut", *asked)
    with monkeypatch.context() as patched:
        drawn = counted(patched, None)
        assert line("runs_dir=cut", *asked) == 0
    assert len(drawn) == 1 + 2
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
    kept, whole = (next((tmp_path / name).rglob("denoiser.safetensors")) for name in ("cut", "whole"))
    assert kept.read_bytes() == whole.read_bytes()


def test_what_is_through_is_said_by_place_and_the_earlier_state_goes(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, "code")
    assert kept.settled(2) is None
    kept.settle(0, {"a": torch.zeros(2)}, {"samples": 1})
    kept.settle(1, {"a": torch.ones(2)}, {"samples": 3})
    found = Unfinished(tmp_path, "code").settled(2)
    assert found is not None
    assert (found[0], found[1]["a"].tolist(), found[2]) == (1, [1.0, 1.0], {"samples": 3})
    assert len(list((tmp_path / "unfinished").glob("*.safetensors"))) == 1
    assert Unfinished(tmp_path, "other code").settled(2) is None


def test_a_method_that_is_through_is_only_prepared() -> None:
    source = Uniform(first_seed=10**9, count=2, batch_size=2, steps=2)
    told: list[str] = []

    class Noted(Method):
        def prepare(self, model: Any) -> None:
            told.append("prepare")

        def calibrate(self, model: Any, calls: Any) -> None:
            told.append("calibrate")

    model = tiny.unconditional_model()
    state = {key: value.clone() for key, value in model.denoiser.state_dict().items()}
    calls: Callable[[Any], Any] = lambda m: LazyCalls(source, m, tiny.DDIM)  # noqa: E731
    compress(model, model, {"a": Noted(), "b": Noted()}, calls, lambda *_: None, settled=(0, state))
    assert told == ["prepare", "prepare", "calibrate"]
