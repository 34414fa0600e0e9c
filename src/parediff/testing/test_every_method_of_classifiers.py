"""Every method that is for classifiers alone, found by its YAML, keeps the contract. Nothing here names a method."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from parediff.config.catalogue import files
from parediff.config.construct import class_of
from parediff.config.request import Request
from parediff.cost import counting, size_bytes
from parediff.models.classifiers.model import ClassifierModel
from parediff.pipeline.compress import compress, restore
from parediff.testing.smoke import method_request


def _kind(name: str) -> Any:
    """The class of an option; None where it is another one with other choices."""
    target = OmegaConf.select(OmegaConf.load(files("method")[name]), "_target_")
    return None if target is None else class_of(target)


METHODS = sorted(name for name in files("method") if (kind := _kind(name)) is not None and "images" not in kind.serves)
IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Compressed(NamedTuple):
    request: Request
    teacher: ClassifierModel
    before: dict[str, Tensor]
    student: ClassifierModel
    state: dict[str, Tensor]
    answers: Tensor


@pytest.fixture(scope="module", params=METHODS)
def compressed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    """The classifier that ships under one method; one that repairs others' damage gets a quantised one."""
    asked, folder = _request(request.param), tmp_path_factory.mktemp(request.param)
    teacher: Any = asked.model.load("cpu")
    before = {name: value.clone() for name, value in teacher.denoiser.state_dict().items()}
    student = teacher.copy()

    def make(name: str, module: Any, steps: int) -> None:
        dataclasses.replace(asked.trainer, max_steps=steps).fit(module, folder / name)

    def fit(name: str, module: Any) -> None:
        asked.trainer.fit(module, folder / name, data=calibrated.learned_from())

    calibrated = asked.task.calibrated(teacher, make, folder)
    state = compress(student, teacher, asked.methods, calibrated.calls, fit)
    return Compressed(asked, teacher, before, student, state, student.denoiser(IMAGES))


def _request(name: str) -> Request:
    overrides = [
        "model=classifier_digits",
        "calibration=noise",
        "calibration.count=16",
        "trainer.max_steps=2",
        "trainer.progress=false",
        "trainer.checkpoint_every=0",
        "data.batch_size=8",
        "tracker=none",
    ]
    return method_request(name, overrides)


def test_something_changed_and_the_same_images_get_the_same_answers(compressed: Compressed) -> None:
    assert torch.equal(compressed.student.denoiser(IMAGES), compressed.answers)
    assert not torch.equal(compressed.teacher.denoiser(IMAGES), compressed.answers)


def test_answers_do_not_depend_on_the_batch(compressed: Compressed) -> None:
    """In double precision, where no order of summing flips a value between two codes of a grid."""
    twin = compressed.student.copy().denoiser.double()
    alone = torch.cat([twin(image[None].double()) for image in IMAGES])
    torch.testing.assert_close(alone, twin(IMAGES.double()), atol=1e-6, rtol=0)


def test_something_got_cheaper_unless_the_method_repairs(compressed: Compressed) -> None:
    before, after = (_cost(model) for model in (compressed.teacher, compressed.student))
    assert any(new < old for new, old in zip(after, before, strict=True))


def _cost(model: ClassifierModel) -> tuple[float, ...]:
    with counting(model.denoiser) as counter:
        model.denoiser(IMAGES)
    return counter.macs, counter.bops, size_bytes(model.denoiser)


def test_the_compressed_network_is_rebuilt_exactly_from_its_state(compressed: Compressed) -> None:
    rebuilt: Any = compressed.request.model.load("cpu")
    restore(rebuilt, compressed.request.methods, compressed.state)
    assert torch.equal(rebuilt.denoiser(IMAGES), compressed.answers)


def test_a_copy_answers_the_same_and_shares_nothing(compressed: Compressed) -> None:
    twin = compressed.student.copy()
    assert torch.equal(twin.denoiser(IMAGES), compressed.answers)
    own = {p.data_ptr() for p in compressed.student.denoiser.parameters() if p.numel()}
    assert own.isdisjoint(p.data_ptr() for p in twin.denoiser.parameters() if p.numel())


def test_nothing_is_left_behind_and_the_uncompressed_network_is_untouched(compressed: Compressed) -> None:
    network = compressed.student.denoiser
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    after = compressed.teacher.denoiser.state_dict()
    assert after.keys() == compressed.before.keys()
    assert all(torch.equal(value, compressed.before[name]) for name, value in after.items())


def test_hyper_parameters_are_frozen_and_the_proof_is_plain(compressed: Compressed) -> None:
    change: Callable[..., None] = setattr
    for method in compressed.request.methods.values():
        for field in dataclasses.fields(method):
            with pytest.raises(dataclasses.FrozenInstanceError):
                change(method, field.name, None)
        proof = method.fired(compressed.student)  # type: ignore[arg-type]
        assert proof
        json.dumps(proof, allow_nan=False)
