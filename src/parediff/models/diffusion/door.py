"""The denoiser's one door: every call passes here, is known by its step, can be wrapped, observed and recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from parediff.models.diffusion.convention import convention_of
from parediff.models.diffusion.time import tell_time

Condition = Mapping[str, Any]
Predict = Callable[[Tensor, Tensor, Condition], Tensor]
Wrapper = Callable[[Predict, Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Call:
    """The exact arguments of one denoiser call: x [B, C, H, W], t [B], every other keyword, and the sampler's step."""

    x: Tensor
    t: Tensor
    cond: Condition
    step: int

    def rows(self, index: Tensor | slice) -> Call:
        """The call for some of its rows; what has no batch dimension stays whole."""
        size = len(self.x)
        cond = {name: rows_of(value, index, size) for name, value in self.cond.items()}
        return Call(rows_of(self.x, index, size), rows_of(self.t, index, size), cond, self.step)


def rows_of(value: Any, index: Tensor | slice, size: int) -> Any:
    """Some rows of what has one for each of `size` samples, in nested dictionaries and lists of tensors too."""
    if isinstance(value, Mapping):
        return {key: rows_of(inner, index, size) for key, inner in value.items()}
    if isinstance(value, Tensor) and value.ndim and len(value) == size:
        return value[index.to(value.device) if isinstance(index, Tensor) else index]
    if isinstance(value, list) and len(value) == size and all(isinstance(entry, Tensor) for entry in value):
        return [value[row] for row in torch.arange(size)[index].tolist()]
    return value


Observer = Callable[[Call, Tensor], None]
Visit = Callable[[int, Sequence[Call]], Sequence[Tensor]]
"""Takes the place of a time step among the sampler's, ascending, and calls of it; the predictions to go on with."""


class Sampled(Protocol):
    """What a model must have to be sampled through the door."""

    pipeline: Any
    name: str
    guidance_scale: float
    options: dict[str, Any]
    wrapper_factories: list[Callable[[Run], Wrapper]]
    observers: list[Observer]
    prompts: Any

    @property
    def denoiser(self) -> nn.Module: ...

    @property
    def config(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def sample_shape(self) -> tuple[int, int, int]: ...

    @property
    def prediction_type(self) -> str: ...

    @property
    def null_class(self) -> int: ...


@dataclass
class Run:
    """What one sampling run knows. It is born with `generate` and nothing of it outlives the run.

    A wrapper finds the network it wraps through `model`, so that the factories of a copied model see the copy.
    `index` counts the scheduler's finished steps, so guidance in two calls, skipped calls and extra calls
    do not shift it. `entered` is whether the denoiser was asked for anything yet;
    `evaluations` counts the calls that reached the network. While `probing`, a call's x is no part of
    the trajectory: a wrapper that remembers something for later calls lets it pass and forgets it.
    """

    scheduler: Any
    seeds: tuple[int, ...]
    generators: list[torch.Generator]
    model: Sampled
    index: int = 0
    entered: bool = False
    evaluations: int = 0
    probing: bool = False

    @property
    def timesteps(self) -> Tensor:
        """The time steps executed, in order; image-to-image starts late, an ensemble's first model ends early."""
        begin = getattr(self.scheduler, "begin_index", None) or 0
        executed = getattr(self.model.pipeline, "_num_timesteps", None)
        return self.scheduler.timesteps[begin:][:executed]

    @property
    def steps(self) -> int:
        """How many scheduler steps this run executes."""
        return len(self.timesteps)

    def advance(self) -> None:
        self.index += 1


@dataclass
class DenoiserOutput(BaseOutput):
    """What diffusers expects of a denoiser."""

    sample: Tensor


def split_arguments(denoiser: nn.Module, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any], bool]:
    """(x, t as [B], every other argument, whether an output object is wanted)."""
    convention = convention_of(denoiser)
    bound = convention.signature.bind(*args, **kwargs).arguments
    bound.update(bound.pop("kwargs", {}))
    return_dict = bound.pop("return_dict", True)
    x = bound.pop(convention.x)
    x = torch.stack(list(x)) if convention.listed else x
    t = torch.as_tensor(bound.pop(convention.t), device=x.device)
    cond = {name: value for name, value in bound.items() if value is not None}
    return x, t.expand(x.shape[0]) if t.ndim == 0 else t, cond, return_dict


def call_network(denoiser: nn.Module, forward: Callable[..., Any], x: Tensor, t: Tensor, cond: Condition) -> Tensor:
    """The raw output of one call."""
    convention = convention_of(denoiser)
    given: Any = list(x.unbind(0)) if convention.listed else x
    tell_time(denoiser, t)
    nothing = dict.fromkeys(convention.required)  # an argument that has no default is handed over also where it is null
    output = forward(**(nothing | {convention.x: given, convention.t: t} | dict(cond)), return_dict=False)[0]
    return torch.stack(list(output)) if convention.listed else output


@contextmanager
def opened(model: Sampled, run: Run) -> Iterator[None]:
    """Route every call of the denoiser through the model's wrappers while a run lasts.

    A `forward` that something else put on the denoiser, as offloading does, stays inside and is put back.
    """
    denoiser = model.denoiser
    hooked = denoiser.__dict__.get("forward")
    if hasattr(hooked, "is_open_door"):
        raise RuntimeError(f"{model.name} is already sampling; one run at a time, or give each run its own copy")
    plain, listed = denoiser.forward, convention_of(denoiser).listed

    def network(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        output = call_network(denoiser, plain, x, t, cond)
        run.evaluations += 1
        for observe in model.observers:
            observe(Call(x, t, cond, run.index), output)
        return output

    predict: Predict = network
    for factory in model.wrapper_factories:
        predict = _wrapped(factory(run), predict)

    def forward(*args: Any, **kwargs: Any) -> Any:
        run.entered = True
        x, t, cond, return_dict = split_arguments(denoiser, args, kwargs)
        output: Any = predict(x, t, cond)
        output = list(output.unbind(0)) if listed else output
        return DenoiserOutput(sample=output) if return_dict else (output,)

    forward.is_open_door = True  # type: ignore[attr-defined]
    denoiser.forward = forward
    try:
        yield
    finally:
        del denoiser.forward
        if hooked is not None:
            denoiser.forward = hooked


def _wrapped(wrapper: Wrapper, inner: Predict) -> Predict:
    return lambda x, t, cond: wrapper(inner, x, t, cond)


class Observed(Protocol):
    """A model that tells of the calls that reach its network."""

    observers: list[Observer]


@contextmanager
def observing(model: Observed, observe: Observer) -> Iterator[None]:
    """`observe(call, output)` after every call that really reaches the network."""
    model.observers.append(observe)
    try:
        yield
    finally:
        model.observers.remove(observe)


@contextmanager
def recording(model: Sampled) -> Iterator[list[Call]]:
    """The calls that reach the network, detached."""
    calls: list[Call] = []

    def keep(call: Call, _: Tensor) -> None:
        calls.append(Call(call.x.detach().clone(), call.t.clone(), dict(call.cond), call.step))

    with observing(model, keep):
        yield calls
