"""Fine-tuning on made images, and the whole line with them (T5, T6, T22, T33, F9 of the data-free papers)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import datafree
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.data.synthetic import SyntheticImages
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.classifiers.model import ClassifierModel
from parediff.pipeline.attempt import launched
from parediff.results import record as records
from parediff.training.distillation import Distillation, softened_divergence
from parediff.training.generator import GeneratorTraining
from parediff.training.generator_objectives import Gdfq
from parediff.training.ranges import RangeAverage


def averaged(count: int, *, legacy: bool) -> RangeAverage:
    average = RangeAverage(legacy=legacy)
    for _ in range(count):
        average.update(torch.tensor([0.0, 1.0]))
    return average


def test_t5_the_legacy_average_blows_up_and_comes_back() -> None:
    average, found = RangeAverage(legacy=True), []
    for _ in range(200):
        average.update(torch.tensor([0.0, 1.0]))
        found.append(float(average.state[1]))
    assert found[:3] == pytest.approx([1, 5.263, 17.848], rel=1e-3)
    assert max(found) == pytest.approx(3945.1, rel=1e-3)
    assert found.index(max(found)) == 20
    assert found[-1] == pytest.approx(1.0001, rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_t6_the_average_of_a_constant_is_the_constant(count: int) -> None:
    low, high = averaged(count, legacy=False).range()
    assert float(low) == 0
    assert float(high) == pytest.approx(1, abs=1e-6)


def test_a_legacy_average_of_too_few_batches_is_refused() -> None:
    with pytest.raises(RequestError, match="observe_steps=199: at least 200"):
        averaged(199, legacy=True).range()
    assert float(averaged(200, legacy=True).range()[1]) == pytest.approx(1, rel=1e-3)
    with pytest.raises(RequestError, match=r"methods\.finetune\.observe_steps=100: 200 or more"):
        build(composed("method=[ptq,finetune]", "methods.finetune.activation_ranges=legacy", *OBSERVED))


OBSERVED = ("methods.finetune.observe_steps=100",)


def composed(*overrides: str) -> Any:
    return Composer("config").compose(["model=classifier_digits", "tracker=none", *overrides])


def test_t22_the_two_reductions_differ_by_the_number_of_classes() -> None:
    a, b = torch.randn(4, 10), torch.randn(4, 10)
    element, batch = (softened_divergence(a, b, 20.0, kind) for kind in ("element_mean", "batch_mean"))  # type: ignore[arg-type]
    assert float(element * 10) == pytest.approx(float(batch), rel=1e-6)
    assert float(softened_divergence(a, a, 20.0, "batch_mean")) == pytest.approx(0, abs=1e-5)


@pytest.fixture(scope="module")
def four_bits() -> Method:
    overrides = [f"methods.ptq.{key}=4" for key in ("weight_bits", "activation_bits")]
    searches = [f"methods.ptq.{key}_search=minmax" for key in ("weight", "activation")]
    grids = ["methods.ptq.weight_grid=affine", "methods.ptq.ends=same"]
    return build(composed("method=[ptq]", *overrides, *searches, *grids)).methods["ptq"]


def quantised(teacher: Any, method: Method) -> Any:
    student = ClassifierModel(teacher, name="tiny").copy()
    method.prepare(student)  # type: ignore[arg-type]
    torch.manual_seed(3)
    method.calibrate(student, [student.call(datafree.blobs(8))])  # type: ignore[arg-type]
    return student.denoiser


def learner(ranges: str, method: Method, augment: tuple[str, ...] = ()) -> Distillation:
    teacher = datafree.network()
    return Distillation(
        quantised(teacher, method),
        teacher,
        cross_entropy=1.0,
        distillation=1.0,
        temperature=20.0,
        reduction="element_mean",
        learning_rate=1e-2,
        weight_decay=1e-4,
        activation_ranges=ranges,  # type: ignore[arg-type]
        observe_steps=2,
        refit_weights=True,
        augment=augment,
        seed=4,
    )


def images(maker: bool) -> SyntheticImages:
    torch.manual_seed(2)
    pictures, made = datafree.blobs(16), None
    if maker:
        made = GeneratorTraining(
            datafree.network(), Gdfq(8, 0.1, 0.8), datafree.SHAPE, 3, batch_size=8, learning_rate=1e-3, student=None,
            student_rate=0.0, warmup=0, cosine=False, seed=1,
        )  # fmt: skip
    return SyntheticImages(pictures, torch.arange(16) % 3, ["a", "b", "c"], batch_size=8, seed=0, maker=made)


@pytest.mark.parametrize("maker", [False, True])
def test_t33_a_resumed_finetuning_repeats_the_uninterrupted_one(maker: bool, tmp_path: Path, four_bits: Method) -> None:
    whole, resumed = (learner("ema", four_bits, ("flip", "noise")) for _ in range(2))
    before = {name: value.clone() for name, value in whole.teacher.state_dict().items()}
    statistics = {n: v.clone() for n, v in whole.network.state_dict().items() if "running" in n}
    weights = _weights(whole)
    keeping = datafree.trainer(4, checkpoint_every=2, keep_checkpoints=-1)
    keeping.fit(whole, tmp_path, data=images(maker))
    half = tmp_path / "checkpoints" / "step=2.ckpt"
    datafree.trainer(4).fit(resumed, tmp_path / "resumed", data=images(maker), ckpt_path=str(half))
    assert all(torch.equal(before[name], value) for name, value in whole.teacher.state_dict().items())
    assert all(torch.equal(statistics[n], whole.network.state_dict()[n]) for n in statistics)
    assert not torch.equal(weights, _weights(whole))
    ends = zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in ends)
    assert [int(average.updates) for average in whole.ranges] == [2] * len(whole.ranges)
    assert [int(average.updates) for average in resumed.ranges] == [2] * len(resumed.ranges)
    assert datafree.hooks(whole.network) == 0


def test_teacher_and_student_look_at_augmented_images(tmp_path: Path, four_bits: Method) -> None:
    seen: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    module = learner("calibrated", four_bits, ("flip",))
    for name, network in (("teacher", module.teacher), ("student", module.network)):
        network.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].clone()))
    datafree.trainer(1).fit(module, tmp_path, data=images(False))
    own = torch.cat([images(False).train[i][0][None] for i in range(16)])
    (given,) = seen["student"]
    assert torch.equal(given, seen["teacher"][-1])
    plain, mirrored = ((given[:, None] == wanted).flatten(2).all(2).any(1) for wanted in (own, own.flip(-1)))
    assert torch.equal(plain, ~mirrored)
    assert 0 < int(mirrored.sum()) < len(given)


def test_an_unknown_augmentation_is_named() -> None:
    request = composed("method=[ptq,finetune]", "methods.finetune.augment=[flip,fly]")
    with pytest.raises(RequestError, match=r"augment=.*fly.*: some of flip, .*, shift"):
        build(request)


def _weights(module: Distillation) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.network.parameters()])


def test_made_images_are_what_methods_that_train_learn_from(tmp_path: Path) -> None:
    """The whole line: images, sheet, protocol, cost, and the last state reported."""
    outcome = launched(
        composed(
            "calibration=gdfq", "calibration.count=16", "calibration.batch_size=16", "calibration.steps=4",
            "method=[ptq,finetune]", "methods.ptq.weight_bits=4", "trainer.max_steps=3", "trainer.progress=false",
            "trainer.checkpoint_every=0", "cost=[bops,calibration_s,calibration_samples]", f"runs_dir={tmp_path}",
            "workload.count=40",
        )
    )  # fmt: skip
    assert outcome.status == "finished", outcome.error
    assert outcome.path is not None
    record = records.read(outcome.path)
    told = record.calibration
    assert (told["source"], told["protocol"], told["samples"]) == ("gdfq", "finetune", 16)
    assert (outcome.path.parent / told["pictures"]).read_bytes().startswith(b"\x89PNG")
    assert record.cost["calibration_s"] == told["seconds"] > 0
    assert record.cost["calibration_samples"] == 16
    assert record.baseline["cost"]["calibration_s"] == 0
    assert record.fired["finetune"]["reported"] == "last"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=classifier_digits", "calibration=uniform"], r"^calibration=uniform: .*dfakd, .*real_data.*zs_cgan"),
        (["model=ddpm_digits", "calibration=genie"], r"^calibration=genie: .*ndtc, real_data, sensitive, single_step"),
        (["model=ddpm_digits", "method=[ptq,finetune]"], r"^method=finetune: .*this one is for classifiers"),
        *(
            (["model=classifier_digits", f"method=[ptq,{name}]"], rf"^method={name}: .*this one is for denoisers")
            for name in ("ptqd", "tac", "stepwise")
        ),
        (["model=classifier_digits", "calibration=ris", "calibration.pool=[]"], r"^calibration\.pool=\[\]: some of"),
        (["model=classifier_digits", "calibration=gdfq", "calibration.batch_size=1"], r"^calibration\.batch_size=1"),
    ],
)
def test_the_wrong_kind_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        build(Composer("config").compose(["tracker=none", *overrides]))
    assert "\n" not in str(caught.value)


def test_finetuning_without_a_quantising_method_is_refused() -> None:
    with pytest.raises(RequestError, match=r"\[ptq,finetune\]"):
        build(composed("method=[finetune]"))
    method = build(composed("method=[ptq,finetune]")).methods["finetune"]
    with pytest.raises(RequestError, match="method=finetune: a list in which a quantising method comes first"):
        method.prepare(ClassifierModel(datafree.network(), name="tiny"))  # type: ignore[arg-type]
