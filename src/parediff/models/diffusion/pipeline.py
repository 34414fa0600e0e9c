"""A diffusion model: a pipeline, the part of it that gets compressed, and what its images are conditioned on."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parediff.errors import RequestError
from parediff.models.diffusion import generation
from parediff.models.diffusion.conditioning import keep_labels
from parediff.models.diffusion.door import Call, Condition, Observer, Run, Wrapper, call_network, opened
from parediff.models.diffusion.sampler import Sampler, generators_for, seeded_steps
from parediff.models.diffusion.text import PromptStore


class DiffusionModel:
    """A diffusers pipeline seen from its denoiser. `generate` promises that image i depends on seed i and condition i.

    `wrapper_factories` are what methods put around the denoiser's door: each is called once per sampling run, and
    whatever the wrapper remembers lives in what the factory returned.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str,
        guidance_scale: float | None = 1.0,
        null_class: int | None = None,
        options: Mapping[str, Any] | None = None,
        prompts: PromptStore | None = None,
    ) -> None:
        self.pipeline, self.name = pipeline, name
        self.part = _part(pipeline)
        self.guidance_scale = generation.own_guidance(pipeline) if guidance_scale is None else guidance_scale
        self.options = dict(options or {})
        self.prompts = prompts or PromptStore()
        self.wrapper_factories: list[Callable[[Run], Wrapper]] = []
        self.observers: list[Observer] = []
        self.shared: Callable[..., Iterator[Tensor]] | None = None  # draws batches with other processes
        self.conditioning = generation.conditioning_of(pipeline, self.denoiser)
        self._null_class = null_class
        self.denoiser.eval().requires_grad_(False)
        keep_labels(self.denoiser)

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self.pipeline, self.part)

    @denoiser.setter
    def denoiser(self, module: nn.Module) -> None:
        setattr(self.pipeline, self.part, module)

    @property
    def config(self) -> Any:
        """diffusers' configuration of the denoiser."""
        return self.denoiser.config

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.denoiser.parameters() if p.is_floating_point())

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """C, H, W of what the denoiser sees."""
        size = self.config.get("sample_size")
        if size is None:
            raise RequestError("model", type(self.denoiser).__name__, "a network that says the size of its samples")
        height, width = (size, size) if isinstance(size, int) else size
        return self.config.in_channels, height, width

    @property
    def prediction_type(self) -> str:
        return self.pipeline.scheduler.config.get("prediction_type", "epsilon")

    @property
    def num_classes(self) -> int | None:
        """Classes an image can be asked for; None where there are none."""
        if self.conditioning != "class":
            return None
        count = self.config.get("num_class_embeds") or self.config.get("num_embeds_ada_norm")
        return count if self._null_class is None else min(count, self._null_class)

    @property
    def null_class(self) -> int:
        """The label that means 'no class', for guidance."""
        if self._null_class is None:
            raise RequestError("model.null_class", None, "guidance_scale above 1 needs the label that means 'no class'")
        return self._null_class

    def to(self, device: str | torch.device) -> DiffusionModel:
        self.pipeline.to(device)
        return self

    def copy(self) -> DiffusionModel:
        """A model with a denoiser and wrappers of its own; everything that is not compressed is shared."""
        twin = copy.copy(self)
        twin.pipeline = copy.copy(self.pipeline)
        twin.denoiser = copy.deepcopy(self.denoiser)
        twin.wrapper_factories, twin.observers = copy.deepcopy(self.wrapper_factories), []
        twin.shared = None
        return twin

    def wrap(self, factory: Callable[[Run], Wrapper]) -> None:
        """Put a wrapper around the door; a later one sits outside an earlier one."""
        self.wrapper_factories.append(factory)

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """One call of the network, outside a run and inside no wrapper: the raw output for x [B, C, H, W] and t [B]."""
        return call_network(self.denoiser, self.denoiser, x, t, cond)

    def conditions_for(self, seeds: Sequence[int]) -> tuple[int, ...] | None:
        """Balanced class labels by seed where the model has classes and the workload names none."""
        return None if self.num_classes is None else tuple(seed % self.num_classes for seed in seeds)

    def check_conditions(self, conditions: Sequence[Any] | None) -> None:
        """Raise RequestError where images are conditioned on something else; None of a model with classes means all."""
        if self.conditioning == "text" and conditions is None:
            raise RequestError("workload.conditions", None, f"{self.name} draws from text: prompts are needed")
        if self.conditioning == "none" and conditions is not None:
            raise RequestError("workload.conditions", "given", f"{self.name} takes no conditions")

    def _given(self, seeds: Sequence[int], conditions: Sequence[Any] | None) -> Sequence[Any] | None:
        """The conditions of a run: classes in turn where there are some and none is named."""
        conditions = self.conditions_for(seeds) if conditions is None else conditions
        self.check_conditions(conditions)
        return conditions

    def check_options(self) -> None:
        """Raise RequestError where the pipeline does not take what it is to be handed."""
        generation.check_options_of(self)

    @torch.no_grad()
    def generate(self, seeds: Sequence[int], conditions: Sequence[Any] | None, sampler: Sampler) -> Tensor:
        """Images [B, C, H, W] or videos [B, F, C, H, W] in [0, 1], float32 on the CPU, one a seed and condition."""
        conditions = self._given(seeds, conditions)
        generators = generators_for(seeds)
        with self._sampling(sampler, seeds, generators) as run, self._complaints(run):
            result = generation.images(self, conditions, run.scheduler, generators, sampler.steps)
        return result.detach().float().cpu()

    @torch.no_grad()
    def follow(
        self,
        seeds: Sequence[int],
        conditions: Sequence[Any] | None,
        sampler: Sampler,
        predict: Callable[[Call], Tensor],
    ) -> None:
        """A run up to its last step, in which `predict` answers for the network and everything that is around it.

        The network itself stays free to be called.
        """
        conditions = self._given(seeds, conditions)
        twin = copy.copy(self)
        twin.pipeline = copy.copy(self.pipeline)
        twin.denoiser = copy.copy(self.denoiser)
        twin.wrapper_factories, twin.observers = [lambda run: lambda _, x, t, c: predict(Call(x, t, c, run.index))], []
        generators = generators_for(seeds)
        sampling = twin._sampling(sampler, seeds, generators, leave=True)
        with contextlib.suppress(_Executed), sampling as run, twin._complaints(run):
            generation.images(twin, conditions, run.scheduler, generators, sampler.steps)

    def times(self, sampler: Sampler) -> Tensor:
        """The time steps that the network would be given, ascending, float64: a run in which it is not called."""
        return self._asked(sampler).unique()

    def places(self, sampler: Sampler) -> dict[float, int]:
        """Of every time step, among all ascending ones. Raises RequestError where one is asked for twice."""
        times = self._asked(sampler).tolist()
        if len(set(times)) < len(times):
            accepted = "one call of the network for each time step is accepted, as ddim or dpmpp_2m asks for"
            raise RequestError("sampler", sampler.name, accepted)
        return {t: place for place, t in enumerate(sorted(times))}

    def _asked(self, sampler: Sampler) -> Tensor:
        """The time step of every call of a run, in turn, float64."""
        seen: list[Tensor] = []

        def note(call: Call) -> Tensor:
            seen.append(call.t.detach().double().cpu().unique())
            return self._blank(call.x)

        self.follow((0,), ("",) if self.conditioning == "text" else None, sampler, note)
        return torch.cat(seen)

    def _blank(self, x: Tensor) -> Tensor:
        """Zeros of the shape of the output for x; packed tokens keep their width."""
        if x.ndim < 4:
            return torch.zeros_like(x)
        wide, shape = self.config.get("in_channels"), list(x.shape)
        place = shape.index(wide, 1) if wide in shape[1:] else 1
        network: Any = self.denoiser
        shape[place] = vars(network).get("out_channels") or self.config.get("out_channels") or shape[place]
        return x.new_zeros(shape)

    @contextmanager
    def _complaints(self, run: Run) -> Iterator[None]:
        """What a pipeline refuses before it asks its denoiser for anything is a wrong request."""
        try:
            yield
        except RequestError:
            raise
        except (ValueError, TypeError, AssertionError, AttributeError) as error:
            if run.entered:
                raise
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise RequestError("model.options", self.options, f"{type(self.pipeline).__name__}: {line}") from error

    @contextmanager
    def _sampling(
        self, sampler: Sampler, seeds: Sequence[int], generators: list[torch.Generator], *, leave: bool = False
    ) -> Iterator[Run]:
        """The pipeline with a fresh scheduler and an open door; `leave` ends it after the last step."""
        own = self.pipeline.scheduler
        scheduler = sampler.scheduler_for(self.pipeline)
        run = Run(scheduler, tuple(seeds), generators, self)
        self.pipeline.scheduler = scheduler

        def after() -> None:
            run.advance()
            if leave and run.index >= run.steps:
                raise _Executed

        vars(self.pipeline).pop("_num_timesteps", None)  # what an earlier run executed; this one sets it anew
        try:
            with seeded_steps(scheduler, generators, sampler.eta, after), opened(self, run):
                yield run
        finally:
            self.pipeline.scheduler = own


class _Executed(Exception):
    """Every step was taken: a run that only asks for its time steps is over."""


PARTS = ("unet", "transformer", "prior", "decoder")


def _part(pipeline: Any) -> str:
    found = [part for part in PARTS if isinstance(getattr(pipeline, part, None), nn.Module)]
    if not found:
        raise RequestError(
            "model.path", type(pipeline).__name__, f"a pipeline with one of {', '.join(PARTS)} is accepted"
        )
    second = f"{found[0]}_2"
    if isinstance(getattr(pipeline, second, None), nn.Module):
        raise RequestError("model.path", type(pipeline).__name__, f"one denoiser is accepted; this has a {second} too")
    return found[0]
