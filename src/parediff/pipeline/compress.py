"""The lifecycle of methods: prepare, calibrate, train, finalize; and a compressed model saved and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from parediff.errors import RequestError
from parediff.methods.base import Method
from parediff.models.diffusion.door import Call
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.weights import load_weights

STATE = Path("model") / "denoiser.safetensors"
"""Where a run keeps its compressed model, below its folder."""

CallsOf = Callable[[DiffusionModel], Iterable[Call]]
Fit = Callable[[str, Any], None]


def compress(
    student: DiffusionModel, teacher: DiffusionModel, methods: Mapping[str, Method], calls_of: CallsOf, fit: Fit
) -> dict[str, Tensor]:
    """Make `student` cheaper, in place. The state_dict before `finalize`, from which `restore` rebuilds it.

    Every method prepares before the first one calibrates, so that calls are recorded from the model as it will run.
    """
    for method in methods.values():
        method.prepare(student)
    for name, method in methods.items():
        method.calibrate(student, calls_of(student))
        module = method.training(student, teacher)
        if module is not None:
            fit(name, module)
    state = {key: value.detach().clone() for key, value in student.denoiser.state_dict().items()}
    _finish(student, methods)
    return state


def restore(student: DiffusionModel, methods: Mapping[str, Method], state: Mapping[str, Tensor]) -> None:
    """Rebuild a compressed model from an uncompressed one and a saved state."""
    for method in methods.values():
        method.prepare(student)
    missing, unexpected = student.denoiser.load_state_dict(state, strict=False)
    if missing or unexpected:
        example = (missing + unexpected)[0]
        raise RequestError(
            "checkpoint",
            example,
            f"{len(missing)} tensors missing, {len(unexpected)} unknown; "
            "a checkpoint of the same model and methods is accepted",
        )
    _finish(student, methods)


def _finish(student: DiffusionModel, methods: Mapping[str, Method]) -> None:
    for method in methods.values():
        method.finalize(student)
    student.denoiser.eval().requires_grad_(False)


def save(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Write the state atomically below a run's folder; the path of the safetensors file."""
    path = folder / STATE
    temporary = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().cpu() for key, value in state.items()}, temporary)
    temporary.replace(path)
    return path


def load_state(path: Path) -> dict[str, Tensor]:
    """The state that `save` wrote."""
    return load_weights(path)
