"""Trainings that make calibration data are done once for all runs that ask for the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import datafree
from parediff.cli import main
from parediff.models.classifiers.networks import ConvNet
from parediff.pipeline import syntheses
from parediff.pipeline.syntheses import SECONDS, Syntheses
from parediff.results import record
from parediff.training.distillation import Distillation
from parediff.training.fit import Trainer
from parediff.training.generator import GeneratorTraining
from parediff.training.generator_objectives import Gdfq
from parediff.training.synthesis import ManualTraining


def module(seed: int = 0, net: ConvNet | None = None) -> GeneratorTraining:
    network: Any = datafree.network() if net is None else net
    settings: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-3, "student": None, "student_rate": 0.0}
    objective = Gdfq(latent=8, statistics=0.1, bn_eps=0.8)
    return GeneratorTraining(
        network, objective, datafree.SHAPE, datafree.CLASSES, **settings, warmup=0, cosine=False, seed=seed
    )


class Trained:
    """Trains for two steps, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, asked: GeneratorTraining) -> Callable[[Path], None]:
        def train(folder: Path) -> None:
            self.times += 1
            datafree.trainer(2).fit(asked, folder)

        return train


def test_what_was_trained_is_taken_over_bit_by_bit(tmp_path: Path) -> None:
    train, first, second = Trained(), module(), module()
    start = {name: value.clone() for name, value in first.state_dict().items()}
    one, two = Syntheses(tmp_path, {"a": 1}), Syntheses(tmp_path, {"a": 1})
    one.fit("generator", first, 2, train(first))
    two.fit("generator", second, 2, train(second))
    assert train.times == 1
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in start)
    assert not all(torch.equal(start[name], states[0][name]) for name in start)
    assert one.saved == 0.0
    assert two.saved > 0.0
    assert not list(tmp_path.glob("*/training"))


@pytest.mark.parametrize("changed", ["details", "name", "steps", "seed", "teacher"])
def test_whatever_decides_it_asks_for_a_training_of_its_own(changed: str, tmp_path: Path) -> None:
    train = Trained()
    for now in (False, True):
        details = {"a": int(now and changed == "details")}
        name = "other" if now and changed == "name" else "generator"
        steps = 3 if now and changed == "steps" else 2
        net: Any = datafree.network(int(now and changed == "teacher"))
        asked = module(seed=int(now and changed == "seed"), net=net)
        Syntheses(tmp_path, details).fit(name, asked, steps, train(asked))
    assert train.times == 2


def test_other_code_of_the_training_trains_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, asked = Trained(), [module(), module()]
    plain, seen = syntheses.source_digest, []

    def digest(modules: Iterable[str]) -> str:
        seen.append(list(modules))
        return plain(seen[-1]) + str(len(seen))

    monkeypatch.setattr(syntheses, "source_digest", digest)
    for one in asked:
        Syntheses(tmp_path, {}).fit("generator", one, 2, train(one))
    assert train.times == 2
    assert seen[0] == [f"parediff.training.{name}" for name in ("generator", "synthesis", "synthesis")]


def test_a_training_that_was_cut_off_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    asked = module()

    def cut_off(folder: Path) -> None:
        folder.mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Syntheses(tmp_path, {}).fit("generator", asked, 2, cut_off)
    (kept,) = tmp_path.glob("*/training")
    train, again = Trained(), Syntheses(tmp_path, {})
    again.fit("generator", asked, 2, train(asked))
    assert train.times == 1
    assert again.saved == 0.0
    assert not kept.exists()


def test_a_run_that_goes_on_counts_its_images_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["run", "model=classifier_digits", "calibration=gdfq", "calibration.steps=2", "calibration.batch_size=8"]
    asked += ["calibration.count=8", "method=[ptq,finetune]", "trainer.max_steps=1", "trainer.progress=false"]
    asked += ["workload.count=16", "tracker=none", "cost=[calibration_s,calibration_samples]", f"runs_dir={tmp_path}"]

    def cut_off(self: Distillation, *_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Distillation, "step", cut_off)
        assert main(asked) == 130
    assert main(asked) == 0
    (found,) = record.find([tmp_path]).records
    assert found.calibration["samples"] == found.cost["calibration_samples"] == 8


def test_runs_of_several_widths_share_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    plain = Trainer.fit

    def fit(self: Trainer, learner: Any, *rest: Any, **more: Any) -> None:
        trained.append(type(learner).__name__)
        assert isinstance(learner, ManualTraining)
        plain(self, learner, *rest, **more)

    monkeypatch.setattr(Trainer, "fit", fit)
    fixed = ["model=classifier_digits", "calibration=gdfq", "calibration.steps=2", "calibration.batch_size=8"]
    fixed += ["method=[ptq]", "cost=[calibration_s]", "workload.count=16", "tracker=none", f"runs_dir={tmp_path}"]
    for more in (("calibration.count=8",), ("calibration.count=16", "methods.ptq.weight_bits=4")):
        assert main(["run", *fixed, *more]) == 0
    assert trained == ["GeneratorTraining"]
    first, second = sorted(record.find([tmp_path]).records, key=lambda one: one.calibration["samples"])
    assert (first.calibration["samples"], second.calibration["samples"]) == (8, 16)
    (kept,) = tmp_path.glob(f".syntheses/*/{SECONDS}")
    assert min(first.cost["calibration_s"], second.cost["calibration_s"]) >= json.loads(kept.read_text()) - 1e-3 > 0
