"""Which scheduler samples which model, and with whose settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

import pipelines
from parediff.errors import RequestError
from parediff.models.diffusion.families import accepted_samplers
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.sampler import Sampler
from parediff.resources import shipped

SAMPLERS = sorted(path.stem for path in (shipped("conf") / "sampler").glob("*.yaml"))


def sampler(name: str, **changes: Any) -> Sampler:
    node = yaml.safe_load((shipped("conf") / "sampler" / f"{name}.yaml").read_text())
    node.pop("_target_")
    return Sampler(**(node | {"steps": 4} | changes))


def scheduler_of(name: str) -> tuple[type, Any]:
    own = pipelines.built(name).scheduler
    return type(own), own.config


def test_a_pipeline_samples_with_its_own_scheduler_and_settings() -> None:
    for name in ("sdxl", "flux", "sana", "stable_cascade", "cogvideox"):
        own = pipelines.built(name).scheduler
        fresh = sampler("own").scheduler_for(pipelines.built(name))
        assert fresh is not own
        assert type(fresh) is type(own)
        assert dict(fresh.config) == dict(own.config)


def test_each_family_has_its_samplers() -> None:
    flow = ["flow_dpmpp", "flow_euler", "flow_heun", "flow_unipc", "own"]
    assert accepted_samplers(*scheduler_of("sd3")) == flow
    assert accepted_samplers(*scheduler_of("flux")) == [name for name in flow if name != "flow_heun"]
    diffusion = accepted_samplers(*scheduler_of("sd1"))
    assert {"ddim", "dpmpp_2m", "own"} <= set(diffusion)
    assert not {"flow_euler", "flow_dpmpp"} & set(diffusion)
    assert accepted_samplers(*scheduler_of("stable_cascade")) == ["own"]
    assert accepted_samplers(*scheduler_of("cogvideox")) == ["own"]
    assert set(flow) | {"dpmpp_2m", "unipc"} == set(accepted_samplers(*scheduler_of("sana")))


@pytest.mark.parametrize("name", ["sd1", "flux", "sana", "stable_cascade", "cogvideox"])
def test_a_scheduler_of_another_family_is_refused_with_the_accepted_names(name: str) -> None:
    accepted = accepted_samplers(*scheduler_of(name))
    for other in set(SAMPLERS) - set(accepted):
        with pytest.raises(RequestError, match=", ".join(accepted)) as told:
            sampler(other).scheduler_for(pipelines.built(name))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["sd3", "flux", "z_image", "lumina2"])
def test_every_flow_sampler_draws_from_a_flow_model(name: str) -> None:
    model, prompts = pipelines.model(name), pipelines.conditions(name, 1)
    drawn = {other: model.generate([3], prompts, sampler(other)) for other in accepted_samplers(*scheduler_of(name))}
    assert torch.equal(drawn.pop("own"), drawn["flow_euler"])
    for image in drawn.values():
        assert torch.isfinite(image).all()
    assert not torch.equal(drawn["flow_euler"], drawn["flow_dpmpp"])


def test_flow_solvers_agree_where_there_are_many_steps() -> None:
    model, prompts = pipelines.model("sd3"), pipelines.conditions("sd3", 1)
    many = {name: model.generate([3], prompts, sampler(name, steps=100)) for name in ("flow_euler", "flow_dpmpp")}
    few = model.generate([3], prompts, sampler("flow_euler", steps=3))
    assert torch.dist(many["flow_euler"], many["flow_dpmpp"]) < 0.3 * torch.dist(many["flow_euler"], few)


@pytest.mark.parametrize("name", ["ddpm_digits", "unet_cifar10"])
def test_solvers_of_one_order_or_another_draw_the_image_of_many_steps(name: str) -> None:
    """With the grid each takes by itself, from where a cosine schedule has no signal left or just beside it."""
    model = PretrainedPipeline(name, f"assets://{name}").load("cpu")
    classes = [1] if model.conditioning == "class" else None
    wanted = model.generate([3], classes, sampler("ddim", steps=100))
    for other in ("dpmpp_2m", "unipc", "euler", "heun", "pndm"):
        found = model.generate([3], classes, sampler(other, steps=50))
        assert float((found - wanted).square().mean()) < 1e-3, other  # 30 dB


@pytest.mark.parametrize(
    ("name", "predicts", "spacing"),
    [
        ("dpmpp_2m", "epsilon", "leading"),  # the image would be the noise's error over nearly nothing
        ("dpmpp_2m", "v_prediction", "trailing"),
        ("ddim", "epsilon", "trailing"),  # clips
        ("heun", "v_prediction", "leading"),
    ],
)
def test_a_solver_takes_the_models_grid_where_it_can(name: str, predicts: str, spacing: str) -> None:
    own = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=predicts, timestep_spacing="trailing")
    assert sampler(name).scheduler_for(SimpleNamespace(scheduler=own)).config.timestep_spacing == spacing


def test_a_grid_that_starts_with_some_signal_stays_and_so_does_the_models_own_scheduler() -> None:
    linear = DDPMScheduler(beta_schedule="scaled_linear", beta_end=0.012, timestep_spacing="trailing")
    assert sampler("dpmpp_2m").scheduler_for(SimpleNamespace(scheduler=linear)).config.timestep_spacing == "trailing"
    blind = DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    assert sampler("own").scheduler_for(SimpleNamespace(scheduler=blind)).config.timestep_spacing == "trailing"


def test_the_models_shift_of_noise_levels_stays_under_another_solver() -> None:
    scheduler = sampler("flow_dpmpp").scheduler_for(pipelines.built("sd3"))
    assert scheduler.config.flow_shift == 3.0
    scheduler = sampler("flow_euler").scheduler_for(pipelines.built("sana"))
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.config.shift == 3.0
