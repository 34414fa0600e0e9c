"""The lifecycle of methods: prepare, calibrate, train, finalize; and a compressed model saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as as_safetensors
from torch import Tensor

from parediff.atomic import write_atomically
from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.weights import load_weights
from parediff.results.record import STATE

CallsOf = Callable[[DiffusionModel], Iterable[Call]]
Fit = Callable[[str, Any], None]
Settle = Callable[[int, Mapping[str, Tensor]], None]
"""Told the state after each method, by its place."""
Settled = tuple[int, Mapping[str, Tensor]]
"""The place of a method, and the state after it."""


def compress(
    student: DiffusionModel,
    teacher: DiffusionModel,
    methods: Mapping[str, Method],
    calls_of: CallsOf,
    fit: Fit,
    settle: Settle = lambda place, state: None,
    settled: Settled | None = None,
) -> dict[str, Tensor]:
    """Make `student` cheaper, in place. The state_dict before `finalize`, from which `restore` rebuilds it.

    Every method prepares before the first one calibrates, so that calls are recorded from the model as it will run.
    `settled` is where an earlier process got to: the methods up to that place are through.
    """
    for method in methods.values():
        method.prepare(student)
    through = -1
    if settled is not None:
        through, state = settled
        _load(student, state)
    for place, (name, method) in enumerate(methods.items()):
        if place <= through:
            continue
        method.calibrate(student, calls_of(student))
        module = method.training(student, teacher)
        if module is not None:
            fit(name, module)
        settle(place, student.denoiser.state_dict())
    state = {key: value.detach().clone() for key, value in student.denoiser.state_dict().items()}
    _finish(student, methods)
    return state


def restore(student: DiffusionModel, methods: Mapping[str, Method], state: Mapping[str, Tensor]) -> None:
    """Rebuild a compressed model from an uncompressed one and a saved state."""
    for method in methods.values():
        method.prepare(student)
    _load(student, state)
    _finish(student, methods)


def _load(student: DiffusionModel, state: Mapping[str, Tensor]) -> None:
    """Every tensor of a prepared model from a state."""
    missing, unexpected = student.denoiser.load_state_dict(state, strict=False)
    if missing or unexpected:
        example = (missing + unexpected)[0]
        raise RequestError(
            "checkpoint",
            example,
            f"{len(missing)} tensors missing, {len(unexpected)} unknown; "
            "a checkpoint of the same model and methods is accepted",
        )


def _finish(student: DiffusionModel, methods: Mapping[str, Method]) -> None:
    for method in methods.values():
        method.finalize(student)
    student.denoiser.eval().requires_grad_(False)


def save(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write the state atomically below a run's folder; the path of the safetensors file."""
    content = {key: value.contiguous().cpu() for key, value in state.items()}
    return write_atomically(folder / STATE, as_safetensors(content))


def load_state(path: Path) -> dict[str, Tensor]:
    """The state that `save` wrote."""
    return load_weights(path)
