"""What goes into a pipeline from config, and what is refused before anything is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import KandinskyV22Pipeline, StableDiffusionImg2ImgPipeline, WanPipeline
from safetensors.torch import save_file

import pipelines
from parediff.config.compose import Composer
from parediff.config.request import build
from parediff.errors import RequestError
from parediff.models.diffusion.door import recording
from parediff.models.diffusion.inputs import arguments_of, check_options
from parediff.models.diffusion.load import PretrainedPipeline
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.models.diffusion.sampler import Sampler
from parediff.models.diffusion.text import PromptStore

OWN = Sampler("own", None, 2)


def test_an_option_that_the_pipeline_does_not_take_is_refused_with_the_accepted_names() -> None:
    with pytest.raises(RequestError, match=r"strenght.*takes image, strength.*Did you mean strength"):
        check_options(StableDiffusionImg2ImgPipeline, {"strenght": 0.5})


def test_an_option_that_has_a_home_of_its_own_is_told_its_home() -> None:
    with pytest.raises(RequestError, match=r"sampler\.steps"):
        check_options(WanPipeline, {"num_inference_steps": 3})


def test_what_a_pipeline_cannot_do_without_is_named() -> None:
    with pytest.raises(RequestError, match=r"options\.image_embeds=null"):
        check_options(KandinskyV22Pipeline, {})


def test_pictures_and_tensors_come_from_their_files(tmp_path: Path) -> None:
    pipelines.picture(8).save(tmp_path / "start.png")
    given = arguments_of(StableDiffusionImg2ImgPipeline, {"image": str(tmp_path / "start.png"), "strength": 0.5}, 2)
    assert [image.size for image in given["image"]] == [(8, 8), (8, 8)]
    assert given["strength"] == 0.5
    save_file({"e": torch.arange(4.0)[None]}, tmp_path / "e.safetensors")
    embeds = arguments_of(KandinskyV22Pipeline, {"image_embeds": str(tmp_path / "e.safetensors")}, 3)
    assert torch.equal(embeds["image_embeds"], torch.arange(4.0).expand(3, 4))
    with pytest.raises(RequestError, match="no such file"):
        check_options(StableDiffusionImg2ImgPipeline, {"image": str(tmp_path / "absent.png")})


def test_a_number_of_frames_that_no_latents_make_is_refused_before_sampling() -> None:
    for name in ("wan", "ltx", "cogvideox", "hunyuan_video", "mochi"):
        model = pipelines.model(name)
        model.options["num_frames"] = 8 if name != "mochi" else 9
        with recording(model) as calls, pytest.raises(RequestError, match=r"num_frames.*k \+ 1 is accepted"):
            model.generate([1], pipelines.conditions(name, 1), OWN)
        assert not calls


def test_what_a_pipeline_refuses_itself_is_one_line() -> None:
    model = pipelines.model("flux")
    model.options["max_sequence_length"] = 10_000
    with pytest.raises(RequestError, match=r"FluxPipeline: .max_sequence_length") as told:
        model.generate([1], ["a cat"], OWN)
    assert "\n" not in str(told.value)


def test_a_negative_prompt_is_one_for_all_and_changes_the_image() -> None:
    model = pipelines.model("sd1")
    plain = model.generate([1, 2], ["a cat", "a dog"], OWN)
    model.options["negative_prompt"] = "dull"
    assert not torch.equal(model.generate([1, 2], ["a cat", "a dog"], OWN), plain)


def test_latents_come_out_where_they_are_asked_for() -> None:
    model = pipelines.model("sd1")
    model.options["output_type"] = "latent"
    latents = model.generate([1], ["a cat"], OWN)
    assert latents.shape == (1, 4, 8, 8)


def test_a_guidance_that_nobody_names_is_the_pipelines_own() -> None:
    assert DiffusionModel(pipelines.built("flux"), name="m", guidance_scale=None).guidance_scale == 3.5
    assert DiffusionModel(pipelines.built("ddpm"), name="m", guidance_scale=None).guidance_scale == 1.0


def test_guidance_in_one_batch_in_two_calls_and_distilled() -> None:
    calls_of: dict[str, list[int]] = {}
    for name in ("sd1", "wan", "flux"):
        model = pipelines.model(name)
        with recording(model) as calls:
            model.generate([1], pipelines.conditions(name, 1), OWN)
        calls_of[name] = [len(call.x) for call in calls]
    assert calls_of == {"sd1": [2] * 2, "wan": [1] * 4, "flux": [1] * 2}


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux", "z_image", "qwen_image", "wan"])
def test_prompts_are_encoded_once_in_a_study(name: str, tmp_path: Path) -> None:
    model = pipelines.model(name)
    prompts = pipelines.conditions(name, 2)
    plain = model.generate([1, 2], prompts, OWN)
    stores = [PromptStore(tmp_path, "encoders") for _ in range(2)]
    for store in stores:
        model.prompts = store
        assert torch.equal(model.generate([1, 2], prompts, OWN), plain)
    assert stores[0].hits == 0
    assert stores[1].hits > 0
    model.prompts = PromptStore(tmp_path, "other encoders")
    model.generate([1, 2], prompts, OWN)
    assert model.prompts.hits == 0


def _composed(folder: Path, *overrides: str) -> Any:
    return build(
        Composer("config").compose(
            ["model=pipeline", f"model.path={folder}", "tracker=none", "metric=[psnr]", "method=[]", *overrides]
        )
    )


def test_any_argument_of_the_pipeline_stands_under_options_without_a_plus(tmp_path: Path) -> None:
    folder = pipelines.folder("sd3", tmp_path)
    own = ("sampler=own", "sampler@reference=own")
    request = _composed(folder, *own, "model.options.height=16", "model.options.width=16")
    assert request.model.options == {"height": 16, "width": 16}
    assert request.model.image_shape() == (3, 16, 16)
    with pytest.raises(RequestError, match=r"model\.options\.hieght=16.*Did you mean height"):
        _composed(folder, *own, "model.options.hieght=16")
    with pytest.raises(RequestError, match=r"^sampler=ddim: .*flow_euler"):
        _composed(folder, "sampler=ddim", "sampler@reference=own")
    with pytest.raises(RequestError, match=r"^reference=ddim: .*flow_euler"):
        _composed(folder, "sampler=own", "sampler@reference=ddim")


@pytest.mark.parametrize("name", ["sd3", "wan", "z_image", "stable_cascade"])
def test_a_saved_folder_draws_what_the_pipeline_does(name: str, tmp_path: Path) -> None:
    model, kind = pipelines.model(name), pipelines.KINDS[name]
    source = PretrainedPipeline(
        name, str(pipelines.folder(name, tmp_path)), guidance_scale=kind.guidance, options=kind.options
    )
    prompts = pipelines.conditions(name, 1)
    assert torch.allclose(source.load("cpu").generate([1], prompts, OWN), model.generate([1], prompts, OWN), atol=1e-4)
