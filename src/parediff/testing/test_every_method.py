"""Every method, found by its YAML, keeps the contract. Nothing here names a method."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from parediff.calibration.base import CallSource, LazyCalls
from parediff.config.catalogue import files
from parediff.config.construct import class_of
from parediff.config.request import Request
from parediff.cost import CallCounter, counting, size_bytes
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import observing
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.models.diffusion.tiny import dit_model, unconditional_model
from parediff.pipeline.compress import compress, save
from parediff.pipeline.saved import SavedRun
from parediff.testing.smoke import method_request


def serves_images(path: Path) -> bool:
    """A method that is another one with other choices names no class of its own."""
    target = OmegaConf.select(OmegaConf.load(path), "_target_")
    return target is None or "images" in class_of(target).serves


METHODS = sorted(name for name, path in files("method").items() if serves_images(path))
SEEDS = (3, 7)


class Compressed(NamedTuple):
    request: Request
    teacher: DiffusionModel
    student: DiffusionModel
    state: dict[str, Tensor]
    images: Tensor


class Plain(NamedTuple):
    images: Tensor
    cost: tuple[float, ...]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tiny random models in diffusers' format: a UNet, and a transformer for methods that refuse it."""
    paths = [tmp_path_factory.mktemp("unet"), tmp_path_factory.mktemp("transformer")]
    for path, model in zip(paths, (unconditional_model(), dit_model()), strict=True):
        model.pipeline.save_pretrained(path)
    return paths


@pytest.fixture(scope="module", params=METHODS)
def compressed(
    request: pytest.FixtureRequest, folders: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Compressed:
    """One method applied to one; a method that repairs others' damage gets a quantised model to repair."""
    folder = _accepted(request.param, folders)
    asked, teacher = _request(request.param, folder), _loaded(folder)
    student = teacher.copy()

    def fit(name: str, module: Any) -> None:
        asked.trainer.fit(module, tmp_path_factory.mktemp(name), data=asked.data())

    def calls_of(model: DiffusionModel) -> LazyCalls:
        assert isinstance(asked.calibration, CallSource)
        return LazyCalls(asked.calibration, model, asked.sampler)

    state = compress(student, teacher, asked.methods, calls_of, fit)
    return Compressed(asked, teacher, student, state, student.generate(SEEDS, None, asked.sampler))


@pytest.fixture(scope="module")
def plain() -> Callable[[Compressed], Plain]:
    """What the uncompressed model draws and costs, once for each way to sample it."""
    known: dict[str, Plain] = {}

    def of(compressed: Compressed) -> Plain:
        teacher, sampler = compressed.teacher, compressed.request.sampler
        key = f"{teacher.name} {sampler}"
        if key not in known:
            known[key] = Plain(teacher.generate(SEEDS, None, sampler), _cost(teacher, sampler))
        return known[key]

    return of


def _accepted(name: str, folders: list[Path]) -> Path:
    """The first model that the method takes; the last one where it refuses all, for its reason to show."""
    for folder in folders[:-1]:
        asked = _request(name, folder)
        with suppress(RequestError):
            student = _loaded(folder).copy()
            for method in asked.methods.values():
                method.prepare(student)
            return folder
    return folders[-1]


@functools.cache
def _loaded(folder: Path) -> DiffusionModel:
    """One teacher for all methods: what one of them did to it, the others would show."""
    return _request(METHODS[0], folder).model.load("cpu")


@functools.cache
def _request(name: str, folder: Path) -> Request:
    overrides = [
        "model=pipeline",
        f"model.path={folder}",
        "data=digits",
        "sampler.steps=4",
        "calibration.count=2",
        "calibration.batch_size=2",
        "reference.steps=4",
        "trainer.max_steps=2",
        "data.batch_size=8",
        "trainer.progress=false",
        "trainer.checkpoint_every=0",
        "tracker=none",
        "metric=[psnr]",
    ]
    return method_request(name, overrides)


def test_the_same_seeds_give_the_same_images_twice(compressed: Compressed) -> None:
    again = compressed.student.generate(SEEDS, None, compressed.request.sampler)
    assert torch.equal(again, compressed.images)


def test_images_do_not_depend_on_the_batch(compressed: Compressed) -> None:
    """Kernels sum in another order, which may flip a value between two codes of a grid; not in double precision."""
    assert _same_alone(compressed.student, compressed) or _same_alone(_in_double(compressed.student), compressed)


def _same_alone(model: DiffusionModel, compressed: Compressed) -> bool:
    student = model is compressed.student
    together = compressed.images if student else model.generate(SEEDS, None, compressed.request.sampler)
    alone = [model.generate([seed], None, compressed.request.sampler)[0] for seed in SEEDS]
    return torch.allclose(torch.stack(alone), together, atol=1e-4)


def _in_double(model: DiffusionModel) -> DiffusionModel:
    twin = model.copy()
    twin.denoiser.double()
    return twin


def test_something_changed(compressed: Compressed, plain: Callable[[Compressed], Plain]) -> None:
    assert not torch.equal(plain(compressed).images, compressed.images)


def test_something_got_cheaper_unless_the_method_repairs(
    compressed: Compressed, plain: Callable[[Compressed], Plain]
) -> None:
    before = plain(compressed).cost
    after = _cost(compressed.student, compressed.request.sampler)
    assert any(new < old for new, old in zip(after, before, strict=True))


def test_a_kept_model_is_rebuilt_exactly_from_its_folder(compressed: Compressed, tmp_path: Path) -> None:
    save(compressed.state, tmp_path)
    OmegaConf.save(OmegaConf.create(dict(compressed.request.config)), tmp_path / "config.yaml")
    rebuilt = SavedRun("kept", str(tmp_path)).load("cpu")
    assert torch.equal(rebuilt.generate(SEEDS, None, compressed.request.sampler), compressed.images)


def test_a_copy_draws_the_same_and_shares_nothing(compressed: Compressed) -> None:
    twin, proof = compressed.student.copy(), proof_of(compressed)
    assert torch.equal(twin.generate(SEEDS, None, compressed.request.sampler), compressed.images)
    assert proof_of(compressed) == proof, "what the copy did is told of the original"
    own = {p.data_ptr() for p in compressed.student.denoiser.parameters() if p.numel()}
    assert own.isdisjoint(p.data_ptr() for p in twin.denoiser.parameters() if p.numel())


def test_nothing_is_left_behind(compressed: Compressed) -> None:
    denoiser = compressed.student.denoiser
    before = _hooks(denoiser)
    compressed.student.generate(SEEDS, None, compressed.request.sampler)
    assert _hooks(denoiser) == before
    assert "forward" not in denoiser.__dict__
    assert not compressed.student.observers
    assert not any(module.training for module in denoiser.modules())
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_the_uncompressed_model_is_untouched(compressed: Compressed) -> None:
    fresh = compressed.request.model.load("cpu").denoiser.state_dict()
    kept = compressed.teacher.denoiser.state_dict()
    assert fresh.keys() == kept.keys()
    assert all(torch.equal(fresh[key], kept[key]) for key in fresh)


def test_hyper_parameters_are_frozen(compressed: Compressed) -> None:
    for method in compressed.request.methods.values():
        assert dataclasses.is_dataclass(method)
        for field in dataclasses.fields(method):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(method, field.name, None)


def test_fired_is_proof_in_plain_values(compressed: Compressed) -> None:
    for method in compressed.request.methods.values():
        proof = method.fired(compressed.student)
        assert proof
        json.dumps(proof, allow_nan=False)


def test_methods_are_classes_of_the_contract(compressed: Compressed) -> None:
    assert all(isinstance(method, Method) for method in compressed.request.methods.values())


def proof_of(compressed: Compressed) -> dict[str, Any]:
    return {name: method.fired(compressed.student) for name, method in compressed.request.methods.items()}


def _hooks(denoiser: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in denoiser.modules())


def _cost(model: DiffusionModel, sampler: Sampler) -> tuple[float, ...]:
    calls = CallCounter()
    with counting(model.denoiser) as counter, observing(model, calls):
        model.generate(SEEDS, None, sampler)
    return counter.macs, counter.bops, calls.per_image(len(SEEDS)), size_bytes(model.denoiser)
