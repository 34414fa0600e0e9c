"""The caches that diffusers ships, as methods: the same door, the same count of what was executed, the same front."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from parediff.methods.base import Method
from parediff.models.diffusion.attention import attentions
from parediff.models.diffusion.door import Call, Condition, Run
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.rivals import Count, check_settings, context_of, fields_of, hooked
from parediff.models.weights import DTYPES
from parediff.reuse.hooks import Cache, current_timestep, guidance_settings, install_cache, installed_cache
from parediff.reuse.replacements import Patch, standing_in
from parediff.validation import Range

RATIOS = "magnitude_ratios"


class Ratios(nn.Module):
    """[steps] how the magnitude of what all blocks add changes from one step to the next; 1, until it was measured."""

    ratios: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("ratios", torch.ones(steps))


@dataclass(frozen=True)
class DiffusersCache(Method):
    """`config` names diffusers' configuration of a cache, `settings` are its fields.

    What a cache must be told about a run, its steps, its current time and how it is guided, it is told. Caches that
    need the magnitudes of a model's residuals (MagCache) measure them on the calibration's calls, at `steps` steps.
    """

    family: ClassVar[Literal["", "quantisation", "feature reuse"]] = "feature reuse"

    name: Annotated[str, "of the method"]
    config: Annotated[str, "diffusers' class of settings"]
    steps: Annotated[int, Range(1, 10_000)]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self.config, self.settings)

    def prepare(self, model: DiffusionModel) -> None:
        trial = dict(self._settings(model.denoiser)) | (
            {"current_timestep_callback": lambda: 0} if self._timed() else {}
        )
        if self._needs_ratios():
            model.denoiser.add_module(RATIOS, Ratios(self.steps).to(model.device))
            trial |= {"mag_ratios": torch.ones(self.steps), "num_inference_steps": self.steps}
        install_cache(model, Cache(self.name, self.config, self._told), trial)

    def calibrate(self, model: DiffusionModel, calls: Iterable[Call]) -> None:
        if self._needs_ratios():
            model.denoiser.get_submodule(RATIOS).ratios.copy_(self._measured(model, calls))  # type: ignore[operator]

    def finalize(self, model: DiffusionModel) -> None:
        installed_cache(model, self.name).count.reset()

    def fired(self, model: DiffusionModel) -> dict[str, Any]:
        count = installed_cache(model, self.name).count
        proof = {"hooked_calls": count.asked, "computed": count.computed, "skipped": count.asked - count.computed}
        share = 1 - count.computed / count.asked if count.asked else 0.0
        return proof | {"skipped_share": share}

    def _needs_ratios(self) -> bool:
        return "mag_ratios" in fields_of(self.config)

    def _timed(self) -> bool:
        return "current_timestep_callback" in fields_of(self.config)

    def _settings(self, denoiser: nn.Module) -> dict[str, Any]:
        """The settings as diffusers wants them: types for their names, and attention where no module is named."""
        settings = {
            name: DTYPES.get(value, value) if isinstance(value, str) else value for name, value in self.settings.items()
        }
        if "cache_identifiers" in settings and settings["cache_identifiers"] is None:
            settings["cache_identifiers"] = [re.escape(path) for path in attentions(denoiser)]
        return settings

    def _told(self, run: Run, x: Tensor, cond: Condition) -> Mapping[str, Any]:
        settings = self._settings(run.model.denoiser)
        if self._timed():
            settings["current_timestep_callback"] = current_timestep(run)
        if "is_guidance_distilled" in fields_of(self.config):
            settings = guidance_settings(run, x, cond) | settings
        if self._needs_ratios():
            ratios: Any = run.model.denoiser.get_submodule(RATIOS).ratios
            settings |= {"mag_ratios": ratios.cpu(), "num_inference_steps": run.steps}
        return settings

    def _measured(self, model: DiffusionModel, calls: Iterable[Call]) -> Tensor:
        """Mean over streams of the ratio of neighbouring steps; over a gap the ratio is spread evenly."""
        sums, counts = torch.zeros(self.steps), torch.zeros(self.steps)
        streams: dict[int, tuple[Any, int]] = {}
        last, place = -1, 0
        for call in calls:
            streams = {} if call.step < last else streams
            place = place + 1 if call.step == last else 0
            last = call.step
            stream, before = streams.get(place, (None, call.step))
            stream = stream or self._watching(model)
            ratio = self._ratio(model, stream, call)
            for step in range(before + 1, min(call.step, self.steps - 1) + 1):
                sums[step] += ratio ** (1 / (call.step - before))
                counts[step] += 1
            streams[place] = (stream, call.step)
        return torch.where(counts > 0, sums / counts.clamp(min=1), torch.ones(self.steps))

    def _watching(self, model: DiffusionModel) -> Any:
        settings = {"calibrate": True, "num_inference_steps": 2**31}
        return hooked(model.denoiser, self.config, settings, Count(), type(model.denoiser).forward)

    def _ratio(self, model: DiffusionModel, stream: Any, call: Call) -> float:
        stream.at(context_of("calibration", call.step, self.steps))
        changes = [Patch(module, "forward", forward) for module, forward in stream.forwards]
        with torch.no_grad(), standing_in(changes):
            model.predict(call.x, call.t, call.cond)
        return float(stream.state().calibration_ratios[-1])
