"""The trained models that ship are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDIMPipeline, DDPMPipeline

from parediff.config.compose import Composer
from parediff.config.request import construct
from parediff.config.schema import checked_training
from parediff.data.digits import split_digits
from parediff.models.classifiers.pretrained import load_classifier
from parediff.models.diffusion.pipeline import DiffusionModel
from parediff.resources import shipped
from tiny import DDIM

CIFAR = ("unet_cifar10", "dit_cifar10")
ASSETS = Path(__file__).parents[1] / "src" / "parediff" / "assets"


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_classifier_knows_held_out_digits() -> None:
    network = load_classifier("assets://classifier_digits")
    images, labels = split_digits(0.2, 0)[1]
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).double().mean()
    assert right >= 0.98
    assert network.features(images[:2]).shape == (2, 32)


def test_the_ddpm_is_small_and_has_attention() -> None:
    pipeline = DDPMPipeline.from_pretrained(ASSETS / "ddpm_digits")
    assert sum(p.numel() for p in pipeline.unet.parameters()) == 701_345
    assert sum(type(module).__name__ == "Attention" for module in pipeline.unet.modules()) == 4
    assert size(ASSETS / "ddpm_digits") <= 4_000_000


@pytest.mark.parametrize("kind", [DDPMPipeline, DDIMPipeline])
def test_stock_diffusers_draws_digits_with_it(kind: type) -> None:
    """Two of three drawn digits are recognised with more than 90 % confidence; noise is not."""
    pipeline = kind.from_pretrained(ASSETS / "ddpm_digits")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(batch_size=30, num_inference_steps=20, generator=generator, output_type="np").images
    assert images.shape == (30, 8, 8, 1)
    network = load_classifier("assets://classifier_digits")
    drawn = torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2 - 1
    with torch.no_grad():
        sure = network(drawn).softmax(1).amax(1) > 0.9
        told = network(drawn).argmax(1)
    assert sure.double().mean() > 2 / 3
    assert len(set(told.tolist())) >= 7


def loaded(name: str) -> DiffusionModel:
    config = Composer("config").compose([f"model={name}"])
    return construct(config.model, "model", without=("architecture",)).load("cpu")


@pytest.mark.parametrize("name", CIFAR)
def test_the_cifar_models_draw_every_class_and_guidance_moves_them(name: str) -> None:
    model = loaded(name)
    one, other, again = (model.generate([0, 1], [label, label], DDIM) for label in (0, 7, 0))
    assert one.shape == (2, 3, 32, 32)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    twin = model.copy()
    twin.guidance_scale = 1.0
    assert not torch.equal(twin.generate([0, 1], [0, 0], DDIM), one)


@pytest.mark.parametrize("name", CIFAR)
def test_the_cifar_models_know_noise_from_images(name: str) -> None:
    """At a step that keeps most of the image they take most of the noise out; the mean of all images does not."""
    model = loaded(name)
    images = structured(16)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((16,), 300)
    kept = model.pipeline.scheduler.alphas_cumprod[300]
    noisy = kept.sqrt() * images + (1 - kept).sqrt() * noise
    with torch.no_grad():
        v = model.denoiser(noisy, t, torch.full((16,), 10), return_dict=False)[0][:, :3]
    cleaned = kept.sqrt() * noisy - (1 - kept).sqrt() * v
    assert (cleaned - images).square().mean() < 0.25 * (1 - kept) / kept


def structured(count: int) -> torch.Tensor:
    """Smooth pictures in [-1, 1]: planes of colour that fall off in one direction."""
    generator = torch.Generator().manual_seed(1)
    x = torch.linspace(-1, 1, 32)
    slopes = torch.rand(count, 3, 2, generator=generator) - 0.5
    return slopes[..., 0, None, None] * x[:, None] + slopes[..., 1, None, None] * x


def test_both_cifar_models_are_small() -> None:
    assert sum(size(ASSETS / name) for name in CIFAR) <= 16_000_000


@pytest.mark.parametrize("name", ["ddpm_digits", "classifier_digits", *CIFAR])
def test_they_carry_the_config_that_made_them(name: str) -> None:
    """And the command of today asks for the same network, data and training."""
    made = yaml.safe_load((ASSETS / name / "config.yaml").read_text())
    today = checked_training(Composer("train").compose([f"model={name}"]))
    for key in ("seed", "data"):
        assert made[key] == today[key], key
    assert made["learner"].items() <= today["learner"].items()
    later = {key: today["learner"][key] for key in today["learner"].keys() - made["learner"].keys()}
    neutral = {"schedule": "cosine", "label_dropout": 0.0, "null_class": None}
    assert later.items() <= neutral.items(), "a setting that came later must not change what is learned"
    assert made["model"]["architecture"] == today["model"]["architecture"]
    assert made["trainer"]["max_steps"] == today["trainer"]["max_steps"]


def test_only_safe_formats_ship() -> None:
    shipped_files = [file for file in ASSETS.rglob("*") if file.is_file()]
    assert all(file.name == "LICENSE" for file in shipped_files if not file.suffix)
    assert {file.suffix for file in ASSETS.rglob("*") if file.is_file()} <= {
        ".safetensors",
        ".json",
        ".yaml",
        ".py",
        ".md",
        "",
    }
    assert shipped("conf").is_dir()
