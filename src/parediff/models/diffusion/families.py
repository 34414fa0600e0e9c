"""Families of schedulers: which of diffusers' can sample a network that was trained for another of them."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import yaml

from parediff.resources import shipped

FLOW = "flow matching"
DIFFUSION = "a discrete noise schedule"
NO_SIGNAL = 1e-6
"""A share of the image's energy, alpha_bar, from which a predicted noise tells nothing of the image in float32."""


def family_of(kind: Any, config: Mapping[str, Any]) -> str:
    """Flow matching, a discrete noise schedule (alphas from betas), or a family of the scheduler's own.

    The multistep solvers serve both, and follow what their config says the network predicts.
    """
    name, parameters = kind.__name__, _parameters(kind)
    if name.startswith("FlowMatch"):
        return FLOW
    if "use_flow_sigmas" in parameters and config.get("prediction_type") == "flow_prediction":
        return FLOW
    if name.startswith("CogVideoX"):
        return "CogVideoX's noise schedule"
    if name.startswith("EDM"):
        return "continuous noise levels"
    return DIFFUSION if "beta_schedule" in parameters else f"{name}'s noise schedule"


@functools.cache
def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind.__init__).parameters


def settings_for(kind: Any, own: Any) -> dict[str, Any]:
    """The settings of a pipeline's scheduler `own` in the words of another class.

    The shift of flow's noise levels has two names. A grid that starts where no signal is left moves off that end for a
    network that predicts noise and another class that does not clip: the image would be that noise's error, divided by
    nearly nothing (arXiv 2305.08891, section 3.1).
    """
    config, parameters = copy.deepcopy(dict(own.config)), _parameters(kind)
    if kind is not type(own) and "clip_sample" not in parameters and _starts_blind(own):
        config["timestep_spacing"] = "leading"
    for here, there in (("shift", "flow_shift"), ("flow_shift", "shift")):
        if here in config and there in parameters and here not in parameters:
            config[there] = config.pop(here)
    return config


def _starts_blind(own: Any) -> bool:
    """Whether the grid's first step has no signal, of which a network that predicts noise was to tell the image."""
    ends = own.config.get("timestep_spacing") in ("trailing", "linspace")
    signal = getattr(own, "alphas_cumprod", None)
    blind = signal is not None and float(signal[-1]) < NO_SIGNAL
    return ends and blind and own.config.get("prediction_type") == "epsilon"


def accepted_samplers(own: Any, config: Mapping[str, Any]) -> list[str]:
    """Names in conf/sampler of the family of a pipeline's scheduler; `own` is always one."""
    wanted, names = family_of(own, config), []
    for path in sorted((shipped("conf") / "sampler").glob("*.yaml")):
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = own if entry["scheduler"] is None else getattr(diffusers, entry["scheduler"])
        shifted = config.get("use_dynamic_shifting") and kind is not own
        fits = not shifted or "mu" in inspect.signature(kind.set_timesteps).parameters
        if fits and family_of(kind, {**config, **(entry.get("options") or {})}) == wanted:
            names.append(path.stem)
    return names
