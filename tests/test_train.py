"""The train command, from a config to a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DDPMPipeline
from PIL import Image

from parediff.config.compose import Composer
from parediff.errors import RequestError
from parediff.models.classifiers.pretrained import load_classifier
from parediff.pipeline.train import train

SHORT = ["trainer.max_steps=2", "trainer.progress=false", "tracker=none", "trainer.accelerator=cpu"]
SMALL = [
    "model.architecture.unet.sample_size=8",
    "model.architecture.unet.layers_per_block=1",
    "model.architecture.unet.block_out_channels=[8,16,16]",
    "model.architecture.unet.norm_num_groups=4",
]


def run(output: Path, *overrides: str) -> Path:
    return train(Composer("train").compose([*SHORT, f"output={output}", *overrides]))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def test_a_training_writes_a_stock_pipeline_and_its_config(tmp_path: Path) -> None:
    folder = run(tmp_path / "out")
    assert folder == tmp_path / "out" / "model"
    pipeline = DDPMPipeline.from_pretrained(folder)
    assert pipeline.unet.config.sample_size == 8
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["seed"], config["trainer"]["max_steps"], "hydra" in config) == (0, 2, False)


def test_a_run_takes_up_where_its_last_checkpoint_is(tmp_path: Path) -> None:
    every = ["model=classifier_digits", "trainer.checkpoint_every=1"]
    first = load_classifier(run(tmp_path / "out", *every, "trainer.max_steps=1")).linear.weight
    whole = load_classifier(run(tmp_path / "two", *every)).linear.weight
    resumed = load_classifier(run(tmp_path / "out", *every, "ckpt_path=last")).linear.weight
    assert torch.equal(resumed, whole)
    assert not torch.equal(resumed, first)


def test_another_seed_trains_another_network(tmp_path: Path) -> None:
    one = load_classifier(run(tmp_path / "a", "model=classifier_digits")).linear.weight
    two = load_classifier(run(tmp_path / "b", "model=classifier_digits", "seed=1")).linear.weight
    assert not torch.equal(one, two)


def test_any_folder_of_images_trains_any_unet(tmp_path: Path, colours: Path) -> None:
    data = ["data=folder", f"data.path={colours}", "data.workers=0", "data.batch_size=2"]
    conditional = "model.architecture.unet.num_class_embeds=2"
    folder = run(tmp_path / "out", "model=unet", *SMALL, *data, conditional)
    unet = DDPMPipeline.from_pretrained(folder).unet
    assert (unet.config.in_channels, unet.config.num_class_embeds) == (3, 2)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data=folder"], "data.path=null: "),
        (["data=folder", "data.path=/nowhere"], "data.path=/nowhere: no such folder"),
        (["model=unet"], "data=null: images to learn from"),
        (["model=unet", "data=digits"], "model.architecture.unet.in_channels=3: 1, as the images have"),
        (["model.architecture.unet.sample_size=16"], "model.architecture.unet.sample_size=16: 8x8, as the images"),
        (
            ["+model.architecture.unet.num_class_embed=5"],
            "model.architecture.unet.num_class_embed=5: .*num_class_embeds",
        ),
        (["+model.architecture.unet.num_class_embeds=5"], "model.architecture.unet.num_class_embeds=5: at least 10"),
        (["learner.ema_decay=1.5"], "learner.ema_decay=1.5: "),
        (["trainer.max_steps=0"], "trainer.max_steps=0: "),
        (["trainer.max_steps=many"], "trainer.max_steps=many: "),
        (["data.batch_size=0"], "data.batch_size=0: "),
        (["ckpt_path=last"], "ckpt_path=last: no checkpoint"),
        (["trainer=default"], "trainer=: one that says how to learn"),
    ],
)
def test_what_cannot_be_trained_is_said_before_it_starts(tmp_path: Path, overrides: list[str], complaint: str) -> None:
    with pytest.raises(RequestError, match=f"^{complaint}"):
        run(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()
