"""The trained models that ship are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDIMPipeline, DDPMPipeline

from parediff.data.digits import split_digits
from parediff.models.classifiers.pretrained import load_classifier
from parediff.resources import shipped

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


@pytest.mark.parametrize("name", ["ddpm_digits", "classifier_digits"])
def test_they_carry_the_config_that_made_them(name: str) -> None:
    """And the command of today asks for the same network, data and training."""
    from parediff.config.compose import Composer
    from parediff.config.schema import checked_training

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
